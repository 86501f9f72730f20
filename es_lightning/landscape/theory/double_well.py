"""Two maxima with a ridge between them: how long the noise of an ascent takes to carry it across.

The model of arXiv 2602.00170: a loss L(x) = lambda/4 (x^2 - a^2)^2, x <- x - alpha L'(x) +
alpha (sigma / sqrt N) eps. Small steps behave as a particle of temperature T = alpha sigma^2 / (2 N).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from es_lightning.errors import UsageError
from es_lightning.landscape.arrays import Array
from es_lightning.landscape.quadratic import check_step

HARDLY = 1e-12  # weight exp(-L / T), relative to a well's, beyond which nothing is integrated
LOST = 1e3  # distance, in units of a, that only an ascent without a steady state reaches


@dataclass(frozen=True)
class DoubleWell:
    """A loss with wells at -a and a, and the descent in it.

    Args:
        stiffness: lambda of the loss, above 0; its curvature is 2 lambda a^2 in the wells.
        half_distance: a, half the distance between the wells, above 0.
        alpha: step size; alpha times the curvature in the wells must be below 1.
        sigma: noise scale, above 0.
        population: number of members N.

    Raises:
        UsageError: a number is outside its range.
    """

    stiffness: float
    half_distance: float
    alpha: float
    sigma: float
    population: int

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("stiffness", "half_distance", "sigma"):
            if not 0 < getattr(self, name) < np.inf:
                raise UsageError(
                    f"the double well's {name} is {getattr(self, name)}: give a finite number above 0."
                )
        check_step(self.alpha, self.sigma, self.population)
        if not self.alpha * self.well_curvature < 1:
            raise UsageError(
                f"alpha times the curvature in the wells is {self.alpha * self.well_curvature:g}: steps that "
                "large jump over the wells. Give an alpha with which it is below 1."
            )

    @property
    def well_curvature(self) -> float:
        """L''(a) = 2 lambda a^2."""
        return 2 * self.stiffness * self.half_distance**2

    @property
    def ridge_curvature(self) -> float:
        """|L''(0)| = lambda a^2."""
        return self.stiffness * self.half_distance**2

    @property
    def barrier(self) -> float:
        """Height of the ridge above the wells: lambda a^4 / 4."""
        return self.stiffness * self.half_distance**4 / 4

    @property
    def temperature(self) -> float:
        """Alpha sigma^2 / (2 N)."""
        return self.alpha * self.sigma**2 / (2 * self.population)

    @property
    def height(self) -> float:
        """The barrier in units of the temperature: it decides all of the behaviour."""
        return self.barrier / self.temperature

    @property
    def well_variance(self) -> float:
        """Variance of x around a well, from the loss's curvature there: alpha sigma^2 / (4 N lambda a^2)."""
        return self.temperature / self.well_curvature

    @property
    def kramers_steps(self) -> float:
        """Mean steps from one well to the other: 2 pi / (alpha sqrt(L''(a) |L''(0)|)) exp(barrier / T).

        That is Kramers' law (1940), the limit of a high barrier.
        """
        bend = float(np.sqrt(self.well_curvature * self.ridge_curvature))
        return 2 * np.pi / (self.alpha * bend) * float(np.exp(min(self.height, 700.0)))

    @property
    def mean_steps(self) -> float:
        """Mean steps from -a to a for a barrier of any height, in the limit of small steps.

        The mean first-passage time of the diffusion (Gardiner, Stochastic Methods, 5.5):
        1 / (alpha T) times the integral over y from -a to a of exp(L(y) / T) times that over z below y of
        exp(-L(z) / T).
        """
        a = self.half_distance
        # Beyond this, the weight of a place is below HARDLY of a well's.
        wall = float(np.sqrt(a**2 + np.sqrt(-4 * np.log(HARDLY) * self.temperature / self.stiffness)))
        place = np.linspace(-wall, a, 20_001)
        relative = self.stiffness / 4 * (place**2 - a**2) ** 2 / self.temperature
        step = place[1] - place[0]
        weight = np.exp(-relative)
        below = np.concatenate([[0.0], np.cumsum((weight[1:] + weight[:-1]) / 2) * step])
        # The barrier's own factor goes in last, so that exp does not overflow.
        inner = np.where(place >= -a, np.exp(relative - self.height) * below, 0.0)
        integral = float(np.sum((inner[1:] + inner[:-1]) / 2) * step)
        return integral / (self.alpha * self.temperature) * float(np.exp(min(self.height, 700.0)))

    def regime(self, steps: int) -> str:
        """Say what a run of so many steps does.

        Returns:
            ``stuck`` if it most likely stays in its well, ``hops`` if it is likely to leave it, and
            ``no memory`` if the barrier is no higher than the temperature.
        """
        if self.height <= 1:
            return "no memory"
        return "stuck" if self.height > np.log(steps) else "hops"

    def escapes(self, steps: int, runs: int, seed: int) -> Array:
        """Simulate descents from -a; returns after how many steps each first reaches a, [runs].

        Args:
            steps: steps of each run.
            runs: number of independent descents.
            seed: seed of NumPy's generator.

        Returns:
            Infinite where a run has not got there.

        Raises:
            UsageError: a run has left the double well for good, because alpha is too large.
        """
        generator = np.random.default_rng(seed)
        place, first = np.full(runs, -self.half_distance), np.full(runs, np.inf)
        spread = self.alpha * self.sigma / float(np.sqrt(self.population))
        for t in range(1, steps + 1):
            slope = self.stiffness * place * (place**2 - self.half_distance**2)
            place = place - self.alpha * slope + spread * generator.standard_normal(len(place))
            if np.abs(place).max(initial=0.0) > LOST * self.half_distance:
                raise UsageError("a simulated step has left the double well for good: lower alpha or sigma.")
            across = place >= self.half_distance
            if across.any():
                waiting = np.flatnonzero(np.isinf(first))
                first[waiting[across]] = t
                place = place[~across]
                if not len(place):
                    break
        return first
