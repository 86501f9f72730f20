"""95 % intervals: over batches, over candidates (bootstrap, jackknife), and of a share.

Candidates are drawn independently, so they may be resampled. Prompts may not where a best of N is taken:
a resampled set of prompts repeats some of them, the changes spread further, and the largest grows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from es_lightning.analysis.intervals import Estimate, batch_error, over, t_quantile
from es_lightning.landscape.arrays import Array

REPLICATES = 1000
CHUNK = 100  # replicates at once, for memory's sake

Statistic = Callable[[Array], Array]


def over_batches(values: Array) -> Estimate:
    """Estimate the mean over batches with Student's interval.

    Args:
        values: [S], one per batch.
    """
    return over(values, "batches")


def wilson(hits: int, of: int) -> Estimate:
    """Estimate a share with Wilson's interval for independent trials.

    Args:
        hits: how many of them.
        of: how many trials there were, at least 1.
    """
    from scipy.stats import binomtest

    ends = binomtest(hits, of).proportion_ci(0.95, method="wilson")
    return Estimate(hits / of, float(ends.low), float(ends.high), f"Wilson, {of} candidates")


def share(marks: Array, pairs: bool) -> Estimate:
    """Estimate the share of candidates that are marked.

    Args:
        marks: [S, M], 1 or 0; between them where a candidate was looked at several times. Such means vary
            less than marks, for which Wilson's interval is then too wide.
        pairs: whether candidates 2k and 2k + 1 have the same noise with opposite signs. They are not
            independent then, and the interval is Student's over the pairs.
    """
    if not pairs:
        found = wilson(round(float(marks.sum())), marks.size)
        return Estimate(float(marks.mean()), found.low, found.high, found.how)
    of_pairs = marks.reshape(-1, 2).mean(axis=1)
    count = len(of_pairs)
    half = t_quantile(count - 1) * float(batch_error(of_pairs)) if count > 1 else np.nan
    mean = float(of_pairs.mean())
    return Estimate(mean, max(0.0, mean - half), min(1.0, mean + half), f"t over {count} pairs")


def resampled(
    values: Array, statistic: Statistic, unit: int = 1, replicates: int = REPLICATES, seed: int = 0
) -> Array:
    """Compute a statistic of resampled candidates, each batch from its own: the bootstrap.

    Args:
        values: [S, M] or [S, M, ...], candidates along the second axis.
        statistic: from [R, S, M, ...] to [R, ...], for R sets of candidates at once.
        unit: candidates that are drawn together: 2 for antithetic pairs.
        replicates: how many sets are drawn.
        seed: seed of the draws.

    Returns:
        [replicates, ...], one value of the statistic per set.
    """
    return np.concatenate([statistic(part) for part in _sets(values, unit, replicates, seed)])


def _sets(values: Array, unit: int, replicates: int, seed: int) -> Iterator[Array]:
    generator = np.random.default_rng(seed)
    batches, candidates = values.shape[:2]
    units = candidates // unit
    rows = np.arange(batches)[None, :, None]
    for first in range(0, replicates, CHUNK):
        drawn = generator.integers(units, size=(min(CHUNK, replicates - first), batches, units))
        members = (unit * drawn[..., None] + np.arange(unit)).reshape(*drawn.shape[:2], units * unit)
        yield values[rows, members]


def jackknife_error(without: Array) -> Array:
    """Compute the standard error of a statistic from its values without each unit in turn (Tukey, 1958).

    Best-of-N takes this and not the bootstrap: a resampled set repeats some candidates and lacks others,
    so its largest varies too little, by 8 % at N = 50 of 240 and by 40 % at 50 of 64.

    Args:
        without: [..., U], one value per unit that was left out.
    """
    units = without.shape[-1]
    apart = without - without.mean(axis=-1, keepdims=True)
    return np.asarray(np.sqrt((units - 1) / units * (apart**2).sum(axis=-1)))


def bootstrapped(value: float, replicates: Array, what: str = "candidates") -> Estimate:
    """Return a number with the 2.5th and the 97.5th percentile of its replicates.

    Args:
        value: of the candidates themselves.
        replicates: [R].
        what: what was resampled.
    """
    low, high = np.quantile(replicates, [0.025, 0.975])
    return Estimate(value, float(low), float(high), f"bootstrap of {what}")
