"""How the reward changes over the candidates of one sigma: how many improve, and by how much."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from es_lightning.analysis.intervals import Estimate
from es_lightning.landscape.arrays import Array
from es_lightning.landscape.statistics.intervals import bootstrapped, over_batches, resampled, share

QUANTILES = (0.05, 0.5, 0.95)
SAME = 1e-12
"""A change below this, relative to the largest reward, is rounding: the reward is the same."""


@dataclass(frozen=True)
class ChangeStatistics:
    """The changes R - R_0 of one sigma, in units of reward.

    Args:
        improve: p(improve), the share of candidates with R > R_0; its interval is over candidates.
        improve_batches: the same with the interval over batches.
        zeros: share of the candidates whose reward is exactly the centre's.
        mean: mean change; 1,000 bootstraps of candidates, as in arXiv 2602.00170.
        mean_batches: the same with the interval over batches.
        deviation: standard deviation over candidates.
        quantiles: of the changes, by their level.
    """

    improve: Estimate
    improve_batches: Estimate
    zeros: float
    mean: Estimate
    mean_batches: Estimate
    deviation: float
    quantiles: Mapping[float, Estimate]


def mean_changes(rewards: Array, centre: Array) -> Array:
    """Compute R - R_0 of each candidate, where what is the same is exactly 0.

    The mean of differences of 0 and 1 is exact. Other rewards may round, and an equal sum in another order
    is no change.

    Args:
        rewards: [..., P], of candidates.
        centre: [P].

    Returns:
        float64 [...].
    """
    changes = np.asarray((rewards - centre).mean(axis=-1))
    largest = max(float(np.abs(rewards).max()), float(np.abs(centre).max()))
    return np.where(np.abs(changes) <= SAME * largest, 0.0, changes)


def change_statistics(changes: Array, pairs: bool = False, seed: int = 0) -> ChangeStatistics:
    """Compute the statistics of the changes of one sigma.

    Args:
        changes: [S, M], R - R_0.
        pairs: whether candidates 2k and 2k + 1 have the same noise with opposite signs; they are resampled
            together then.
        seed: seed of the bootstrap.
    """
    unit = 2 if pairs else 1
    improving = (changes > 0).astype(np.float64)
    flat = resampled(changes, lambda sets: _numbers(sets.reshape(len(sets), -1)), unit, seed=seed)
    numbers = _numbers(changes.reshape(1, -1))[0]
    mean, *quantiles = (
        bootstrapped(float(number), column) for number, column in zip(numbers, flat.T, strict=True)
    )
    return ChangeStatistics(
        improve=share(improving, pairs),
        improve_batches=over_batches(improving.mean(axis=1)),
        zeros=float((changes == 0).mean()),
        mean=mean,
        mean_batches=over_batches(changes.mean(axis=1)),
        deviation=float(changes.std(ddof=1)) if changes.size > 1 else 0.0,
        quantiles=dict(zip(QUANTILES, quantiles, strict=True)),
    )


def _numbers(sets: Array) -> Array:
    """Mean and quantiles, [R, S M] to [R, 1 + Q]."""
    return np.column_stack([sets.mean(axis=1), *np.quantile(sets, QUANTILES, axis=1)])
