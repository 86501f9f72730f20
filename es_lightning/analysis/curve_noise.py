"""How noisy a curve is: scale, correlation and resolution of its noise, whatever the trend."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

ROUNDING = 1e-7  # relative; rewards closer than this count as equal
FAR, HIGHEST = 5, 0.7  # distance in points to the far neighbours, and the highest correlation estimated


def running_noise(curves: Array, apart: int = 1) -> Array:
    """Estimate the standard deviation of the noise around smooth curves, after each point.

    The estimate uses each point's distance to the straight line between its neighbours, so slopes do not
    count. The variance of that distance is 1.5 times the noise's (Gasser, Sroka and Jennen-Steinmetz 1986,
    Biometrika 73). The first tenth of the points, where a reward may rise steeply, is left out.

    Args:
        curves: float64 [R, n].
        apart: distance to the neighbours, in points.

    Returns:
        float64 [R, n]; 0 for the first ``2 * apart`` points.
    """
    noise = np.zeros_like(curves)
    bends = curves[:, apart:-apart] - 0.5 * (curves[:, : -2 * apart] + curves[:, 2 * apart :])
    sums = np.cumsum(np.pad(bends**2, ((0, 0), (1, 0))), axis=1)
    last = np.arange(1, bends.shape[1] + 1)
    first = np.minimum((last + 2 * apart) // 10, last - 1)
    noise[:, 2 * apart :] = np.sqrt((sums[:, last] - sums[:, first]) / (1.5 * (last - first)))
    return noise


def running_correlation(curves: Array) -> Array:
    """Estimate the correlation rho of neighbouring points' AR(1) noise, after each point, from 0 to 0.7.

    A point's distance to the line between its neighbours k points away has variance proportional to
    1.5 - 2 rho^k + rho^2k / 2. The ratio of the variances at k = 1 and k = 5 therefore determines rho. Few
    points say little about it, so the estimate is cautious, that is, too high: a ratio from m distances is
    multiplied by exp(-1.5 / sqrt m), and rho is 0.7 for the first ten points.

    Args:
        curves: float64 [R, n].

    Returns:
        float64 [R, n].
    """
    near, far = running_noise(curves) ** 2, running_noise(curves, FAR) ** 2
    points = np.arange(1, curves.shape[1] + 1)
    caution = np.exp(-1.5 / np.sqrt(np.maximum(points - points // 10 - 2 * FAR, 1)))
    rho = np.linspace(0.0, HIGHEST, 71)
    ratio = (1.5 - 2 * rho + rho**2 / 2) / (1.5 - 2 * rho**FAR + rho ** (2 * FAR) / 2)
    measured = caution * np.divide(near, far, out=np.zeros_like(near), where=far > 0)
    return np.asarray(np.interp(-measured, -ratio, rho))


def resolution(curve: Array) -> float:
    """Return the least noise to assume: half the smallest step between values.

    Accuracies of k out of 64, for example, repeat values because they are coarse, not because they are exact.
    """
    rounding = ROUNDING * float(np.abs(curve).max())
    steps = np.diff(np.unique(curve))
    steps = steps[steps > rounding]
    return max(float(steps.min()) / 2, rounding) if len(steps) else rounding
