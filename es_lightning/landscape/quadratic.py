"""Stochastic ascent on a quadratic reward, in closed form: why a reward rises, peaks and decays.

The model of arXiv 2602.00170: J(theta) = 1 - 1/2 theta^T C theta, theta <- (I - alpha C) theta +
alpha (sigma / sqrt N) eps. Stiff directions improve at once; soft ones diffuse outward and cost reward later.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from es_lightning.analysis.several_modes import peak_of_modes
from es_lightning.errors import UsageError
from es_lightning.landscape.arrays import Array
from es_lightning.landscape.theory.steady_state import Ascent
from es_lightning.system.moved import names_of

__getattr__ = names_of("landscape.quadratic")

ROUNDING = 1e-12  # a factor 1 - alpha lambda below this is 0


@dataclass(frozen=True)
class Quadratic:
    """A quadratic reward with maximum 1, and the ascent on it, in the coordinates of C's eigenvectors.

    Args:
        curvatures: eigenvalues lambda_i >= 0 of C, float64 [D].
        start: starting point of the ascent, x_{i,0}, float64 [D].
        alpha: step size, between 0 and 2 / lambda_max.
        sigma: noise scale.
        population: number of members N.

    Raises:
        UsageError: a number is outside its range, or there is no steady state.
    """

    curvatures: Array
    start: Array
    alpha: float
    sigma: float
    population: int

    def __post_init__(self) -> None:
        """Check the numbers."""
        curvatures, start = self.curvatures, self.start
        if curvatures.ndim != 1 or curvatures.shape != start.shape:
            raise UsageError(
                f"there are {curvatures.size} curvatures and {start.size} starting points: give one per "
                "direction."
            )
        if not np.isfinite(start).all():
            raise UsageError("a starting point is not finite: give finite numbers.")
        if not (np.isfinite(curvatures).all() and (curvatures >= 0).all()):
            worst = float(curvatures[~((curvatures >= 0) & np.isfinite(curvatures))][0])
            raise UsageError(
                f"a curvature is {worst:g}: the reward has a maximum only if all are finite and at least 0."
            )
        check_step(self.alpha, self.sigma, self.population)
        steepest = float(curvatures.max(initial=0.0))
        if self.alpha * steepest >= 2:
            raise UsageError(
                f"alpha {self.alpha:g} times the largest curvature {steepest:g} is at least 2: there is no "
                "steady state, because each step ends farther from the maximum. Lower alpha."
            )

    @property
    def kappa(self) -> float:
        """Diffusion sigma^2 / N."""
        return self.sigma**2 / self.population

    @cached_property
    def factors(self) -> Array:
        """Factor by which a step multiplies each mode: a_i = 1 - alpha lambda_i, [D]."""
        return 1 - self.alpha * self.curvatures

    @property
    def step_noise(self) -> float:
        """Standard deviation that a step adds to a mode: b = alpha sigma / sqrt N."""
        return self.alpha * float(np.sqrt(self.kappa))

    def means(self, steps: Array) -> Array:
        """Compute E x_{i,t} = a_i^t x_{i,0}, [T, D], after numbers of steps [T]."""
        return np.asarray(self.factors ** steps[:, None] * self.start)

    def variances(self, steps: Array) -> Array:
        """Compute Var x_{i,t} = b^2 (1 - a_i^2t) / (1 - a_i^2), [T, D], from 0 at t = 0; b^2 t if flat."""
        shrunk = 1 - self.factors**2
        flat = shrunk == 0
        series = (1 - self.factors ** (2 * steps[:, None])) / np.where(flat, 1.0, shrunk)
        return self.step_noise**2 * np.where(flat, steps[:, None], series)

    @cached_property
    def steady_variances(self) -> Array:
        """Limits of the variances, [D]: alpha sigma^2 / (N lambda_i (2 - alpha lambda_i)); inf if flat."""
        falling = self.curvatures * (2 - self.alpha * self.curvatures)
        flat = np.inf if self.kappa else 0.0
        with np.errstate(over="ignore"):
            steady = self.alpha * self.kappa / np.where(falling > 0, falling, 1.0)
        return np.where(falling > 0, steady, flat)

    def rewards(self, steps: Array) -> Array:
        """Compute E J_t = 1 - 1/2 sum_i lambda_i (mean^2 + variance), [T], after numbers of steps [T]."""
        squares = self.means(steps) ** 2 + self.variances(steps)
        return np.asarray(1 - 0.5 * squares @ self.curvatures)

    def reward_variances(self, steps: Array) -> Array:
        """Compute Var J_t = sum_i lambda_i^2 (variance^2 / 2 + mean^2 variance), [T], of normal x_{i,t}."""
        variances = self.variances(steps)
        parts = variances**2 / 2 + self.means(steps) ** 2 * variances
        return np.asarray(parts @ self.curvatures**2)

    @property
    def effective_dimension(self) -> float:
        """d_eff(alpha) = sum over lambda_i > 0 of 2 / (2 - alpha lambda_i): C's rank if alpha is small."""
        curved = self.curvatures[self.curvatures > 0]
        return float(np.sum(2 / (2 - self.alpha * curved)))

    @property
    def steady_reward(self) -> float:
        """J_inf = 1 - alpha / 4 * d_eff * kappa."""
        return 1 - self.alpha / 4 * self.effective_dimension * self.kappa

    @property
    def rates(self) -> Array:
        """Decay rate per step of each mode's part of E J_t, [D]: gamma_i = -2 ln|1 - alpha lambda_i|.

        Raises:
            UsageError: a mode is gone after one step, since alpha lambda_i = 1.
        """
        if (np.abs(self.factors) < ROUNDING).any():
            raise UsageError(
                f"alpha {self.alpha:g} times a curvature is 1: that direction is at rest after one step, and "
                "has no rate. Change alpha a little."
            )
        return np.asarray(-2 * np.log(np.abs(self.factors)))

    @property
    def amplitudes(self) -> Array:
        """A_i = -lambda_i / 2 (x_{i,0}^2 - v_{i,inf}) in E J_t = J_inf + sum_i A_i exp(-gamma_i t), [D]."""
        steady = np.where(self.curvatures > 0, self.steady_variances, 0.0)
        return np.asarray(-0.5 * self.curvatures * (self.start**2 - steady))

    @property
    def peak(self) -> float | None:
        """The number of steps after which E J_t is highest; None if it never rises and then falls.

        Raises:
            UsageError: a direction has no rate, see ``rates``.
        """
        return peak_of_modes(self.amplitudes, self.rates)

    def simulate(self, steps: int, runs: int, seed: int, evaluation_noise: float = 0.0) -> Array:
        """Simulate ascents; returns rewards before the first step and after each, float64 [runs, steps + 1].

        Args:
            steps: steps of each run.
            runs: number of independent ascents from the same start.
            seed: seed of NumPy's generator.
            evaluation_noise: standard deviation of the noise in measuring a reward.
        """
        generator = np.random.default_rng(seed)
        curved = self.curvatures > 0  # flat directions change no reward
        place = np.repeat(self.start[None, curved], runs, axis=0)
        rewards = np.empty((runs, steps + 1))
        for t in range(steps + 1):
            rewards[:, t] = 1 - 0.5 * place**2 @ self.curvatures[curved]
            place = self.factors[curved] * place
            place += self.step_noise * generator.standard_normal(place.shape)
        return rewards + evaluation_noise * generator.standard_normal(rewards.shape)

    def ascents(self, steps: int, runs: int, seed: int) -> list[Ascent]:
        """Simulate ascents in all directions, the flat ones too, which count for the distance.

        Args:
            steps: steps of each run.
            runs: number of independent ascents from the same start.
            seed: seed of NumPy's generator.
        """
        generator = np.random.default_rng(seed)
        place = np.repeat(self.start[None], runs, axis=0)
        rewards, farthest = np.empty((runs, steps + 1)), np.zeros(runs)
        for t in range(steps + 1):
            rewards[:, t] = 1 - 0.5 * place**2 @ self.curvatures
            farthest = np.maximum(farthest, np.linalg.norm(place - self.start, axis=1))
            place = self.factors * place + self.step_noise * generator.standard_normal(place.shape)
        return [Ascent(row, float(far)) for row, far in zip(rewards, farthest, strict=True)]


def check_step(alpha: float, sigma: float, population: int) -> None:
    """Refuse settings of an ascent that no step can be made with.

    Args:
        alpha: step size.
        sigma: noise scale.
        population: number of members N.

    Raises:
        UsageError: a number is outside its range.
    """
    if not 0 < alpha < np.inf:
        raise UsageError(f"alpha is {alpha}: give a finite step size above 0.")
    if not 0 <= sigma < np.inf:
        raise UsageError(f"sigma is {sigma}: give a finite noise scale, at least 0.")
    if not 1 <= population < np.inf:
        raise UsageError(f"the population is {population}: give at least 1 member.")


def two_groups(
    stiff: tuple[int, float, float],
    soft: tuple[int, float, float],
    dimension: int = 128,
    alpha: float = 0.1,
    sigma: float = 3.0,
    population: int = 30,
) -> Quadratic:
    """Make the toy model of arXiv 2602.00170: stiff and soft directions, and flat ones for the rest.

    Args:
        stiff: number of stiff directions, their curvature, and where each of them starts.
        soft: the same for the soft directions.
        dimension: dimension D of the whole space.
        alpha: see ``Quadratic``.
        sigma: see ``Quadratic``.
        population: see ``Quadratic``.

    Raises:
        UsageError: there are more directions than dimensions, or a number is outside its range.
    """
    counts = {"stiff": stiff[0], "soft": soft[0]}
    if min(counts.values()) < 0 or sum(counts.values()) > dimension:
        told = " and ".join(f"{count} {name}" for name, count in counts.items())
        raise UsageError(
            f"{told} directions do not fit into {dimension} dimensions: give fewer of them, none below 0."
        )
    parts = (stiff, soft, (dimension - stiff[0] - soft[0], 0.0, 0.0))
    curvatures = np.concatenate([np.full(count, curvature) for count, curvature, _ in parts])
    start = np.concatenate([np.full(count, place) for count, _, place in parts])
    return Quadratic(curvatures, start, alpha, sigma, population)
