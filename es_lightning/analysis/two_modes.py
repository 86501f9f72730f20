"""Fit a rise and a decay to a curve of rewards, to predict when it is highest.

The fitted curve is that of a quadratic reward with one stiff and one soft direction (arXiv 2602.00170), with
the amplitudes and rates of ``es_lightning.landscape.quadratic``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def peak_of_two_modes(high: tuple[float, float], low: tuple[float, float]) -> float | None:
    """Find when J_inf + A_hi exp(-gamma_hi t) + A_lo exp(-gamma_lo t) is largest, in steps from t = 0.

    That is at t = ln(gamma_hi |A_hi| / (gamma_lo A_lo)) / (gamma_hi - gamma_lo), arXiv 2602.00170.

    Args:
        high: amplitude and rate of the fast mode.
        low: amplitude and rate of the slow one.

    Returns:
        None unless A_hi < 0 < A_lo and gamma_hi > gamma_lo > 0; negative if the curve falls from t = 0 on.
    """
    (a_high, rate_high), (a_low, rate_low) = high, low
    if not (a_high < 0 < a_low and rate_high > rate_low > 0):
        return None
    return float(np.log(rate_high * -a_high / (rate_low * a_low)) / (rate_high - rate_low))


@dataclass(frozen=True)
class TwoModes:
    """A fit of J_inf + A_hi exp(-gamma_hi t) + A_lo exp(-gamma_lo t) to a curve that has a peak.

    Args:
        steady: J_inf, in reward units.
        high: A_hi and gamma_hi, with t counted from the first point.
        low: A_lo and gamma_lo.
        peak: time at which the curve is highest, in the unit of the points' times.
        interval: 5 % and 95 % quantile of ``peak`` in the bootstrap.
    """

    steady: float
    high: tuple[float, float]
    low: tuple[float, float]
    peak: float
    interval: tuple[float, float]


BOOTSTRAPS, SEED = 200, 2602
GRID = 40  # number of rates, from 0.1 e-foldings over the whole curve to 4 between two points
PEAKED = 0.9  # share of the bootstrap's curves that must have a peak


def fit_two_modes(times: npt.ArrayLike, values: npt.ArrayLike) -> TwoModes | None:
    """Fit the two-mode curve to noisy rewards, and predict when they are highest.

    The fit uses variable projection: for given rates, J_inf and the amplitudes solve a linear least-squares
    problem, so only the two rates are searched for, first on a grid and then by ``scipy.optimize``. The
    interval comes from resampled residuals.

    Args:
        times: ascending, for example updates done, [n].
        values: rewards, [n].

    Returns:
        None with fewer than 8 points, if the curve or more than a tenth of its bootstrap has no peak, or if
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
    optimum = minimize(missed, start, method="Nelder-Mead", bounds=bounds, options={"maxiter": 200})
    rates = np.sort(np.exp(optimum.x))[::-1]
    (steady, a_high, a_low), fitted = _projected(since, y, rates)
    high, low = (float(a_high), float(rates[0])), (float(a_low), float(rates[1]))
    peak = peak_of_two_modes(high, low)
    interval = _bootstrap(since, y, fitted, grid)
    if peak is None or peak < 0 or interval is None or interval[1] - interval[0] > span:
        return None
    return TwoModes(float(steady), high, low, first + peak, (first + interval[0], first + interval[1]))


def _projected(since: Array, y: Array, rates: Array) -> tuple[Array, Array]:
    """Return the least-squares (J_inf, A_1, A_2) for two rates, and the curve that they make."""
    basis = np.stack([np.ones_like(since), *np.exp(-rates[:, None] * since)], axis=1)
    coefficients = np.linalg.lstsq(basis, y, rcond=None)[0]
    return coefficients, basis @ coefficients


def _search(since: Array, curves: Array, grid: Array) -> Array:
    """Find A_hi, gamma_hi, A_lo, gamma_lo [B, 4] of the best pair of grid rates, for each curve [B, n]."""
    basis = np.exp(-grid[:, None] * since)
    basis -= basis.mean(axis=1, keepdims=True)  # removes J_inf from the least-squares problem
    gram, right = basis @ basis.T, basis @ (curves - curves.mean(axis=1, keepdims=True)).T
    low, high = np.triu_indices(len(grid), k=2)  # without equal or adjacent rates, which are nearly collinear
    # Solve the 2 x 2 normal equations for all pairs of rates at once.
    cross, s_low, s_high = gram[low, high, None], gram[low, low, None], gram[high, high, None]
    determinant = s_low * s_high - cross**2
    a_low = (s_high * right[low] - cross * right[high]) / determinant
    a_high = (s_low * right[high] - cross * right[low]) / determinant
    # The pair that explains the largest sum of squares.
    best = np.argmax(a_low * right[low] + a_high * right[high], axis=0)
    each = np.arange(len(curves))
    return np.stack([a_high[best, each], grid[high[best]], a_low[best, each], grid[low[best]]], axis=1)


def _bootstrap(since: Array, y: Array, fitted: Array, grid: Array) -> tuple[float, float] | None:
    """Find the interval of the peak's time from resampled residuals; None if too few curves have a peak."""
    generator, residuals = np.random.default_rng(SEED), y - fitted
    # Residuals of a fit are too small: its five parameters have followed the noise.
    residuals = (residuals - residuals.mean()) * np.sqrt(len(y) / (len(y) - 5))
    curves = fitted + generator.choice(residuals, size=(BOOTSTRAPS, len(y)))
    peaks = [peak_of_two_modes((a, b), (c, d)) for a, b, c, d in _search(since, curves, grid).tolist()]
    positive = [peak for peak in peaks if peak is not None and peak > 0]
    if len(positive) < PEAKED * BOOTSTRAPS:
        return None
    return float(np.quantile(positive, 0.05)), float(np.quantile(positive, 0.95))
