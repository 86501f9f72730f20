"""A rise and a decay, fitted to a curve of rewards: when is it highest?

The curve is that of a quadratic reward with one stiff and one soft direction (arXiv 2602.00170); see
``es_lightning.landscape.quadratic``, whose amplitudes and rates these are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


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
    positive = [peak for peak in peaks if peak is not None and peak > 0]
    if len(positive) < PEAKED * BOOTSTRAPS:
        return None
    return float(np.quantile(positive, 0.05)), float(np.quantile(positive, 0.95))
