"""When a sum of decaying modes is largest, for any number of modes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from es_lightning.errors import UsageError

Array = npt.NDArray[np.float64]

NONE = 1e-200  # amplitudes smaller than this part of the largest, and such rates, are 0
LATEST = 1e250


def peak_of_modes(amplitudes: npt.ArrayLike, rates: npt.ArrayLike) -> float | None:
    """Find when J_inf + sum_i A_i exp(-gamma_i t) is largest, in steps from t = 0.

    The slope vanishes where sum_i gamma_i A_i exp(-gamma_i t) = 0 (arXiv 2602.00170). Such a sum has no more
    zeros than its amplitudes, in the order of the rates, have changes of sign (Descartes' rule), so rising
    and then falling needs amplitudes of both signs.

    Args:
        amplitudes: A_i, [k].
        rates: gamma_i, at least 0, [k]; a mode of rate 0 is constant.

    Returns:
        None if no time after 0 has a higher value than t = 0 and t = infinity.

    Raises:
        UsageError: there are not as many rates as amplitudes, or one of them is negative or not finite.
    """
    sizes, speeds = np.asarray(amplitudes, dtype=np.float64), np.asarray(rates, dtype=np.float64)
    if sizes.shape != speeds.shape or sizes.ndim != 1:
        raise UsageError(f"there are {sizes.size} amplitudes and {speeds.size} rates: give one of each.")
    if not (np.isfinite(sizes).all() and np.isfinite(speeds).all() and (speeds >= 0).all()):
        raise UsageError("a mode's amplitude or rate is not finite, or its rate is negative.")
    distinct, place = np.unique(speeds, return_inverse=True)
    sizes = np.bincount(place, sizes, len(distinct)).astype(np.float64)
    distinct, sizes = distinct[distinct > NONE], sizes[distinct > NONE]
    if not len(distinct):
        return None

    def value(time: float) -> float:
        return float(sizes @ np.exp(-distinct * time))

    times = _zeros(distinct * sizes, distinct)
    best = max(times, key=value, default=0.0)
    return best if best > 0 and value(best) > max(value(0.0), 0.0) else None


def _zeros(sizes: Array, rates: Array) -> list[float]:
    """Find all t > 0 at which sum_i c_i exp(-gamma_i t) crosses 0.

    Without the factor exp(-gamma_1 t) of the slowest mode, the derivative of the sum has one mode less. Its
    zeros part the times into stretches in each of which the sum crosses 0 at most once.

    Args:
        sizes: c_i, [k].
        rates: gamma_i, ascending and all different, [k].
    """
    from scipy.optimize import brentq

    counts = np.abs(sizes) > NONE * np.abs(sizes).max(initial=0.0)
    rates, sizes = rates[counts], sizes[counts]
    if len(sizes) < 2 or (np.sign(sizes) == np.sign(sizes[0])).all():
        return []
    above = rates - rates[0]
    sizes = sizes / np.abs(sizes).max()

    def value(time: float) -> float:
        return float(sizes @ np.exp(-above * time))

    edges = [0.0, *_zeros((above * sizes)[1:], above[1:])]
    far = (edges[-1] or 1 / above[-1]) * 2
    while value(far) * sizes[0] <= 0 and far < LATEST:  # the slowest mode outlives all others
        far *= 2
    edges.append(far)
    parts = [
        (start, end) for start, end in zip(edges, edges[1:], strict=False) if value(start) * value(end) < 0
    ]
    # Sizes of 1 and 1e-187 make it all but flat on one side, where steps are small.
    return [float(brentq(value, *part, xtol=1e-12, rtol=1e-14, maxiter=2000)) for part in parts]
