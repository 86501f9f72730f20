"""The verdict of a measurement of curvature: in words, how far each number can be trusted."""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt

import numpy as np

from es_lightning.cli.curvature_measured import LIKELIHOOD, Measured
from es_lightning.cli.curvature_pairs_words import mixed, of_pairs, of_reward_pairs, of_rewards
from es_lightning.landscape.arrays import Array
from es_lightning.landscape.curvature.budget import (
    SYMMETRIC,
    SampledHessian,
    needed_rows,
)
from es_lightning.landscape.curvature.curvature import Curvature
from es_lightning.landscape.curvature.edge import needed_seeds
from es_lightning.landscape.curvature.lanczos import Spectrum
from es_lightning.landscape.curvature.truth import Truth, squares_shared

LISTED = 10  # eigenvalues in a sentence
LEAST_STEPS = 3  # from one start: with fewer, tr H^4 is not known


def verdict(measured: Measured) -> Iterator[str]:
    """Yield the verdict's sections, Markdown.

    Args:
        measured: all that was measured.
    """
    truth, sigmas = measured.truth, measured.settings.sigmas
    for sigma in sigmas:
        pairs = measured.pairs(sigma, measured.objectives[0])
        yield of_reward_pairs(measured, pairs) if truth is None else of_pairs(measured, truth, pairs)
    if truth is not None:
        yield _of_eigenvalues(measured, truth)
    if len(known_eigenvalues(measured)) and measured.at_largest.trace_square.value > 0:
        yield _of_needed_seeds(measured)
    if "seeds" in measured.sampled:
        yield _of_seeds(measured)
    if measured.sampled or (truth is not None and truth.krylov is not None):
        yield (
            "Lanczos takes one random start: the places of eigenvalues that stand alone are sure, and the "
            "heights in density.png are not."
        )
    if truth is not None and measured.settings.rewards:
        for sigma in sigmas:
            yield of_rewards(measured, truth, sigma)


# Eigenvalues by autograd ---------------------------------------------------------------------------


def known_eigenvalues(measured: Measured) -> Array:
    """Return the eigenvalues that have converged by autograd, in descending order of size, [k]."""
    if measured.truth is None:
        return np.zeros(0)
    values, converged = measured.truth.top
    return np.asarray(values[converged])


def _of_eigenvalues(measured: Measured, truth: Truth) -> str:
    if truth.krylov is None:
        return "## Eigenvalues by autograd\n\nNo Lanczos steps were asked for (curvature.hessian)."
    found = measured.curvature_at(min(measured.settings.sigmas), LIKELIHOOD)
    sure = known_eigenvalues(measured)
    share = float((sure**2).sum() / found.trace_square.value) if found.trace_square.value > 0 else np.nan
    listed = ": " + ", ".join(f"{value:.4g}" for value in sure[:LISTED]) if len(sure) else ""
    return (
        "## Eigenvalues by autograd\n\n"
        f"{len(truth.krylov.projection)} Lanczos steps on true products: {len(sure)} eigenvalues have "
        f"converged{listed}. "
        f"Their squares are {share:.0%} of tr H^2 as the pairs have it at the smallest sigma. "
        f"The operator's asymmetry is {truth.krylov.asymmetry:.2g}."
        f"{_by_quadrature(truth, sure, found)}{_shared(*truth.sure, found)}"
    )


def _by_quadrature(truth: Truth, sure: Array, found: Curvature) -> str:
    """Say what the same steps give for tr H^2, beside the pairs."""
    if truth.krylov is None or len(truth.krylov.projection) < LEAST_STEPS:
        return ""
    spectrum = Spectrum.of([truth.krylov])
    # tr H^4 of one start may be far too small; it is at least that of the eigenvalues that are known.
    error = max(spectrum.trace_square_error, sqrt(2 * float((sure**4).sum())))
    return (
        f"\n\nBy quadrature of the same steps tr H^2 = {spectrum.trace_square:.4g} +- {error:.2g}, one "
        f"standard error of one random start; the pairs have {found.trace_square}."
    )


def _shared(outermost: Array, inside: Array, found: Curvature) -> str:
    """Say how many directions share the squared curvature, where eigenvalues of both signs are known."""
    if not (mixed(outermost) and np.isfinite(found.trace_square.high)):
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


# The Hessian of evolution strategies ---------------------------------------------------------------


def _of_needed_seeds(measured: Measured) -> str:
    values = known_eigenvalues(measured)[:LISTED]
    rows = needed_rows(values, measured.at_largest.trace_square.value)
    listed = "; ".join(
        f"{row['eigenvalue']:.4g}: {row['seeds']} seeds, {row['evaluations_per_step']} evaluations a step"
        for row in rows
    )
    return (
        "## What Lanczos on common seeds takes\n\n"
        "An eigenvalue stands outside the edge of sampling noise on average, and is told within a quarter "
        f"(one standard deviation), from so many common seeds on: {listed}."
    )


def _of_seeds(measured: Measured) -> str:
    own, control = measured.sampled["seeds"], measured.sampled.get("control")
    krylov = own.krylov
    lines = [
        f"## Lanczos on the Hessian of ES: {own.seeds} common seeds, {own.evaluations} evaluations",
        f"Asymmetry {krylov.asymmetry:.2f}: of a Hessian it is 0, of noise in the rewards about 1. Any "
        "number of seeds gives a symmetric operator, so it does not say whether they are enough.",
        _participation(own),
    ]
    if krylov.asymmetry >= SYMMETRIC:
        lines.append("The products are more noise than Hessian, and the spectrum cannot be trusted.")
    elif not krylov.converged.any():
        lines.append("No Ritz value has converged, and the spectrum cannot be trusted: take more steps.")
    else:
        lines += _of_edge(measured, own)
    if control is not None:
        largest = float(np.abs(control.krylov.ritz[0]).max())
        lines.append(
            f"With permuted rewards: asymmetry {control.krylov.asymmetry:.2f}, largest size {largest:.4g}. "
            "They tell a Hessian from noise in the rewards, and nothing of sampling noise."
        )
    lines.append(f"The pairs took {2 * measured.settings.pairs + 1} evaluations.")
    return "\n\n".join(lines)


def _participation(own: SampledHessian) -> str:
    if not own.krylov.exhausted:
        return (
            f"{len(own.krylov.projection)} steps have not found all of its eigenvalues, so they tell no "
            "participation ratio and no rank."
        )
    return (
        f"Signed participation ratio {own.spectrum.participation:.3g}, {own.participation:.3g} without what "
        f"{own.seeds} seeds do to it; on |lambda| {own.spectrum.size_participation:.3g}, effective rank "
        f"{own.spectrum.effective_rank:.3g}."
    )


def _of_edge(measured: Measured, own: SampledHessian) -> list[str]:
    """Say which of the converged Ritz values stand out of sampling noise."""
    values = own.krylov.ritz[0][own.krylov.converged]
    square, noise = measured.at_largest.trace_square, measured.noise()
    if not square.value > 0:
        return ["The pairs find no tr H^2 beside noise, so the noise of the seeds is not known."]
    low, high = noise.edges
    if not np.isfinite(low):
        return [
            "Pairs at one sigma do not tell tr H of a reward in steps, so the noise of the seeds is not "
            "known."
        ]
    seen = {each.value: each for each in noise.seen(values)}
    lines = [
        f"With tr H^2 = {square} from the pairs, sampling noise of {own.seeds} seeds reaches from {low:.4g} "
        f"to {high:.4g} where it is of many eigenvalues well below {sqrt(square.value / own.seeds):.4g}; of "
        "few that are as large, up to half as far again. Ritz values that have converged:"
    ]
    listed = [
        f"- {value:.4g}: outside; corrected for a bias of {seen[value].bias:.4g} it is "
        f"{seen[value].corrected:.4g} +- {seen[value].deviation:.2g}, one standard deviation over seeds"
        if value in seen
        else f"- {value:.4g}: inside, and not to be told from noise"
        for value in values[np.argsort(-np.abs(values))].tolist()
    ]
    lines.append("\n".join(listed))
    sure = int(measured.noise(square.high).outside(values).sum()) if np.isfinite(square.high) else 0
    if seen:
        known = known_eigenvalues(measured)
        beside = f" The largest that autograd knows is {known[0]:.4g}." if len(known) else ""
        lines.append(
            f"At this budget {len(seen)} of {len(values)} are seen as eigenvalues of H, and {sure} if tr H^2 "
            f"is at the upper end of its interval.{beside}"
        )
    else:
        lines.append(f"None of {len(values)} is seen: {own.seeds} seeds are too few.{_wanted(measured, own)}")
    return lines


def _wanted(measured: Measured, own: SampledHessian) -> str:
    """Say how many seeds the largest eigenvalue takes that autograd knows."""
    known = known_eigenvalues(measured)
    if not len(known):
        return ""
    need = needed_seeds(float(known[0]), measured.at_largest.trace_square.value)
    drawn = ", on average: these were an unlucky draw" if need <= own.seeds else ""
    return f" The largest eigenvalue that autograd knows, {known[0]:.4g}, takes {need}{drawn}."
