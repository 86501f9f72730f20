"""The toy of arXiv 2602.00170, computed and simulated: rise and decay, effective dimension, and escapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from es_lightning.errors import UsageError
from es_lightning.landscape.arrays import Array
from es_lightning.landscape.quadratic import Quadratic, two_groups
from es_lightning.landscape.theory.double_well import DoubleWell
from es_lightning.landscape.theory.steady_state import (
    Rules,
    SteadyState,
    effective_dimension,
    gap_per_dimension,
)

ASCENTS = 12  # per population, for the steady state
SETTLING, WINDOW = 3.0, 2.5  # in time constants 1 / (alpha lambda) of the soft directions
LONGEST = 100_000  # steps of an ascent that are still simulated
HEIGHTS = (0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 12.0)  # barriers of the double well, in temperatures
WELL_ALPHA = 0.05  # of the double well, whose stiffness and half distance are 1
CHANCE = 0.005  # of a curve that seems to differ from its closed form somewhere


@dataclass(frozen=True)
class Toy:
    """Settings of the toy.

    Args:
        dimension: dimension D of the whole space.
        active: curved directions d, one half stiff and the other soft; even.
        stiff: curvature of the stiff directions.
        soft: curvature of the soft ones, which start at the maximum.
        start: where each stiff direction starts.
        alpha: step size.
        sigma: noise scale.
        populations: numbers of members N.

    Raises:
        UsageError: a number is outside its range, or there is no steady state.
    """

    dimension: int = 128
    active: int = 16
    stiff: float = 1.0
    soft: float = 0.05
    start: float = 0.3
    alpha: float = 0.1
    sigma: float = 2.0
    populations: Sequence[int] = (10, 20, 40, 80, 160)

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.active < 2 or self.active % 2:
            raise UsageError(
                f"there are {self.active} active directions: give an even number, one half is stiff."
            )
        if not 0 < self.soft <= self.stiff < np.inf:
            raise UsageError(
                f"the curvatures are {self.stiff:g} (stiff) and {self.soft:g} (soft): give finite numbers "
                "above 0, the stiff one not below the soft one."
            )
        if not self.populations or len(set(self.populations)) < len(self.populations):
            raise UsageError("give one population or more, each of them once.")
        for population in self.populations:
            _ = self.model(population).rates

    def model(self, population: int, alpha: float | None = None, start: float | None = None) -> Quadratic:
        """Return the quadratic with a population, and another alpha or start where they are given."""
        half = self.active // 2
        return two_groups(
            (half, self.stiff, self.start if start is None else start),
            (half, self.soft, 0.0),
            self.dimension,
            self.alpha if alpha is None else alpha,
            self.sigma,
            population,
        )


@dataclass(frozen=True)
class RiseAndDecay:
    """The expected reward of one population, and its simulation.

    Args:
        model: the quadratic.
        exact: closed form after 0, 1, ... steps, [T + 1].
        mean: of the simulated runs, [T + 1].
        error: its standard error, from the runs, [T + 1].
        apart: largest distance between both, in standard errors of the closed form.
        allowed: distance that the largest of T normal numbers exceeds with a chance of 0.5 % at most.
    """

    model: Quadratic
    exact: Array
    mean: Array
    error: Array
    apart: float
    allowed: float

    @property
    def height(self) -> float:
        """The reward at the peak; nan if there is no peak."""
        peak = self.model.peak
        amplitudes, rates = self.model.amplitudes, self.model.rates
        return (
            np.nan if peak is None else self.model.steady_reward + float(amplitudes @ np.exp(-rates * peak))
        )


def rise_and_decay(toy: Toy, steps: int, runs: int, seed: int) -> list[RiseAndDecay]:
    """Compute and simulate the rewards of each population.

    Args:
        toy: the landscape.
        steps: steps of each run.
        runs: simulated runs of each population.
        seed: seed of the first population; the next one has the next seed.
    """
    from scipy.stats import norm

    found = []
    for number, population in enumerate(toy.populations):
        model = toy.model(population)
        exact = model.rewards(np.arange(steps + 1, dtype=np.float64))
        rewards = model.simulate(steps, runs, seed + number)
        mean, error = rewards.mean(axis=0), rewards.std(axis=0, ddof=1) / np.sqrt(runs)
        # The exact error: that of few and skewed rewards is small where their mean is by chance high.
        expected = np.sqrt(model.reward_variances(np.arange(1, steps + 1, dtype=np.float64)) / runs)
        noisy = expected > 0
        apart = np.abs(mean - exact)[1:][noisy] / expected[noisy]
        allowed = float(norm.isf(CHANCE / steps / 2))
        found.append(RiseAndDecay(model, exact, mean, error, float(apart.max(initial=0.0)), allowed))
    return found


@dataclass(frozen=True)
class Dimension:
    """The effective dimension at one alpha: as the formula has it, and as ascents tell it.

    Args:
        alpha: step size.
        exact: d_eff.
        kappas: sigma^2 / N of the populations, in the order of ``measured.levels``, [n].
        measured: from simulated steady states.
    """

    alpha: float
    exact: float
    kappas: Array
    measured: SteadyState


def dimensions(toy: Toy, alphas: Sequence[float], seed: int) -> list[Dimension]:
    """Measure the effective dimension by ascents from the maximum, for each alpha.

    An ascent may go twice as far as a random walk in all directions goes, alpha sqrt(kappa T D).

    Args:
        toy: the landscape.
        alphas: step sizes, each of them with a steady state.
        seed: seed of the first ascents.

    Raises:
        UsageError: the soft directions take too many steps to settle.
    """
    found = []
    for place, alpha in enumerate(alphas):
        window = max(2, round(WINDOW / (alpha * toy.soft)))
        steps = round(SETTLING / (alpha * toy.soft)) + 2 * window
        if steps > LONGEST:
            raise UsageError(
                f"with alpha {alpha:g} the soft directions settle in {steps:,} steps, and at most "
                f"{LONGEST:,} are simulated: raise alpha or the soft curvature."
            )
        ascents, costs, models = {}, {}, {}
        for number, population in enumerate(sorted(toy.populations)):
            models[population] = model = toy.model(population, alpha, start=0.0)
            ascents[population] = model.ascents(steps, ASCENTS, seed + 1000 * (place + 1) + number)
            costs[population] = gap_per_dimension(alpha, toy.sigma, population)
        kappas = np.array([model.kappa for model in models.values()])
        walk = alpha * float(np.sqrt(kappas.max() * steps * toy.dimension))
        rules = Rules(window=window, farthest=2 * walk if walk else np.inf)
        exact = models[min(models)].effective_dimension
        found.append(Dimension(alpha, exact, kappas, effective_dimension(ascents, costs, rules)))
    return found


@dataclass(frozen=True)
class Escape:
    """How runs leave one well for the other, at one height of the barrier.

    Args:
        well: the double well.
        regime: ``stuck``, ``hops`` or ``no memory``.
        share: share of the simulated runs that reached the other well.
        expected: the same for a constant rate of 1 / ``well.mean_steps``.
        steps: mean steps, estimated from all runs, those that stayed too; nan if none escaped.
        error: standard error of ``steps``.
    """

    well: DoubleWell
    regime: str
    share: float
    expected: float
    steps: float
    error: float


def escapes(steps: int, runs: int, seed: int) -> list[Escape]:
    """Simulate escapes over barriers of several heights.

    Args:
        steps: steps of each run.
        runs: simulated runs of each height.
        seed: seed of the first height; the next one has the next seed.
    """
    found = []
    for number, height in enumerate(HEIGHTS):
        sigma = float(np.sqrt(2 * 0.25 / (WELL_ALPHA * height)))  # of one member, with a barrier of 1/4
        well = DoubleWell(1.0, 1.0, WELL_ALPHA, sigma, 1)
        first = well.escapes(steps, runs, seed + number)
        escaped = int(np.isfinite(first).sum())
        # Time at risk by the number of escapes: the estimate where some runs end before they escape.
        mean = float(np.minimum(first, steps).sum()) / escaped if escaped else np.nan
        expected = 1 - float(np.exp(-steps / well.mean_steps))
        error = mean / float(np.sqrt(max(escaped, 1)))
        found.append(Escape(well, well.regime(steps), escaped / runs, expected, mean, error))
    return found
