"""The held-out gain of the chosen: choose the best of N on half of the prompts, measure it on the other half.

The best of N on the prompts that chose it is too high: with 5 % of 320 answers turned over at random each
way, the best of 30 shows +3.6 points where nothing has improved. On prompts that had no say the chosen
gains what it is worth. All subsets of N candidates are averaged over exactly: candidate m is chosen with
weight w_m (``choice_weights``), so the gain is sum_m w_m(A) x_m(B) with changes x on prompts B.

Every change has the centre's own luck on those prompts in it, the same for all candidates
(``centre_offset``). The gain over the mean candidate, sum_m (w_m(A) - 1 / M) x_m(B), is free of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import sqrt

import numpy as np
import numpy.typing as npt

from es_lightning.analysis.intervals import t_quantile
from es_lightning.errors import UsageError
from es_lightning.landscape.arrays import Array
from es_lightning.landscape.statistics.best_of import choice_weights
from es_lightning.landscape.statistics.intervals import resampled

SPLITS = 4
REPLICATES = 300  # of the bootstrap, for a standard error alone
SHUFFLES = 999

Places = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Way:
    """One way round: what is chosen on some prompts, and measured on others.

    Args:
        changes: R - R_0 of each candidate on each prompt, [S, M, P].
        chosen_on: positions of the prompts that choose.
        measured_on: positions of all others.
    """

    changes: Array
    chosen_on: Places
    measured_on: Places

    def means(self) -> Array:
        """Mean changes where the choice is made, and where it is measured, [S, M, 2]."""
        parts = [self.changes[..., places].mean(axis=-1) for places in (self.chosen_on, self.measured_on)]
        return np.stack(parts, axis=-1)


@dataclass(frozen=True)
class HeldOutGain:
    """What a chosen candidate changes on prompts that did not choose it, for K values of N.

    Args:
        sizes: the values of N.
        gain: change of the reward of the chosen, held out, [K].
        low: lower end of its 95 % interval, [K].
        high: upper end, [K].
        over_mean: the gain minus the mean candidate's on the same prompts, free of the centre's luck, [K].
        over_mean_low: lower end of its 95 % interval, [K].
        over_mean_high: upper end, [K].
        seen: change of the same candidates on the half of the prompts that chose them, [K].
        prompt_error: standard error of the gain over prompts, [K].
        candidate_error: standard error over candidates, [K].
        p_choice: how often candidates matched at random between the halves would gain as much, [K]: whether
            the chosen are better than any others. None if that was not tested.
    """

    sizes: tuple[int, ...]
    gain: Array
    low: Array
    high: Array
    over_mean: Array
    over_mean_low: Array
    over_mean_high: Array
    seen: Array
    prompt_error: Array
    candidate_error: Array
    p_choice: Array | None = None


def halvings(prompts: int, splits: int = SPLITS, seed: int = 0) -> list[tuple[Places, Places]]:
    """Draw ways to divide prompts in halves, each in both orders: 2 splits pairs of positions.

    Args:
        prompts: P, at least 2; of an odd number, one half has one more.
        splits: how many divisions.
        seed: seed of the draws.

    Raises:
        UsageError: there is only one prompt.
    """
    if prompts < 2:
        raise UsageError(
            "a held-out gain needs prompts to choose on and others to measure on, and there is only one: "
            "probe with at least 2 prompts."
        )
    generator = np.random.default_rng(seed)
    found = list[tuple[Places, Places]]()
    for _ in range(splits):
        order = generator.permutation(prompts)
        one, other = np.sort(order[: prompts // 2]), np.sort(order[prompts // 2 :])
        found += [(one, other), (other, one)]
    return found


def chosen_gain(
    rewards: Array,
    centre: Array,
    sizes: Sequence[int],
    splits: int = SPLITS,
    seed: int = 0,
    unit: int = 1,
) -> HeldOutGain:
    """Measure the held-out gain of the best of N, both ways and over several halvings of the prompts.

    Args:
        rewards: [S, M, P], of each candidate on each prompt.
        centre: [P], the centre's rewards.
        sizes: values of N, at most M.
        splits: halvings of the prompts.
        seed: seed of the halvings, the bootstrap and the shuffles.
        unit: candidates that share their noise and stand side by side: 2 for antithetic pairs. Then the
            candidates of each sign are chosen from alone.

    Raises:
        UsageError: one prompt alone, or M < N.
    """
    changes = rewards - centre
    ways = [Way(changes, *places) for places in halvings(changes.shape[-1], splits, seed)]
    p_choice = _p_choice(ways[0].means(), sizes, unit, seed)
    return replace(gain_over(ways, sizes, unit, seed), p_choice=p_choice)


def gain_over(ways: Sequence[Way], sizes: Sequence[int], unit: int = 1, seed: int = 0) -> HeldOutGain:
    """Average the held-out gain over several ways, of which two and two are halves of the same prompts.

    The interval adds two errors, over prompts at fixed choices and over candidates by the bootstrap. Both
    hold the part that is new for each candidate and prompt. So it counts twice, and the sum is not too small,
    if anything too large. Resampling candidates and prompts at once would count it three times (A. B. Owen,
    The pigeonhole bootstrap, doi 10.1214/07-AOAS122; ``steps.pair_moments`` derives the factors).

    Args:
        ways: with the same candidates and prompts.
        sizes: values of N, at most M.
        unit: see ``chosen_gain``.
        seed: seed of the bootstrap.

    Raises:
        UsageError: M < N.
    """
    batches, candidates, prompts = ways[0].changes.shape
    by_prompt, mean_by_prompt = np.zeros((len(sizes), prompts)), np.zeros(prompts)
    seen = np.zeros(len(sizes))
    for way in ways:
        weights = _weights(way.means()[..., 0], sizes, unit)
        gains = np.einsum("skm,smp->kp", weights, way.changes) / batches
        by_prompt[:, way.measured_on] += 2 * gains[:, way.measured_on] / len(ways)
        means = way.changes.sum(axis=(0, 1)) / (batches * candidates)
        mean_by_prompt[way.measured_on] += 2 * means[way.measured_on] / len(ways)
        seen += gains[:, way.chosen_on].mean(axis=1) / len(ways)
    both = np.stack([by_prompt, by_prompt - mean_by_prompt])
    tables = np.stack([way.means() for way in ways], axis=-1)
    replicates = resampled(tables, lambda sets: _gains(sets, sizes, unit), unit, REPLICATES, seed)
    prompt_error, candidate_error = both.std(axis=-1, ddof=1) / sqrt(prompts), replicates.std(axis=0, ddof=1)
    value = both.mean(axis=-1)
    half = t_quantile(prompts - 1) * np.hypot(prompt_error, candidate_error)
    low, high = value - half, value + half
    return HeldOutGain(
        sizes=tuple(sizes),
        gain=value[0],
        low=low[0],
        high=high[0],
        over_mean=value[1],
        over_mean_low=low[1],
        over_mean_high=high[1],
        seen=seen,
        prompt_error=prompt_error[0],
        candidate_error=candidate_error[0],
    )


def _weights(values: Array, sizes: Sequence[int], unit: int) -> Array:
    """How often each candidate is chosen, [..., M] to [..., K, M]; of pairs, the mean over both signs."""
    if unit == 1:
        return choice_weights(values, sizes)
    parts = [choice_weights(values[..., sign::unit], sizes) for sign in range(unit)]
    return np.stack(parts, axis=-1).reshape(*parts[0].shape[:-1], -1) / unit


def _gains(tables: Array, sizes: Sequence[int], unit: int) -> Array:
    """Gain of the chosen, averaged over batches and ways: [R, S, M, 2, ways] to [R, 2, K].

    The first is that over the centre, the second that over the mean candidate.
    """
    chosen_on, measured_on = np.moveaxis(tables, (3, 2), (0, -1))  # [R, S, ways, M] each
    weights = _weights(chosen_on, sizes, unit)
    gains = np.einsum("rswkm,rswm->rk", weights, measured_on)
    gains = gains / (chosen_on.shape[1] * chosen_on.shape[2])
    return np.stack([gains, gains - measured_on.mean(axis=(1, 2, 3))[:, None]], axis=1)


def _p_choice(tables: Array, sizes: Sequence[int], unit: int, seed: int) -> Array:
    """Permutation test: does a choice on one half of the prompts tell anything about the other?

    Under the null hypothesis a candidate's change on one half is independent of that on the other, given
    the prompts, so candidates (or pairs) of the halves may be matched in any order within their batch. The
    p-value is exact for any distribution.

    Args:
        tables: [S, M, 2], changes on both halves, of one halving.
        sizes: values of N.
        unit: candidates that are moved together.
        seed: seed of the orders.
    """
    generator = np.random.default_rng(seed)
    one, other = tables[..., 0], tables[..., 1]
    first, second = _weights(one, sizes, unit), _weights(other, sizes, unit)
    batches, candidates = one.shape
    units = candidates // unit
    plain = np.tile(np.arange(units), (1, batches, 1))
    orders = np.concatenate([plain, generator.permuted(np.repeat(plain, SHUFFLES, axis=0), axis=-1)])
    members = (unit * orders[..., None] + np.arange(unit)).reshape(*orders.shape[:2], candidates)
    rows = np.arange(batches)[None, :, None]
    forward = np.einsum("skm,rsm->rk", first, other[rows, members])
    backward = np.einsum("rsmk,sm->rk", np.moveaxis(second, 1, 2)[rows, members], one)
    gains = forward + backward
    least = gains[0] - 1e-12 * np.abs(gains[0])
    return np.asarray((gains >= least).mean(axis=0))
