"""How noisy a curve is: scale, correlation and resolution of what was measured, whatever its trend."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

ROUNDING = 1e-7  # relative; rewards closer than this are called equal


def running_noise(curves: Array) -> Array:
    """Standard deviation of the noise around smooth curves, after each point.

    From each point's distance to the straight line between its neighbours, whose variance is 1.5 times the
    noise's (Gasser, Sroka and Jennen-Steinmetz 1986, Biometrika 73): slopes do not count.

    Args:
        curves: float64 [R, n].

    Returns:
        float64 [R, n]; 0 for the first two points.
    """
    noise = np.zeros_like(curves)
    bends = curves[:, 1:-1] - 0.5 * (curves[:, :-2] + curves[:, 2:])
    counts = np.arange(1, bends.shape[1] + 1)
    noise[:, 2:] = np.sqrt(np.cumsum(bends**2, axis=1) / (1.5 * counts))
    return noise


def estimated_correlation(curve: Array) -> float:
    """Correlation rho of neighbouring points' AR(1) noise around a smooth curve [n], 0 to 0.9.

    A point's distance to the line between its neighbours k points away has variance proportional to
    1.5 - 2 rho^k + rho^2k / 2; rho solves for the ratio at k = 1 and k = 3. Distances over 4.4 times their
    median, as a steep start has them, are cut there. 0 for fewer than 12 points.
    """
    if len(curve) < 12:
        return 0.0
    near, far = (_cut_variance(curve[k:-k] - 0.5 * (curve[: -2 * k] + curve[2 * k :])) for k in (1, 3))
    if not near > 0 or not far > 0:
        return 0.0
    rho = np.linspace(0.0, 0.9, 91)
    ratio = (1.5 - 2 * rho + rho**2 / 2) / (1.5 - 2 * rho**3 + rho**6 / 2)
    return float(np.interp(-near / far, -ratio, rho))


def _cut_variance(bends: Array) -> float:
    return float(np.mean(np.minimum(bends**2, (4.4 * np.median(np.abs(bends))) ** 2)))


def resolution(curve: Array) -> float:
    """Least noise to believe in: half the smallest step between values, as in accuracies of k out of 64."""
    rounding = ROUNDING * float(np.abs(curve).max())
    steps = np.diff(np.unique(curve))
    steps = steps[steps > rounding]
    return max(float(steps.min()) / 2, rounding) if len(steps) else rounding
