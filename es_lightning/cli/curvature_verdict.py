"""The verdict of a measurement of curvature: in words, how far each number can be trusted."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf, sqrt

import numpy as np

from es_lightning.analysis.intervals import Estimate
from es_lightning.cli.curvature_measured import LIKELIHOOD, REWARD, Measured
from es_lightning.landscape.arrays import Array
from es_lightning.landscape.curvature.budget import (
    SYMMETRIC,
    SampledHessian,
    agreement,
    agreement_interval,
    explained_share,
    needed_rows,
)
from es_lightning.landscape.curvature.curvature import Curvature, Pairs, curvature
from es_lightning.landscape.curvature.edge import needed_seeds
from es_lightning.landscape.curvature.lanczos import Spectrum
from es_lightning.landscape.curvature.truth import Truth, squares_shared

LOW = 1e-3
"""Share of the dimension below which a curvature dimension is called low."""
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
        yield _of_reward_pairs(measured, pairs) if truth is None else _of_pairs(measured, truth, pairs)
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
            yield _of_rewards(measured, truth, sigma)


# Pairs ---------------------------------------------------------------------------------------------


def _of_pairs(measured: Measured, truth: Truth, pairs: Pairs) -> str:
    found = curvature(pairs)
    count, ratio = found.pairs, found.odd_ratio(truth.gradient_square)
    slope = agreement(pairs.slopes.mean(axis=1), truth.along)
    smooth = "is" if ratio.low <= 1 <= ratio.high and slope > 0.8 else "is not"
    lines = [
        f"## {count} pairs at sigma {pairs.sigma:g}, log-likelihood of right answers",
        f"Var(odd part) / ||g||^2 = {ratio}; 1 is expected, +- {np.sqrt(2 / count):.2f} by chance. "
        f"||g|| = {np.sqrt(truth.gradient_square):.4g} by autograd. The odd part has correlation "
        f"{slope:.3f} with "
        f"g . eps, pair by pair. At this sigma ES {smooth} the gradient of the objective, smoothed.",
        _traces(found),
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


def _of_reward_pairs(measured: Measured, pairs: Pairs) -> str:
    """What pairs say of a task's own reward, where autograd has nothing to compare with."""
    noise = measured.repeat_variance
    found = measured.curvature_at(pairs.sigma)
    prompts = pairs.centre.size
    lines = [
        f"## {found.pairs} pairs at sigma {pairs.sigma:g}, the task's own reward",
        f"{_changes(pairs)} {_engine(noise)}",
        f"||g|| = {_root(found.gradient_square)}, from the variance of the odd part. Of a reward in steps "
        "that is more than a slope: answers that flip are in it.",
        _traces(found),
        f"Signed participation ratio {found.participation} of D = {measured.dimension:,}: "
        f"{_low(found, measured)}",
    ]
    if prompts > 1:
        all_prompts = measured.curvature_at(pairs.sigma, of_prompts=True)
        lines.append(
            f"All of this is of the mean over these {prompts} prompts. Of all prompts that they are drawn "
            f"from: ||g|| = {_root(all_prompts.gradient_square)}, tr H^2 = {all_prompts.trace_square}."
        )
    return "\n\n".join(lines)


def _engine(noise: float) -> str:
    """Say whether the engine repeats itself, from the variance of one measurement."""
    if not noise:
        return "The engine repeats itself: the centre earned the same before and after."
    return (
        f"The centre measured twice differs, by which one measurement has a standard deviation of "
        f"{sqrt(noise):.2g}; the variance of that is taken off."
    )


def _changes(pairs: Pairs) -> str:
    changes = np.concatenate([pairs.plus.mean(axis=1), pairs.minus.mean(axis=1)]) - pairs.centre.mean()
    return (
        f"Reward {pairs.centre.mean():.4g} at the centre; {(changes == 0).mean():.0%} of the members change "
        "nothing."
    )


def _traces(found: Curvature) -> str:
    return (
        f"tr H = {found.trace}, tr H^2 = {found.trace_square}. {found.bend_share:.0%} of the variance of "
        "a member's objective is curvature."
    )


def _root(square: Estimate) -> str:
    """The square root of an estimate, which may be no more than noise."""
    if not square.value > 0:
        return "no more than noise"
    low, high = (sqrt(max(end, 0.0)) if np.isfinite(end) else end for end in (square.low, square.high))
    return str(Estimate(sqrt(square.value), low, high))


def _low(found: Curvature, measured: Measured) -> str:
    """Say whether few directions share the curvature, which the signed ratio cannot tell of mixed signs."""
    high = found.participation.high
    if not np.isfinite(high):
        return "nothing is left of tr H^2 beside noise, so its dimension is not known."
    nothing = np.zeros(0)
    outermost, inside = (nothing, nothing) if measured.truth is None else measured.truth.sure
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
    found = curvature(measured.pairs(min(measured.settings.sigmas), LIKELIHOOD))
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


# The task's reward beside the log-likelihood -------------------------------------------------------


def _of_rewards(measured: Measured, truth: Truth, sigma: float) -> str:
    dense, reward = (measured.pairs(sigma, name) for name in (LIKELIHOOD, REWARD))
    found = curvature(reward)
    changes = [
        np.concatenate([each.plus.mean(axis=1), each.minus.mean(axis=1)]) - each.centre.mean()
        for each in (dense, reward)
    ]
    odd = agreement_interval(dense.slopes.mean(axis=1), reward.slopes.mean(axis=1))
    true = agreement(truth.along, reward.slopes.mean(axis=1))
    even = agreement(dense.bends.mean(axis=1), reward.bends.mean(axis=1))
    return (
        f"## The task's reward on the same members, sigma {sigma:g}\n\n"
        f"{_changes(reward)} Correlation "
        f"of its changes with those of the log-likelihood: {agreement(*changes):.3f} member by member, "
        f"{odd} of "
        f"the odd parts, {even:.3f} of the second differences; of its odd part with the true g . eps: "
        f"{true:.3f}.{_cost(odd)}\n\n"
        f"Signed participation ratio of the reward itself: {found.participation}."
    )


def _cost(odd: Estimate) -> str:
    """Say what a reward in steps costs, from the correlation of the odd parts."""
    if not np.isfinite(odd.value):
        return ""
    share = explained_share(odd)
    times = [1 / each**2 if each > 0 else inf for each in (odd.value, odd.high, odd.low)]
    said = ["infinitely" if each == inf else f"{each:.3g}" for each in times]
    return (
        f" The log-likelihood explains {share.value:.0%} ({share.low:.0%} to {share.high:.0%}) of the "
        f"variance of the reward's odd part, so the reward takes {said[0]} times as many members ({said[1]} "
        f"to {said[2]}) for the same cosine with the slope of the log-likelihood. A slope that the reward "
        "has beyond that cannot be told from answers that flip."
    )
