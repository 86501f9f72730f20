"""How noisy a curve is: scale, correlation and resolution of what was measured, whatever its trend."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

ROUNDING = 1e-7  # relative; rewards closer than this are called equal
FAR, HIGHEST = 5, 0.7  # points between far neighbours, and the highest correlation believed in


def running_noise(curves: Array, apart: int = 1) -> Array:
    """Standard deviation of the noise around smooth curves, after each point.

    From each point's distance to the straight line between its neighbours, whose variance is 1.5 times the
    noise's (Gasser, Sroka and Jennen-Steinmetz 1986, Biometrika 73): slopes do not count. The first tenth of
    the points, where a reward may rise steeply, is left out.

    Args:
        curves: float64 [R, n].
        apart: how many points away the neighbours lie.

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
    """Correlation rho of neighbouring points' AR(1) noise around smooth curves, after each point, 0 to 0.7.

    A point's distance to the line between its neighbours k points away has variance proportional to
    1.5 - 2 rho^k + rho^2k / 2; rho solves for the ratio at k = 1 and k = 5. Few points tell little: the ratio
    of m distances is lowered by a factor exp(-1.5 / sqrt m), and 0.7 taken for the first ten points.

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
    """Least noise to believe in: half the smallest step between values, as in accuracies of k out of 64."""
    rounding = ROUNDING * float(np.abs(curve).max())
    steps = np.diff(np.unique(curve))
    steps = steps[steps > rounding]
    return max(float(steps.min()) / 2, rounding) if len(steps) else rounding
