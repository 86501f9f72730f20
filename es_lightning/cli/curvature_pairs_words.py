"""What pairs say of slope and curvature, in words: of the log-likelihood, and of the task's own reward."""

from __future__ import annotations

from math import inf, sqrt

import numpy as np

from es_lightning.analysis.intervals import Estimate, over
from es_lightning.cli.curvature_measured import LIKELIHOOD, REWARD, Measured
from es_lightning.landscape.arrays import Array
from es_lightning.landscape.curvature.budget import agreement, agreement_interval, explained_share
from es_lightning.landscape.curvature.curvature import Curvature, Pairs
from es_lightning.landscape.curvature.truth import Truth, squares_shared

LOW = 1e-3
"""Share of the dimension below which a curvature dimension is called low."""


def of_pairs(measured: Measured, truth: Truth, pairs: Pairs) -> str:
    """What pairs say of the log-likelihood of right answers, beside what autograd knows of it."""
    found = measured.curvature_at(pairs.sigma, LIKELIHOOD)
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


def of_reward_pairs(measured: Measured, pairs: Pairs) -> str:
    """What pairs say of a task's own reward, where autograd has nothing to compare with."""
    noise = measured.noise_of(REWARD)
    found = measured.curvature_at(pairs.sigma, REWARD)
    prompts = pairs.centre.size
    lines = [
        f"## {found.pairs} pairs at sigma {pairs.sigma:g}, the task's own reward",
        f"{_changes(pairs)} {_engine(noise)}",
        f"||g|| = {_root(found.gradient_square)}, from the variance of the odd part. Of a reward in steps "
        "that is more than a slope: answers that flip are in it.",
        _traces(found),
        _offset(measured, pairs),
    ]
    if measured.knows_traces_of(REWARD):
        lines.append(
            f"Signed participation ratio {found.participation} of D = {measured.dimension:,}: "
            f"{_low(found, measured)}"
        )
    if prompts > 1:
        all_prompts = measured.curvature_at(pairs.sigma, REWARD, of_prompts=True)
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


def _offset(measured: Measured, pairs: Pairs) -> str:
    """Say whether the centre has luck, which one sigma cannot tell from curvature."""
    if pairs.offset is None or not measured.knows_traces_of(REWARD):
        return (
            "One sigma cannot tell tr H of a reward in steps, nor its participation ratio, from the luck of "
            "the centre's own answers: measure at two."
        )
    offset = over(pairs.offset, "pairs")
    taken = f"Extrapolated to sigma 0, pairs earn {offset} more than the centre"
    if offset.low <= 0 <= offset.high:
        return f"{taken}: no luck of the centre's is shown. It is taken off tr H."
    return f"{taken}, which has luck, good or bad, with answers that tip at any touch. It is taken off tr H."


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
    if mixed(outermost):
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


def mixed(eigenvalues: Array) -> bool:
    """Whether eigenvalues have both signs."""
    return bool((eigenvalues > 0).any() and (eigenvalues < 0).any())


def _slope(truth: Array, values: Array) -> float:
    return float(truth @ values / (truth @ truth))


def _trust(match: float, factor: float) -> str:
    if match > 0.95 and 0.8 < factor < 1.25:
        return "as the curvature at the centre"
    return "in part: higher orders bend it at this sigma" if match > 0.7 else "not at this sigma"


def of_rewards(measured: Measured, truth: Truth, sigma: float) -> str:
    """What the task's reward of the same members says beside the log-likelihood."""
    dense, reward = (measured.pairs(sigma, name) for name in (LIKELIHOOD, REWARD))
    found = measured.curvature_at(sigma, REWARD)
    changes = [
        np.concatenate([each.plus.mean(axis=1), each.minus.mean(axis=1)]) - each.centre.mean()
        for each in (dense, reward)
    ]
    odd = agreement_interval(dense.slopes.mean(axis=1), reward.slopes.mean(axis=1))
    true = agreement(truth.along, reward.slopes.mean(axis=1))
    even = agreement(dense.bends.mean(axis=1), reward.bends.mean(axis=1))
    ratio = (
        f" Signed participation ratio of the reward itself: {found.participation}."
        if measured.knows_traces_of(REWARD)
        else ""
    )
    return (
        f"## The task's reward on the same members, sigma {sigma:g}\n\n"
        f"{_changes(reward)} Correlation "
        f"of its changes with those of the log-likelihood: {agreement(*changes):.3f} member by member, "
        f"{odd} of "
        f"the odd parts, {even:.3f} of the second differences; of its odd part with the true g . eps: "
        f"{true:.3f}.{_cost(odd)}\n\n"
        f"{_offset(measured, reward)}{ratio}"
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
