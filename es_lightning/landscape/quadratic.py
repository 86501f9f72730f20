"""Stochastic ascent on a quadratic reward, in closed form: why a reward rises, peaks and decays.

The model of arXiv 2602.00170: J(theta) = 1 - 1/2 theta^T C theta, theta <- (I - alpha C) theta +
alpha (sigma / sqrt N) eps. Stiff directions improve at once; soft ones diffuse outward and cost reward later.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Quadratic:
    """A quadratic reward with maximum 1 and the ascent on it, in the coordinates of C's eigenvectors.

    Args:
        curvatures: eigenvalues lambda_i >= 0 of C, float64 [D].
        start: where the ascent starts, x_{i,0}, float64 [D].
        alpha: step size, between 0 and 2 / lambda_max.
        sigma: noise scale.
        population: members N.
    """

    curvatures: Array
    start: Array
    alpha: float
    sigma: float
    population: int

    @property
    def kappa(self) -> float:
        """Diffusion sigma^2 / N."""
        return self.sigma**2 / self.population

    @cached_property
    def factors(self) -> Array:
        """What a step multiplies each mode by: a_i = 1 - alpha lambda_i, [D]."""
        return 1 - self.alpha * self.curvatures

    @property
    def step_noise(self) -> float:
        """Standard deviation that a step adds to a mode: b = alpha sigma / sqrt N."""
        return self.alpha * float(np.sqrt(self.kappa))

    def means(self, steps: Array) -> Array:
        """E x_{i,t} = a_i^t x_{i,0}, [T, D] after so many steps [T]."""
        return np.asarray(self.factors ** steps[:, None] * self.start)

    def variances(self, steps: Array) -> Array:
        """Var x_{i,t} = b^2 (1 - a_i^2t) / (1 - a_i^2), [T, D], from 0 on; b^2 t in flat directions."""
        shrunk = 1 - self.factors**2
        flat = shrunk == 0
        series = (1 - self.factors ** (2 * steps[:, None])) / np.where(flat, 1.0, shrunk)
        return self.step_noise**2 * np.where(flat, steps[:, None], series)

    @cached_property
    def steady_variances(self) -> Array:
        """Where variances end, [D]: alpha sigma^2 / (N lambda_i (2 - alpha lambda_i)); inf if flat."""
        with np.errstate(divide="ignore"):
            steady = self.alpha * self.kappa / (self.curvatures * (2 - self.alpha * self.curvatures))
        return np.asarray(steady)

    def rewards(self, steps: Array) -> Array:
        """E J_t = 1 - 1/2 sum_i lambda_i (mean^2 + variance), [T] after so many steps [T]."""
        squares = self.means(steps) ** 2 + self.variances(steps)
        return np.asarray(1 - 0.5 * squares @ self.curvatures)

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
        """Decay of each mode's part of E J_t per step, [D]: gamma_i = -2 ln|1 - alpha lambda_i|."""
        with np.errstate(divide="ignore"):
            return np.asarray(-2 * np.log(np.abs(self.factors)))

    @property
    def amplitudes(self) -> Array:
        """A_i = -lambda_i / 2 (x_{i,0}^2 - v_{i,inf}) in E J_t = J_inf + sum_i A_i exp(-gamma_i t), [D]."""
        steady = np.where(self.curvatures > 0, self.steady_variances, 0.0)
        return np.asarray(-0.5 * self.curvatures * (self.start**2 - steady))

    def simulate(self, steps: int, runs: int, seed: int, evaluation_noise: float = 0.0) -> Array:
        """Rewards of simulated ascents before the first step and after each: float64 [runs, steps + 1].

        Args:
            steps: of each run.
            runs: independent ascents from the same start.
            seed: of NumPy's generator.
            evaluation_noise: standard deviation that measuring a reward adds.
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


def two_groups(
    stiff: tuple[int, float, float],
    soft: tuple[int, float, float],
    dimension: int = 128,
    alpha: float = 0.1,
    sigma: float = 3.0,
    population: int = 30,
) -> Quadratic:
    """The toy of arXiv 2602.00170: stiff and soft directions, flat ones around them.

    Args:
        stiff: number of directions, their curvature, and where each starts.
        soft: the same of the soft ones.
        dimension: of the whole space D; ``alpha``, ``sigma`` and ``population`` are those of ``Quadratic``.
    """
    parts = (stiff, soft, (dimension - stiff[0] - soft[0], 0.0, 0.0))
    curvatures = np.concatenate([np.full(count, curvature) for count, curvature, _ in parts])
    start = np.concatenate([np.full(count, place) for count, _, place in parts])
    return Quadratic(curvatures, start, alpha, sigma, population)


def peak_of_two_modes(high: tuple[float, float], low: tuple[float, float]) -> float | None:
    """When J_inf + A_hi exp(-gamma_hi t) + A_lo exp(-gamma_lo t) is largest, in steps from t = 0.

    ln(gamma_hi |A_hi| / (gamma_lo A_lo)) / (gamma_hi - gamma_lo), arXiv 2602.00170.

    Args:
        high: amplitude and rate of the fast mode.
        low: amplitude and rate of the slow one.

    Returns:
        None unless A_hi < 0 < A_lo and gamma_hi > gamma_lo > 0; below 0 for a curve that falls from t = 0.
    """
    (a_high, rate_high), (a_low, rate_low) = high, low
    if not (a_high < 0 < a_low and rate_high > rate_low > 0):
        return None
    return float(np.log(rate_high * -a_high / (rate_low * a_low)) / (rate_high - rate_low))


@dataclass(frozen=True)
class TwoModes:
    """J_inf + A_hi exp(-gamma_hi t) + A_lo exp(-gamma_lo t) fitted to a curve that has a peak.

    Args:
        steady: J_inf, in reward units.
        high: A_hi and gamma_hi, with t counted from the first point.
        low: A_lo and gamma_lo.
        peak: when the curve is highest, in the unit of the points' times.
        interval: 5 % and 95 % quantile of ``peak`` in the bootstrap.
    """

    steady: float
    high: tuple[float, float]
    low: tuple[float, float]
    peak: float
    interval: tuple[float, float]


BOOTSTRAPS, SEED = 200, 2602
GRID = 40  # rates from a tenth of an e-folding in the whole curve to four between two points
PEAKED = 0.9  # share of the bootstrap's curves that must have a peak


def fit_two_modes(times: npt.ArrayLike, values: npt.ArrayLike) -> TwoModes | None:
    """Fit the two-mode curve to noisy rewards, and predict when they are highest.

    Variable projection: for given rates the amplitudes and J_inf are linear least squares, so only the two
    rates are searched for, on a grid and then by ``scipy.optimize``. The interval resamples residuals.

    Args:
        times: ascending, for example updates done, [n].
        values: rewards, [n].

    Returns:
        None for fewer than 8 points, where the curve or over a tenth of its bootstrap has no peak, and where
        the interval is wider than the time observed.
    """
    from scipy.optimize import minimize

    since, y = np.asarray(times, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if len(y) < 8 or not np.ptp(y) > 0:
        return None
    first, since = float(since[0]), since - since[0]
    span = float(since[-1])
    grid = np.geomspace(0.1 / span, 4 / float(np.median(np.diff(since))), GRID)
    start = np.log(_search(since, y[None], grid)[0, [1, 3]])

    def missed(logs: Array) -> float:
        return float(np.sum((y - _projected(since, y, np.exp(logs))[1]) ** 2))

    bounds = [(np.log(grid[0]), np.log(grid[-1]))] * 2
    found = minimize(missed, start, method="Nelder-Mead", bounds=bounds, options={"maxiter": 200})
    rates = np.sort(np.exp(found.x))[::-1]
    (steady, a_high, a_low), fitted = _projected(since, y, rates)
    high, low = (float(a_high), float(rates[0])), (float(a_low), float(rates[1]))
    peak = peak_of_two_modes(high, low)
    interval = _bootstrap(since, y, fitted, grid)
    if peak is None or peak < 0 or interval is None or interval[1] - interval[0] > span:
        return None
    return TwoModes(float(steady), high, low, first + peak, (first + interval[0], first + interval[1]))


def _projected(since: Array, y: Array, rates: Array) -> tuple[Array, Array]:
    """Least-squares (J_inf, A_1, A_2) for two rates, and the curve they make."""
    basis = np.stack([np.ones_like(since), *np.exp(-rates[:, None] * since)], axis=1)
    coefficients = np.linalg.lstsq(basis, y, rcond=None)[0]
    return coefficients, basis @ coefficients


def _search(since: Array, curves: Array, grid: Array) -> Array:
    """A_hi, gamma_hi, A_lo, gamma_lo [B, 4] of the best pair of rates of a grid, for each curve [B, n]."""
    basis = np.exp(-grid[:, None] * since)
    basis -= basis.mean(axis=1, keepdims=True)  # which projects J_inf out
    gram, right = basis @ basis.T, basis @ (curves - curves.mean(axis=1, keepdims=True)).T
    low, high = np.triu_indices(len(grid), k=2)
    cross, s_low, s_high = gram[low, high, None], gram[low, low, None], gram[high, high, None]
    determinant = s_low * s_high - cross**2
    a_low = (s_high * right[low] - cross * right[high]) / determinant
    a_high = (s_low * right[high] - cross * right[low]) / determinant
    best = np.argmax(a_low * right[low] + a_high * right[high], axis=0)
    each = np.arange(len(curves))
    return np.stack([a_high[best, each], grid[high[best]], a_low[best, each], grid[low[best]]], axis=1)


def _bootstrap(since: Array, y: Array, fitted: Array, grid: Array) -> tuple[float, float] | None:
    """Interval of the peak's time over curves with resampled residuals; None if too few of them peak."""
    generator, residuals = np.random.default_rng(SEED), y - fitted
    residuals = (residuals - residuals.mean()) * np.sqrt(len(y) / (len(y) - 5))  # five parameters
    curves = fitted + generator.choice(residuals, size=(BOOTSTRAPS, len(y)))
    peaks = [peak_of_two_modes((a, b), (c, d)) for a, b, c, d in _search(since, curves, grid).tolist()]
    found = [peak for peak in peaks if peak is not None and peak > 0]
    if len(found) < PEAKED * BOOTSTRAPS:
        return None
    return float(np.quantile(found, 0.05)), float(np.quantile(found, 0.95))
