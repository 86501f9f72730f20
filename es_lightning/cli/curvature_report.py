"""The report of a measurement of curvature: tables, pictures, and how far each number can be trusted."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from es_lightning.landscape.arrays import Array
from es_lightning.landscape.curvature.budget import (
    SampledHessian,
    agreement,
    budget_rows,
    density_rows,
    spectrum_rows,
)
from es_lightning.landscape.curvature.curvature import Curvature, Pairs, curvature
from es_lightning.landscape.curvature.lanczos import Spectrum
from es_lightning.landscape.curvature.settings import CurvatureSettings
from es_lightning.landscape.curvature.truth import Truth, squares_shared
from es_lightning.landscape.probing.results import ProbeResults
from es_lightning.reports import curvature_picture
from es_lightning.system.files import replacing

log = logging.getLogger(__name__)
Row = dict[str, Any]

LIKELIHOOD, REWARD = "log-likelihood", "reward"
TRUE, SEEDS, CONTROL = "autograd", "common seeds", "permuted rewards"
SYMMETRIC = 0.3
"""Asymmetry from which on products are more noise than Hessian."""
LOW = 1e-3
"""Share of the dimension below which a curvature dimension is called low."""


@dataclass(frozen=True)
class Measured:
    """All that was measured.

    Args:
        model: its name.
        task: its name.
        settings: of the run.
        results: of the pairs: the log-likelihood of each prompt, then the reward of each, if that was asked
            for.
        truth: by autograd.
        sampled: Lanczos on common seeds, under ``seeds`` and ``control``.
    """

    model: str
    task: str
    settings: CurvatureSettings
    results: ProbeResults
    truth: Truth
    sampled: dict[str, SampledHessian]

    def pairs(self, sigma: float, objective: str) -> Pairs:
        """Return the pairs at a sigma under one objective."""
        count = self.settings.prompts
        own = slice(count) if objective == LIKELIHOOD else slice(count, 2 * count)
        rewards = self.results.rewards(sigma)[0][:, own]
        return Pairs(rewards[::2], rewards[1::2], self.results.centre[own], sigma)

    @property
    def objectives(self) -> list[str]:
        """What was measured."""
        return [LIKELIHOOD, REWARD] if self.settings.rewards else [LIKELIHOOD]

    @property
    def dimension(self) -> int:
        """Number D of weights."""
        return int(self.results.header["parameters"])


def write_report(measured: Measured, folder: Path) -> str:
    """Write tables, pictures and the verdict into a folder, and log the verdict.

    Args:
        measured: all that was measured.
        folder: of the run.

    Returns:
        The verdict, plain text.
    """
    truth, title = measured.truth, f"{measured.model}, {measured.task}"
    budgets = [
        row
        for objective in measured.objectives
        for sigma in measured.settings.sigmas
        for row in budget_rows(
            measured.pairs(sigma, objective),
            objective,
            truth.gradient_square if objective == LIKELIHOOD else None,
        )
    ]
    likely = [row for row in budgets if row["objective"] == LIKELIHOOD]
    curvature_picture.budgets(folder / "budget.png", likely, f"Curvature from pairs: {title}", budgets)
    curvature_picture.directions(
        folder / "directions.png", list(_direction_rows(measured)), f"Pair by pair: {title}"
    )
    spectra = _spectra(measured)
    if spectra:
        curvature_picture.spectra(folder / "spectra.png", spectra, f"Eigenvalues of the Hessian: {title}")
    if densities := density_rows(_quadratures(measured)):
        words = f"Density of the Hessian's eigenvalues: {title}"
        curvature_picture.density(folder / "density.png", densities, words)
    text = "\n\n".join([f"# Curvature of {title}", *_verdict(measured)]) + "\n"
    with replacing(folder / "verdict.md") as file:
        file.write(text.encode())
    log.info("%s", text)
    log.info("Tables and pictures are in %s.", folder)
    return text


def _spectra(measured: Measured) -> list[Row]:
    rows = spectrum_rows(TRUE, *measured.truth.top)
    for kind, name in (("seeds", SEEDS), ("control", CONTROL)):
        if kind in measured.sampled:
            krylov = measured.sampled[kind].krylov
            rows += spectrum_rows(name, krylov.ritz[0], krylov.converged)
    return rows


def _quadratures(measured: Measured) -> dict[str, Spectrum]:
    """Return the Ritz values and weights of all that was found by Lanczos steps."""
    krylov = measured.truth.krylov
    found = {} if krylov is None else {TRUE: Spectrum.of([krylov])}
    kinds = (("seeds", SEEDS), ("control", CONTROL))
    return found | {
        name: measured.sampled[kind].quadrature for kind, name in kinds if kind in measured.sampled
    }


def _direction_rows(measured: Measured) -> Iterator[Row]:
    """Per sigma and pair, what was measured along it under each objective, and what autograd says of it."""
    truth = measured.truth
    for sigma in measured.settings.sigmas:
        tables = {name: measured.pairs(sigma, name) for name in measured.objectives}
        for index in range(measured.settings.pairs):
            row: Row = {"sigma": sigma, "pair": index, "true_slope": float(truth.along[index])}
            row["true_bend"] = float(truth.bends[index]) if index < len(truth.bends) else None
            for name, key in ((LIKELIHOOD, "likelihood"), (REWARD, "reward")):
                if name in tables:
                    row[f"{key}_slope"] = float(tables[name].slopes[index].mean())
                    row[f"{key}_bend"] = float(tables[name].bends[index].mean())
            yield row


# The verdict ---------------------------------------------------------------------------------------


def _verdict(measured: Measured) -> Iterator[str]:
    for sigma in measured.settings.sigmas:
        pairs = measured.pairs(sigma, LIKELIHOOD)
        yield _of_pairs(measured, pairs, curvature(pairs))
    yield _of_eigenvalues(measured)
    if "seeds" in measured.sampled:
        yield _of_seeds(measured)
    if measured.settings.rewards:
        for sigma in measured.settings.sigmas:
            yield _of_rewards(measured, sigma)


def _of_pairs(measured: Measured, pairs: Pairs, found: Curvature) -> str:
    truth, count = measured.truth, found.pairs
    ratio = found.odd_ratio(truth.gradient_square)
    slope = agreement(pairs.slopes.mean(axis=1), truth.along)
    smooth = "is" if ratio.low <= 1 <= ratio.high and slope > 0.8 else "is not"
    lines = [
        f"## {count} pairs at sigma {pairs.sigma:g}, log-likelihood of right answers",
        f"Var(odd part) / ||g||^2 = {ratio}; 1 is expected, +- {np.sqrt(2 / count):.2f} by chance. "
        f"||g|| = {np.sqrt(truth.gradient_square):.4g} by autograd. The odd part has correlation "
        f"{slope:.3f} with "
        f"g . eps, pair by pair. At this sigma ES {smooth} the gradient of the objective, smoothed.",
        f"tr H = {found.trace}, tr H^2 = {found.trace_square}. {found.bend_share:.0%} of the variance of "
        f"a member's "
        f"objective is curvature.",
        f"Signed participation ratio {found.participation} of D = {measured.dimension:,}: "
        f"{_low(found, measured)}",
    ]
    if len(truth.bends) >= 3:
        measured_bends = pairs.bends.mean(axis=1)[: len(truth.bends)]
        match, factor = agreement(measured_bends, truth.bends), _slope(truth.bends, measured_bends)
        lines.append(
            f"Along {len(truth.bends)} pairs the second difference has correlation {match:.3f} with the true "
            f"eps^T H eps, and {factor:.2f} times its size. The mean is {measured_bends.mean():.4g}, truly "
            f"{truth.bends.mean():.4g}: the bend of single pairs can be trusted {_trust(match, factor)}."
        )
    return "\n\n".join(lines)


def _low(found: Curvature, measured: Measured) -> str:
    """Say whether few directions share the curvature, which the signed ratio cannot tell of mixed signs."""
    high = found.participation.high
    if not np.isfinite(high):
        return "nothing is left of tr H^2 beside noise, so its dimension is not known."
    outermost, inside = measured.truth.sure
    sure = np.concatenate([outermost, inside])
    if _mixed(outermost):
        shared = squares_shared(outermost, found.trace_square.high, inside)
        most = min(shared[1], measured.dimension)
        what = f"at most {most:.3g} directions share tr H^2 within its interval, whatever their signs"
    elif len(sure):
        most, what = (
            high,
            f"the interval ends at {high:.3g}, and all eigenvalues that are known have one sign",
        )
    else:
        return "it counts directions if all bend the same way, which only eigenvalues can tell."
    share = f"{what}, {most / measured.dimension:.1g} of D"
    if most < LOW * measured.dimension:
        return f"a low curvature dimension is seen: {share}."
    return f"a low curvature dimension is not seen: {share}."


def _mixed(eigenvalues: Array) -> bool:
    return bool((eigenvalues > 0).any() and (eigenvalues < 0).any())


def _slope(truth: Array, values: Array) -> float:
    return float(truth @ values / (truth @ truth))


def _trust(match: float, factor: float) -> str:
    if match > 0.95 and 0.8 < factor < 1.25:
        return "as the curvature at the centre"
    return "in part: higher orders bend it at this sigma" if match > 0.7 else "not at this sigma"


def _of_eigenvalues(measured: Measured) -> str:
    truth = measured.truth
    values = truth.top[0]
    if not len(values):
        return "## Eigenvalues by autograd\n\nNo Lanczos steps were asked for (curvature.hessian)."
    found = curvature(measured.pairs(min(measured.settings.sigmas), LIKELIHOOD))
    sure = values[truth.top[1]]
    share = float((sure**2).sum() / found.trace_square.value) if found.trace_square.value > 0 else np.nan
    listed = ", ".join(f"{value:.4g}" for value in sure[:10])
    return (
        "## Eigenvalues by autograd\n\n"
        f"{len(values)} Lanczos steps on true products: {len(sure)} eigenvalues have converged: {listed}. "
        f"Their squares are {share:.0%} of tr H^2 as the pairs have it at the smallest sigma. "
        f"The operator's asymmetry is {truth.krylov.asymmetry if truth.krylov else 0:.2g}."
        f"{_shared(*truth.sure, found)}"
    )


def _shared(outermost: Array, inside: Array, found: Curvature) -> str:
    """Say how many directions share the squared curvature, where eigenvalues of both signs are known."""
    if not (_mixed(outermost) and np.isfinite(found.trace_square.high)):
        return ""
    square = found.trace_square
    few, many = squares_shared(outermost, square.value, inside)
    least = squares_shared(outermost, square.low, inside)[0]
    most = squares_shared(outermost, square.high, inside)[1]
    return (
        "\n\nEigenvalues have both signs, and cancel in the signed participation ratio. Whatever the signs, "
        f"(tr H^2)^2 / tr H^4 is {few:.3g} to {many:.3g} with this tr H^2, and {least:.3g} to {most:.3g} "
        "within its interval: as many directions share the squared curvature."
    )


def _of_seeds(measured: Measured) -> str:
    own, control = measured.sampled["seeds"], measured.sampled.get("control")
    values, _ = measured.truth.top
    largest = own.krylov.ritz[0][np.abs(own.krylov.ritz[0]).argmax()]
    enough = own.spectrum.size_participation < 0.8 * min(len(own.krylov.projection), own.seeds / 2)
    sure = int(own.krylov.converged.sum())
    works = own.krylov.asymmetry < SYMMETRIC and enough and sure > 0
    lines = [
        f"## Lanczos on the Hessian of ES: {own.seeds} common seeds, {own.evaluations} evaluations",
        f"Asymmetry {own.krylov.asymmetry:.2f} (0 is right). Signed participation ratio "
        f"{own.spectrum.participation:.3g}, {own.participation:.3g} without what {own.seeds} seeds do to it; "
        f"on |lambda| {own.spectrum.size_participation:.3g}, effective rank "
        f"{own.spectrum.effective_rank:.3g}.",
    ]
    if len(values):
        lines.append(
            f"Its largest eigenvalue is {largest:.4g}, the true one {values[0]:.4g}: a ratio of "
            f"{largest / values[0]:.2f}."
        )
    if control is not None:
        lines.append(
            f"With permuted rewards: asymmetry {control.krylov.asymmetry:.2f}, signed participation "
            f"{control.spectrum.participation:.3g}, on |lambda| {control.spectrum.size_participation:.3g}."
        )
    trust = f"the {sure} that have converged are eigenvalues of H as {own.seeds} seeds sample it"
    lines.append(
        f"At this budget {trust if works else 'the spectrum cannot be trusted'}"
        f"{_as_the_control(own, control)}; the pairs took {2 * measured.settings.pairs + 1} evaluations."
    )
    return "\n\n".join(lines)


def _as_the_control(own: SampledHessian, control: SampledHessian | None) -> str:
    """Say so where the participation on sizes is what permuted rewards have as well."""
    if control is None or control.spectrum.size_participation < 0.8 * own.spectrum.size_participation:
        return ""
    return ", and the participation on |lambda| says nothing, since permuted rewards have it as well"


def _of_rewards(measured: Measured, sigma: float) -> str:
    dense, reward = (measured.pairs(sigma, name) for name in (LIKELIHOOD, REWARD))
    found = curvature(reward)
    changes = [
        np.concatenate([each.plus.mean(axis=1), each.minus.mean(axis=1)]) - each.centre.mean()
        for each in (dense, reward)
    ]
    odd = agreement(dense.slopes.mean(axis=1), reward.slopes.mean(axis=1))
    true = agreement(measured.truth.along, reward.slopes.mean(axis=1))
    even = agreement(dense.bends.mean(axis=1), reward.bends.mean(axis=1))
    zeros = float((changes[1] == 0).mean())
    return (
        f"## The task's reward on the same members, sigma {sigma:g}\n\n"
        f"Reward {reward.centre.mean():.4g} at the centre; {zeros:.0%} of the members change nothing. "
        f"Correlation "
        f"of its changes with those of the log-likelihood: {agreement(*changes):.3f} member by member, "
        f"{odd:.3f} of "
        f"the odd parts, {even:.3f} of the second differences; of its odd part with the true g . eps: "
        f"{true:.3f}. "
        f"{odd**2:.0%} of the variance of its odd part is what the log-likelihood explains linearly.\n\n"
        f"Signed participation ratio of the reward itself: {found.participation}."
    )
