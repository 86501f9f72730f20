"""Fit a rise and a decay to a curve of rewards, to predict when it is highest.

The fitted curve is that of a quadratic reward with one stiff and one soft direction (arXiv 2602.00170), with
the amplitudes and rates of ``es_lightning.landscape.quadratic``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from es_lightning.analysis.two_mode_curve import TwoModeCurve
from es_lightning.errors import UsageError

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class TwoModes:
    """A fit of J_inf + A_hi exp(-gamma_hi t) + A_lo exp(-gamma_lo t) to a curve that has a peak.

    Args:
        steady: J_inf, in reward units.
        high: A_hi and gamma_hi, with t counted from the first point.
        low: A_lo and gamma_lo.
        peak: time at which the curve is highest, in the unit of the points' times.
        interval: 90 % interval of ``peak``.
        correlation: of the noise of neighbouring points, as estimated.
    """

    steady: float
    high: tuple[float, float]
    low: tuple[float, float]
    peak: float
    interval: tuple[float, float]
    correlation: float


@dataclass(frozen=True)
class Judged:
    """What a curve says about its peak.

    Args:
        modes: the fit; None if no peak can be told.
        reason: why not, as a sentence; empty if there is a fit.
        low_interval: 90 % interval of A_lo, whose upper end is infinite if the decay's end is not in sight;
            None without a fit, or if it was not asked for.
    """

    modes: TwoModes | None
    reason: str = ""
    low_interval: tuple[float, float] | None = None


LEAST = 8  # points that a fit needs
CHANCE = 0.01  # at which the second mode may be mere noise


def fit_two_modes(times: npt.ArrayLike, values: npt.ArrayLike) -> TwoModes | None:
    """Fit the two-mode curve to noisy rewards, and predict when they are highest.

    Args:
        times: for example updates done, in any order; values at equal times are averaged, [n].
        values: rewards, [n].

    Returns:
        None where ``judge_two_modes`` has a reason.

    Raises:
        UsageError: there are not as many values as times, or one of them is not finite.
    """
    return judge_two_modes(times, values).modes


def judge_two_modes(times: npt.ArrayLike, values: npt.ArrayLike, low_interval: bool = False) -> Judged:
    """Fit the two-mode curve to noisy rewards, or say why no peak can be told.

    The fit uses variable projection (Golub and Pereyra 1973): for given rates, J_inf and the amplitudes solve
    a linear least-squares problem, so only the two rates are searched for, first on a grid and then by
    ``scipy.optimize``. The noise is AR(1), its correlation estimated together with the curve. A peak is told
    only if the second mode lowers the squares more than noise would (F test at 1 %). The interval holds all
    peaks whose best curve misses the points not much more than the best curve of all (profile likelihood):
    RSS(t) <= RSS (1 + F_0.9(1, m - 5) / (n - 5)), m = n (1 - rho) / (1 + rho).

    Args:
        times: for example updates done, in any order; values at equal times are averaged, [n].
        values: rewards, [n].
        low_interval: whether to find the interval of A_lo as well.

    Raises:
        UsageError: there are not as many values as times, or one of them is not finite.
    """
    at, rewards = _in_order(times, values)
    if len(at) < LEAST:
        return Judged(None, f"there are {len(at)} points in time, and a fit needs {LEAST}")
    if not np.ptp(rewards) > 0:
        return Judged(None, "the reward never changes")
    curve = TwoModeCurve(at - at[0], rewards)
    if (peak := curve.peak) is None or peak <= 0:
        return Judged(None, "the fitted curve has no peak: it does not rise and then fall")
    if curve.chance_of_one > CHANCE:
        chance = f"a curve without a peak explains the points as well (F test: p = {curve.chance_of_one:.2g})"
        return Judged(None, chance)
    span = float(curve.since[-1])
    low, high = curve.peak_interval(most=2 * span)
    if not high - low <= span:
        return Judged(None, "the points do not say when the peak is: its interval is wider than all of them")
    (steady, a_high, a_low), (rate_high, rate_low) = curve.coefficients, curve.rates
    first = float(at[0])
    modes = TwoModes(
        steady=float(steady * curve.scale + curve.middle),
        high=(float(a_high) * curve.scale, float(rate_high)),
        low=(float(a_low) * curve.scale, float(rate_low)),
        peak=first + peak,
        interval=(first + low, first + high),
        correlation=curve.noise.rho,
    )
    return Judged(modes, low_interval=curve.low_interval() if low_interval else None)


def _in_order(times: npt.ArrayLike, values: npt.ArrayLike) -> tuple[Array, Array]:
    at, rewards = np.asarray(times, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if at.shape != rewards.shape or at.ndim != 1:
        raise UsageError(f"a curve has {at.size} times and {rewards.size} values: give one value per time.")
    if not (np.isfinite(at).all() and np.isfinite(rewards).all()):
        raise UsageError("a curve has times or values that are not finite: leave those points out.")
    distinct, place = np.unique(at, return_inverse=True)
    return distinct, np.bincount(place, rewards, len(distinct)) / np.bincount(place, minlength=len(distinct))
