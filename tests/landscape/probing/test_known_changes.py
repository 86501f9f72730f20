"""Every known landscape through the probe, against the exact distribution of its changes."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from scipy.special import roots_genlaguerre
from scipy.stats import ncx2, norm

from es_lightning.analysis.intervals import Z
from es_lightning.landscape import known
from es_lightning.landscape.arrays import Array
from es_lightning.landscape.known import KnownLandscape
from es_lightning.landscape.probing.probe import Probe, ProbeSettings
from es_lightning.landscape.probing.results import ProbeResults
from es_lightning.landscape.probing.summary import ProbeTable, SigmaSummary, summarise

SIGMA = 0.5
SETTINGS = ProbeSettings(sigmas=(SIGMA,), members=400, batches=5)
COUNT = SETTINGS.total
SIZES = np.arange(1, SETTINGS.largest + 1)


@dataclass(frozen=True)
class Changes:
    """A distribution of changes: values in ascending order, and the chance of each value or a lower one."""

    values: Array
    cumulative: Array

    @classmethod
    def between(cls, low: float, high: float, cdf: Callable[[Array], Array]) -> "Changes":
        """A density that is 0 outside, in cells far finer than the errors of a sample, most so at the top."""
        edges = high - (high - low) * np.linspace(1, 0, 20_001) ** 4
        return cls((edges[1:] + edges[:-1]) / 2, cdf(edges[1:]))

    def largest(self, size: int) -> Array:
        """Chance of each value to be the largest of N independent changes."""
        return np.diff(self.cumulative**size, prepend=0.0)

    def best(self, power: int = 1) -> Array:
        """Expected power of the largest of 1 to 50 changes."""
        return np.array([self.largest(size) @ self.values**power for size in SIZES])


def linear() -> Changes:
    return Changes.between(-8 * SIGMA, 8 * SIGMA, norm(scale=SIGMA).cdf)


def quadratic(rank: int, start: float) -> Changes:
    """(start^2 - sigma^2 chi^2) / 2, chi^2 being noncentral by (start / sigma)^2."""
    fallen = ncx2(rank, (start / SIGMA) ** 2)
    lowest = (start**2 - SIGMA**2 * fallen.isf(1e-12)) / 2
    return Changes.between(lowest, start**2 / 2, lambda t: fallen.sf((start**2 - 2 * t) / SIGMA**2))


def plateau(edge: float) -> Changes:
    return Changes(np.array([0.0, 1.0]), np.array([norm.cdf(edge / SIGMA), 1.0]))


def ridge(slope: float, curvature: float, across: int) -> Changes:
    """slope sigma z - curvature sigma^2 / 2 chi^2, by quadrature over chi^2."""
    halves, weights = roots_genlaguerre(40, across / 2 - 1)

    def cdf(t: Array) -> Array:
        return (
            norm.cdf((t[:, None] + curvature * SIGMA**2 * halves) / (slope * SIGMA)) @ weights / sum(weights)
        )

    return Changes.between(-20 * SIGMA, 8 * slope * SIGMA, cdf)


def double_well() -> Changes:
    """-(x^2 - 1)^2 is at most t where x^2 is not within sqrt(-t) of 1; x is normal around -1."""

    def cdf(t: Array) -> Array:
        apart, place = np.sqrt(-t), norm(-1, SIGMA).cdf
        inner, outer = np.sqrt(np.maximum(1 - apart, 0)), np.sqrt(1 + apart)
        return place(inner) - place(-inner) + place(-outer) + 1 - place(outer)

    return Changes.between(-(((1 + 8 * SIGMA) ** 2 - 1) ** 2), 0.0, cdf)


def steps(prompts: int) -> Changes:
    """For each x_0 prompts are right independently of one another: Poisson's binomial, averaged over x_0."""
    thresholds = np.random.default_rng(0).normal(0, 1, prompts)
    first = np.linspace(-8, 8, 1601)
    counts = np.ones((len(first), 1))
    for right in norm.cdf(first - thresholds[:, None] / SIGMA)[..., None]:
        none = np.zeros_like(right)
        counts = np.hstack([counts * (1 - right), none]) + np.hstack([none, counts * right])
    chances = norm.pdf(first) / norm.pdf(first).sum() @ counts
    return Changes((np.arange(prompts + 1) - (thresholds < 0).sum()) / prompts, np.cumsum(chances))


LANDSCAPES = {
    "linear": (known.linear(), linear),
    "maximum of rank 1": (known.quadratic(1), lambda: quadratic(1, 0.0)),
    "maximum of rank 5": (known.quadratic(5), lambda: quadratic(5, 0.0)),
    "beside a maximum of rank 1": (known.quadratic(1, start=0.7), lambda: quadratic(1, 0.7)),
    "beside a maximum of rank 5": (known.quadratic(5, start=1.5), lambda: quadratic(5, 1.5)),
    "plateau": (known.plateau(edge=1.2), lambda: plateau(1.2)),
    "ridge": (known.ridge(1.0, 2.0, 3), lambda: ridge(1.0, 2.0, 3)),
    "double well": (known.double_well(), double_well),
    "8 steps": (known.steps(prompts=8), lambda: steps(8)),
    "64 steps": (known.steps(prompts=64), lambda: steps(64)),
}


def probed(landscape: KnownLandscape, folder: Path, settings: ProbeSettings = SETTINGS) -> SigmaSummary:
    """The summary of the mean rewards, which leaves out what is held out."""
    Probe(replace(landscape, at_once=settings.members), settings, folder).run()
    results = ProbeResults.read(folder)
    rewards = {sigma: results.rewards(sigma).mean(axis=2, keepdims=True) for sigma in results.sigmas}
    table = ProbeTable("known", results.centre.mean(keepdims=True), rewards, settings.antithetic)
    return next(iter(summarise(table)))


@pytest.mark.parametrize("name", LANDSCAPES)
def test_improving_shares_best_of_n_and_n90_are_those_of_the_exact_changes(name: str, tmp_path: Path) -> None:
    landscape, changes = LANDSCAPES[name]
    exact = changes()
    found = probed(landscape, tmp_path)
    chances = exact.largest(1)
    for share, told in (
        (chances[exact.values > 0].sum(), found.statistics.improve.value),
        (chances[exact.values == 0].sum(), found.statistics.zeros),
    ):
        assert told == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / COUNT))
    curve, best = found.curve, exact.best()
    stated = (curve.high - curve.best) / Z
    assert (np.abs(curve.best - best) <= 4 * stated).all()
    # Hoeffding (1948): the variance of a U-statistic of order N is at most N / M of its kernel's.
    most = np.sqrt(SIZES / COUNT * (exact.best(power=2) - best**2))
    assert (stated <= 1.3 * most).all()
    if best[-1] <= 0:
        assert curve.n90 is None
        return
    n90 = int(np.argmax(best >= 0.9 * best[-1])) + 1
    assert curve.n90_between is not None
    low, high = curve.n90_between
    assert 2 * low - curve.n90 <= n90 <= 2 * high - curve.n90  # twice the 95 % interval: 4 standard errors
    assert high - low <= 10


@pytest.mark.parametrize(
    ("landscape", "sigma", "dimension"),
    [
        (known.quadratic(5, start=1.5), SIGMA, 5),
        (known.ridge(1.0, 2.0, 3), SIGMA, 3),
        (known.double_well(), 0.02, 1),
        (known.linear(), SIGMA, None),
    ],
)
def test_pairs_tell_how_many_directions_are_curved_whatever_the_slope(
    landscape: KnownLandscape, sigma: float, dimension: int | None, tmp_path: Path
) -> None:
    chosen = replace(SETTINGS, sigmas=(sigma, 1.5 * sigma), antithetic=True)
    found = probed(landscape, tmp_path, chosen).dimension
    if dimension is None:
        assert found is None
        return
    assert found is not None
    # The interval is one of logarithms: twice as wide, it is 4 standard errors.
    assert found.low**2 / found.value <= dimension <= found.high**2 / found.value
    assert found.high / found.low <= 1.6
