"""The held-out gain of the chosen: choose the best of N on half of the prompts, measure it on the other half.

The best of N on the prompts that chose it is too high: with 5 % of 320 answers turned over at random each
way, the best of 30 shows +3.6 points where nothing has improved. On prompts that had no say the chosen
gains what it is worth. All subsets of N candidates are averaged over exactly: candidate m is chosen with
weight w_m (``choice_weights``), so the gain is sum_m w_m(A) x_m(B) with changes x on prompts B.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
import numpy.typing as npt

from es_lightning.errors import UsageError
from es_lightning.landscape.best_of import Array, choice_weights
from es_lightning.landscape.intervals import resampled, t_quantile

SPLITS = 4
REPLICATES = 300  # of the bootstrap, for a standard error alone
SHUFFLES = 999

Halves = tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]


@dataclass(frozen=True)
class HeldOutGain:
    """What a chosen candidate changes on prompts that did not choose it, for K values of N.

    Args:
        sizes: the values of N.
        gain: change of the reward of the chosen, held out, [K].
        low: lower end of its 95 % interval, [K].
        high: upper end, [K].
        seen: change of the same candidates on the half of the prompts that chose them, [K].
        prompt_error: standard error of the gain over prompts, [K].
        candidate_error: standard error over candidates, [K].
        p_choice: how often candidates matched at random between the halves would gain as much, [K]: whether
            the chosen are better than any others.
    """

    sizes: tuple[int, ...]
    gain: Array
    low: Array
    high: Array
    seen: Array
    prompt_error: Array
    candidate_error: Array
    p_choice: Array


def halvings(prompts: int, splits: int = SPLITS, seed: int = 0) -> list[Halves]:
    """Draw ways to divide prompts in halves; with an odd number the second half has one more.

    Args:
        prompts: P, at least 2.
        splits: how many ways.
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
    orders = [generator.permutation(prompts) for _ in range(splits)]
    return [(np.sort(order[: prompts // 2]), np.sort(order[prompts // 2 :])) for order in orders]


def chosen_gain(
    rewards: Array,
    centre: Array,
    sizes: Sequence[int],
    splits: int = SPLITS,
    seed: int = 0,
    unit: int = 1,
) -> HeldOutGain:
    """Measure the held-out gain of the best of N, both ways and over several halvings of the prompts.

    The interval adds two errors, over prompts at fixed choices and over candidates by the bootstrap. Both
    hold the part that is new for each candidate and prompt, which counts twice: like Owen's pigeonhole
    bootstrap (Annals of Applied Statistics 1, 2007) the sum is not too small, if anything too large.

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
    prompts = changes.shape[-1]
    halves = halvings(prompts, splits, seed)
    by_prompt = np.zeros((len(sizes), prompts))
    seen = np.zeros(len(sizes))
    for one, other in halves:
        for chosen_on, measured_on in ((one, other), (other, one)):
            weights = _weights(changes[..., chosen_on].mean(axis=-1), sizes, unit)
            gains = np.einsum("skm,smp->kp", weights, changes) / len(changes)
            by_prompt[:, measured_on] += gains[:, measured_on] / splits
            seen += gains[:, chosen_on].mean(axis=1) / (2 * splits)
    gain = by_prompt.mean(axis=1)
    prompt_error = by_prompt.std(axis=1, ddof=1) / sqrt(prompts)
    # [S, M, 2, splits]: the changes on each half, which the choice and its measurement need alone.
    tables = np.stack(
        [np.stack([changes[..., half].mean(axis=-1) for half in pair], axis=-1) for pair in halves], axis=-1
    )
    replicates = resampled(tables, lambda part: _gains(part, sizes, unit), unit, REPLICATES, seed)
    candidate_error = replicates.std(axis=0, ddof=1)
    half_width = t_quantile(prompts - 1) * np.hypot(prompt_error, candidate_error)
    return HeldOutGain(
        tuple(sizes),
        gain,
        gain - half_width,
        gain + half_width,
        seen,
        prompt_error,
        candidate_error,
        _p_choice(tables[..., 0], sizes, unit, seed),
    )


def _weights(values: Array, sizes: Sequence[int], unit: int) -> Array:
    """How often each candidate is chosen, [..., M] to [..., K, M]; of pairs, the mean over both signs."""
    if unit == 1:
        return choice_weights(values, sizes)
    parts = [choice_weights(values[..., sign::unit], sizes) for sign in range(unit)]
    return np.stack(parts, axis=-1).reshape(*parts[0].shape[:-1], -1) / unit


def _gains(tables: Array, sizes: Sequence[int], unit: int) -> Array:
    """Gain of the chosen, both ways and averaged over batches and splits: [R, S, M, 2, splits] to [R, K]."""
    rows = np.moveaxis(tables, 2, -1)  # [R, S, 2, splits, M]
    weights = _weights(rows, sizes, unit)
    gains = np.einsum("rshjkm,rshjm->rk", weights, rows[:, :, ::-1])
    return np.asarray(gains / np.prod(rows.shape[1:4]))


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
