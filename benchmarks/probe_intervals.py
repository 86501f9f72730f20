"""How often the 95 % intervals of a probe's report cover the truth, where the truth is known.

    python benchmarks/probe_intervals.py            about 20 seconds on one core

Changes are normal with standard deviation 1, or those of a quadratic; docs/landscape/probe_report.md has the
table.
"""

import logging
import sys
from collections.abc import Iterator

import numpy as np

from es_lightning.analysis.intervals import Z
from es_lightning.landscape.statistics.best_curve import best_curve
from es_lightning.landscape.statistics.best_of import Array, best_of, leave_one_out
from es_lightning.landscape.statistics.even_part import effective_dimension
from es_lightning.landscape.statistics.gaussian_null import expected_largest, gaussian_n90
from es_lightning.landscape.statistics.intervals import jackknife_error, resampled

SIZES = (5, 30, 50)
RUNS, N90_RUNS = 500, 100

log = logging.getLogger("probe_intervals")


def normal(runs: int, batches: int, candidates: int, mean: float = 0.0) -> Iterator[Array]:
    """Yield changes [S, M] of several probes."""
    for seed in range(runs):
        yield mean + np.random.default_rng(seed).standard_normal((batches, candidates))


def best_of_n(batches: int, candidates: int) -> None:
    """Log the coverage of best-of-N, by the jackknife and by the bootstrap of candidates."""
    truth = expected_largest(SIZES)
    hits = np.zeros((2, len(SIZES)))
    for changes in normal(RUNS, batches, candidates):
        apart = np.abs(best_of(changes, SIZES).mean(axis=0) - truth)
        without = jackknife_error(leave_one_out(changes, SIZES))
        again = resampled(changes, lambda sets: best_of(sets, SIZES).mean(axis=1), replicates=200)
        hits[0] += apart <= Z * np.sqrt((without**2).sum(axis=0)) / batches
        hits[1] += apart <= Z * again.std(axis=0)
    for name, row in zip(("jackknife", "bootstrap"), hits / RUNS, strict=True):
        log.info("S = %d, M = %d, best of %s, %s: %s", batches, candidates, SIZES, name, row)


def n90(batches: int, mean: float) -> None:
    """Log the coverage of N_90."""
    truth, found = gaussian_n90(mean, 1.0, 50), []
    for changes in normal(N90_RUNS, batches, 240, mean):
        between = best_curve(changes, 50).n90_between
        found.append(between is not None and truth is not None and between[0] <= truth <= between[1])
    log.info("S = %d, M = 240, mean %g, N_90 = %s: %.3f", batches, mean, truth, np.mean(found))


def dimension(rank: int, pairs: int) -> None:
    """Log the coverage of d_eff on a quadratic with a slope."""
    found = []
    for seed in range(RUNS):
        noise = np.random.default_rng(seed).standard_normal((pairs, rank + 1))
        even, odd = -0.5 * (noise[:, :rank] ** 2).sum(axis=1), 5 * noise[:, rank]
        estimate = effective_dimension(np.stack([even + odd, even - odd], axis=1).ravel())
        found.append(estimate is not None and estimate.low <= rank <= estimate.high)
    log.info("rank %d, %d pairs, d_eff: %.3f", rank, pairs, np.mean(found))


def main() -> None:
    """Log all tables."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    for shape in ((3, 240), (1, 240), (1, 64)):
        best_of_n(*shape)
    for mean in (0.0, -0.5, -1.0):
        n90(3, mean)
    for rank in (10, 2):
        dimension(rank, 64)


if __name__ == "__main__":
    main()
