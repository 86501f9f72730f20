"""What best-of-N looks like without any landscape: independent normal changes of the reward.

Of N independent normal changes with mean mu and standard deviation s, the largest is mu + s e_N on average,
where e_N is the expected largest of N standard normal numbers. At mu = 0 the best of 5, 10, 20 and 30 is
0.517, 0.684, 0.830 and 0.908 of the best of 50, and N_90 is 29: a curve that levels off at 30 to 40 says
nothing about a landscape. Changes of a reward in steps are compared with normal numbers that are rounded
to the same steps (``reward_grid``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from es_lightning.landscape.arrays import Array
from es_lightning.landscape.statistics.best_of import best_of, first_within
from es_lightning.landscape.statistics.reward_grid import GridNormal, common_step, grid_normal

REACH, STEP = 40.0, 0.01  # the integrand is smooth and vanishes at the ends: the sum is exact to rounding
DRAWS, CHUNK = 999, 111  # simulated samples, and how many at once for memory's sake
ROUNDING = 1e-9  # a spread below this, relative to the largest change, is no spread


@dataclass(frozen=True)
class NullTest:
    """How far best-of-N is from that of normal changes with the same mean and standard deviation.

    Args:
        deviations: best of N minus the null's, in standard deviations of a candidate, for each N.
        low: 2.5th percentile of such deviations for samples of normal changes.
        high: 97.5th percentile.
        p_value: how often the largest standardised deviation over all N is as large for normal changes.
        step: of which all changes are multiples, in units of reward; None if there is none that matters.
    """

    deviations: Array
    low: Array
    high: Array
    p_value: float
    step: float | None = None

    @property
    def differs(self) -> bool:
        """Whether the changes are not normal, at p below 0.05."""
        return self.p_value < 0.05


@dataclass(frozen=True)
class Normal:
    """Independent normal changes of a reward without steps.

    Args:
        mean: mu, in units of reward.
        deviation: s, in units of reward.
        step: there is none.
    """

    mean: float
    deviation: float
    step: None = None

    def draw(self, generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
        """Draw independent numbers, in units of reward."""
        return self.mean + self.deviation * generator.standard_normal(shape)

    def best_of(self, sizes: Sequence[int]) -> Array:
        """Compute the expected largest of N, float64 [K]."""
        return gaussian_best_of(self.mean, self.deviation, sizes)


def has_spread(changes: Array) -> bool:
    """Return whether changes differ by more than rounding."""
    spread = changes.std(ddof=1) if changes.size > 1 else 0.0
    return bool(spread > ROUNDING * np.abs(changes).max())


def null_of(changes: Array) -> Normal | GridNormal:
    """Return the normal changes that have the same mean, standard deviation and steps.

    Args:
        changes: of any shape, R - R_0; a step is looked for in them (``reward_grid.common_step``).
    """
    mean = float(changes.mean())
    if not has_spread(changes):
        return Normal(mean, 0.0)
    deviation, step = float(changes.std(ddof=1)), common_step(changes)
    return Normal(mean, deviation) if step is None else grid_normal(mean, deviation, step)


def expected_largest(sizes: Sequence[int]) -> Array:
    """Compute e_N, the expected largest of N standard normal numbers, float64 [K].

    By the integral of x N phi(x) Phi(x)^(N - 1), with the trapezoidal rule.

    Args:
        sizes: values of N, at least 1.
    """
    from scipy.stats import norm

    places = np.arange(-REACH, REACH + STEP / 2, STEP)
    number = np.asarray(sizes, dtype=np.float64)[:, None]
    density = np.exp(norm.logpdf(places) + (number - 1) * norm.logcdf(places))
    return np.asarray((number * density * places).sum(axis=1) * STEP)


def gaussian_best_of(mean: float, deviation: float, sizes: Sequence[int]) -> Array:
    """Compute the expected best of N independent normal changes, mu + s e_N, float64 [K].

    Args:
        mean: mu, in units of reward.
        deviation: s, in units of reward.
        sizes: values of N.
    """
    return mean + deviation * expected_largest(sizes)


def gaussian_n90(mean: float, deviation: float, largest: int) -> int | None:
    """Return N_90 of independent normal changes; None where the best of the largest N is no gain.

    Args:
        mean: mu, in units of reward.
        deviation: s, in units of reward.
        largest: N_max.
    """
    return first_within(gaussian_best_of(mean, deviation, range(1, largest + 1)))


def gaussian_test(changes: Array, sizes: Sequence[int], seed: int = 0) -> NullTest | None:
    """Test whether best-of-N is that of normal changes.

    Best-of-N minus the null with the sample's own mean and standard deviation, divided by the latter, does
    not depend on mu and s. So samples of normal numbers give its exact distribution.

    Rewards in steps have changes on a grid, and a step of half a standard deviation shows: without a grid,
    two thirds of 3 x 240 normal changes that are rounded so would be called something else at 0.05, by the
    best of 2 most of all. So the samples lie on the grid of the changes, which has 0 on it, since candidates
    and centre earn multiples of the same unit. They are drawn with that mu and s with which rounded numbers
    have the mean and the standard deviation of the changes. That these are known exactly is assumed;
    ``benchmarks/null_sizes.py`` counts what it costs.

    Args:
        changes: [S, M], of candidates that share no noise.
        sizes: values of N, at most M.
        seed: seed of the simulated samples.

    Returns:
        None if all changes are the same.

    Raises:
        UsageError: M < N, or N < 1.
    """
    if not has_spread(changes):
        return None
    null = null_of(changes)
    expected = (null.best_of(sizes) - changes.mean()) / changes.std(ddof=1)
    deviations = _deviations(changes[None], sizes, expected)[0]
    generator = np.random.default_rng(seed)
    samples = (null.draw(generator, (CHUNK, *changes.shape)) for _ in range(DRAWS // CHUNK))
    by_chance = np.concatenate([_deviations(_spread_out(each), sizes, expected) for each in samples])
    centre, scale = by_chance.mean(axis=0), by_chance.std(axis=0)
    known = scale > ROUNDING  # the best of 1 is the mean
    largest = np.abs((deviations - centre) / np.where(known, scale, np.inf)).max()
    at_chance = np.abs((by_chance - centre) / np.where(known, scale, np.inf)).max(axis=1)
    # Samples on a coarse grid tie with the changes, up to rounding.
    reached = int((at_chance >= largest * (1 - ROUNDING)).sum())
    low, high = np.quantile(by_chance, [0.025, 0.975], axis=0)
    return NullTest(deviations, low, high, (1 + reached) / (1 + len(by_chance)), null.step)


def _spread_out(samples: Array) -> Array:
    """Leave out samples whose numbers are all the same, as the test does: [R, S, M] to fewer R."""
    return np.asarray(samples[np.ptp(samples, axis=(1, 2)) > 0])


def _deviations(changes: Array, sizes: Sequence[int], expected: Array) -> Array:
    """Best-of-N minus the null, in standard deviations: [R, S, M] to [R, K]."""
    pooled = changes.reshape(len(changes), -1)
    mean, spread = pooled.mean(axis=1), pooled.std(axis=1, ddof=1)
    found = best_of(changes, sizes).mean(axis=1)
    return np.asarray((found - mean[:, None]) / spread[:, None] - expected)
