"""Best-of-N as a curve over N, with its intervals, the Gaussian null beside it, and N_90 of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from es_lightning.analysis.intervals import Z, batch_error, t_quantile
from es_lightning.errors import UsageError
from es_lightning.landscape.arrays import Array
from es_lightning.landscape.statistics.best_of import (
    SIZES,
    best_of,
    best_of_pairs,
    first_within,
    leave_one_out,
    order_weights,
)
from es_lightning.landscape.statistics.gaussian_null import gaussian_test, null_of
from es_lightning.landscape.statistics.intervals import jackknife_error, resampled

REPLICATES = 300  # of N_90, each of them a whole curve
MOST_UNDEFINED = 0.025  # of the replicates of N_90, so that its interval's ends are known


@dataclass(frozen=True)
class BestCurve:
    """Expected best of N = 1 .. N_max candidates, in units of reward.

    Args:
        best: E max over N candidates, [N_max].
        low: lower end of its 95 % interval, by the jackknife over candidates, [N_max].
        high: upper end, [N_max].
        batch_error: standard error over batches, NaN if there is one, [N_max].
        batches: number of batches S.
        null: the best of N normal changes with the same mean and standard deviation, in the steps of the
            reward, [N_max].
        p_null: p-value of the hypothesis that the changes are normal; None if all changes are the same.
        above: whether the best of N_max is above the null's.
        step: of the grid on which changes and null lie, in units of reward; None without steps that matter.
        n90: least N whose best reaches 0.9 of the best of N_max; None where that is no gain.
        n90_between: its 95 % interval, by the bootstrap of candidates; None where it is not known.
        null_n90: N_90 of the null.
    """

    best: Array
    low: Array
    high: Array
    batch_error: Array
    batches: int
    null: Array
    p_null: float | None
    above: bool
    step: float | None
    n90: int | None
    n90_between: tuple[int, int] | None
    null_n90: int | None

    @property
    def largest(self) -> int:
        """N_max."""
        return len(self.best)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The values of N that tables show: the paper's, and N_max."""
        return tuple(size for size in SIZES if size < self.largest) + (self.largest,)

    @property
    def like_the_null(self) -> bool:
        """Whether nothing tells best-of-N from that of normal changes."""
        return self.p_null is None or self.p_null >= 0.05

    def batch_interval(self) -> tuple[Array, Array]:
        """Return the ends of Student's 95 % interval over batches, [N_max] each; NaN if there is one."""
        half = self.batch_error * (t_quantile(self.batches - 1) if self.batches > 1 else np.nan)
        return self.best - half, self.best + half


def largest_size(candidates: int, pairs: bool, asked: int | None = None) -> int:
    """Return N_max: what was asked for, or 50 as in arXiv 2602.00170, or all where there are fewer.

    Args:
        candidates: M of a batch.
        pairs: whether they are antithetic pairs, of which each sign is taken alone.
        asked: N_max; None leaves it to the number of candidates.

    Raises:
        UsageError: fewer than 2 candidates, or fewer than were asked for.
    """
    independent = candidates // 2 if pairs else candidates
    if independent < 2:
        raise UsageError(
            f"a batch has {independent} independent candidate, and best-of-N needs at least 2: probe with "
            "more candidates."
        )
    if asked is None:
        return min(SIZES[-1], independent)
    order_weights(independent, asked)  # refuses what cannot be
    return asked


def best_curve(changes: Array, largest: int, pairs: bool = False, seed: int = 0) -> BestCurve:
    """Compute best-of-N for N = 1 .. N_max.

    Args:
        changes: [S, M], R - R_0.
        largest: N_max, at most M; of pairs, at most M / 2.
        pairs: whether candidates 2k and 2k + 1 have the same noise with opposite signs.
        seed: seed of the bootstrap and of the null's samples.

    Raises:
        UsageError: fewer independent candidates than N_max.
    """
    sizes = range(1, largest + 1)
    by_batch = best_of_pairs(changes, sizes) if pairs else best_of(changes, sizes)
    best = by_batch.mean(axis=0)
    half = Z * _error(changes, sizes, pairs)
    # Members of one sign alone: those of both depend on one another.
    tested = [size for size in (2, *SIZES) if size < largest] + [largest]
    test = gaussian_test(changes[:, ::2] if pairs else changes, tested, seed)
    normal = null_of(changes)
    null = normal.best_of(sizes)
    return BestCurve(
        best=best,
        low=best - half,
        high=best + half,
        batch_error=batch_error(by_batch),
        batches=len(changes),
        null=null,
        p_null=None if test is None else test.p_value,
        above=bool(best[-1] > null[-1]),
        step=normal.step,
        n90=first_within(best),
        n90_between=_n90_between(changes, best, pairs, seed),
        null_n90=first_within(null),
    )


def _error(changes: Array, sizes: Sequence[int], pairs: bool) -> Array:
    """Jackknife error of the mean over batches, [K]; NaN for an N that leaves no candidate to leave out."""
    count = changes.shape[1] // 2 if pairs else changes.shape[1]
    known = [size for size in sizes if size < count]
    errors = np.full(len(sizes), np.nan)
    if not known:
        return errors
    if pairs:
        without = (leave_one_out(changes[:, ::2], known) + leave_one_out(changes[:, 1::2], known)) / 2
    else:
        without = leave_one_out(changes, known)
    errors[: len(known)] = np.sqrt((jackknife_error(without) ** 2).sum(axis=0)) / len(changes)
    return errors


def _n90_between(changes: Array, best: Array, pairs: bool, seed: int) -> tuple[int, int] | None:
    """Percentiles of N_90 over resampled candidates, whose curves are moved to have the right mean."""
    if best[-1] <= 0:
        return None
    sizes = range(1, len(best) + 1)
    statistic = best_of_pairs if pairs else best_of
    curves = resampled(
        changes,
        lambda sets: np.asarray(statistic(sets, sizes).mean(axis=1)),
        2 if pairs else 1,
        REPLICATES,
        seed,
    )
    found = [first_within(curve) for curve in curves - curves.mean(axis=0) + best]
    known = [number for number in found if number is not None]
    if len(known) < (1 - MOST_UNDEFINED) * len(found):
        return None
    low, high = np.quantile(known, [0.025, 0.975], method="inverted_cdf")
    return int(low), int(high)
