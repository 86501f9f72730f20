"""The two-mode curve that fits given points best: its rates, its peak, and what the points allow of both.

``two_modes`` decides whether to believe it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
import numpy.typing as npt

from es_lightning.analysis.autoregression import Autoregression

Array = npt.NDArray[np.float64]

PARAMETERS = 5  # of the curve
GRID = 40  # number of rates, from 0.1 e-foldings over the whole curve to 4 between two points
LEVEL = 0.9  # of the intervals
ROUNDS = 3  # of fit and correlation in turn
MOST_TRIALS = 30  # of rates in one search: where two rates are nearly one, it would creep along a valley
EXACT = 1e-10  # noise that is not told from none, as a share of the curve's range
SAME = 1e-7  # difference of logarithms of rates below which rounding errors would decide on their shape
STEEPEST = 600.0  # exponent beyond which exp would overflow


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


class TwoModeCurve:
    """Points with the best two-mode curve through them; rewards are shifted and scaled to a range of 1.

    Args:
        since: times from the first point on, ascending, [n].
        rewards: [n]; they are not all alike.
    """

    def __init__(self, since: Array, rewards: Array) -> None:
        self.since, self.middle, self.scale = since, float(rewards.mean()), float(np.ptp(rewards))
        self.rewards = (rewards - self.middle) / self.scale
        usual = float(np.median(np.diff(since)))
        self.grid = np.geomspace(0.1 / float(since[-1]), 4 / usual, GRID)
        self.noise = Autoregression(np.diff(since) / usual)
        logs = np.log(np.array(_search(since, self.rewards, self.grid)))
        for _ in range(ROUNDS):
            logs = min((self._fitted(start) for start in np.atleast_2d(logs)), key=self._missed)
            self.noise = self.noise.estimated(*self._linearised(logs))
        self.rates = np.sort(np.exp(self._fitted(logs)))[::-1]
        self.coefficients, left = self._projected(self._modes(np.log(self.rates)))
        self.squares = max(float(left @ left), len(since) * EXACT**2)

    @property
    def peak(self) -> float | None:
        """When the curve is highest, from its first point; None if it does not rise and then fall."""
        (_, a_high, a_low), (rate_high, rate_low) = self.coefficients.tolist(), self.rates.tolist()
        return peak_of_two_modes((a_high, rate_high), (a_low, rate_low))

    @cached_property
    def chance_of_one(self) -> float:
        """Chance of an F statistic as large as that of two modes against one, if there is only one."""
        from scipy.stats import f

        one = self._missed(self._fitted(min(np.log(self.grid[:, None]), key=self._missed)))
        statistic = (one - self.squares) / 2 / (self.squares / self._freedom)
        return float(f.sf(max(statistic, 0.0), 2, self._freedom))

    def peak_interval(self, most: float) -> tuple[float, float]:
        """The peaks, from 0 to ``most``, that the points allow; infinite if they allow later ones."""

        def curve(peak: float) -> Callable[[Array], tuple[Array, Array]]:
            def columns(logs: Array) -> tuple[Array, Array]:
                # With the slope 0 at the peak, one amplitude determines the other.
                shape = peaked_shape(logs, self.since - peak)
                return np.stack([np.ones_like(shape), shape / np.abs(shape).max()], axis=1), self.rewards

            return columns

        assert self.peak is not None
        return self._interval(curve, self.peak, (0.0, most))

    def low_interval(self) -> tuple[float, float]:
        """The amplitudes A_lo that the points allow, in reward units."""

        def curve(amplitude: float) -> Callable[[Array], tuple[Array, Array]]:
            def columns(logs: Array) -> tuple[Array, Array]:
                fast, slow = np.exp(-np.exp(logs)[:, None] * self.since)
                return np.stack([np.ones_like(fast), fast], axis=1), self.rewards - amplitude * slow

            return columns

        best = float(self.coefficients[2])
        low, high = self._interval(curve, best, (0.0, 1e3 * best))
        return low * self.scale, high * self.scale

    def _interval(
        self,
        curve: Callable[[float], Callable[[Array], tuple[Array, Array]]],
        best: float,
        ends: tuple[float, float],
    ) -> tuple[float, float]:
        """Find the values of one parameter, held while the others are fitted, that the points allow.

        Args:
            curve: for a value of the parameter, what makes columns and points of the rates' logarithms.
            best: value of the best fit.
            ends: least and largest value to try.
        """
        from scipy.stats import f

        allowed = float(f.ppf(LEVEL, 1, self._independent)) * self.squares / self._freedom
        low, high = (self._edge(curve, best, end, allowed) for end in ends)
        return low, high

    def _edge(
        self,
        curve: Callable[[float], Callable[[Array], tuple[Array, Array]]],
        best: float,
        end: float,
        allowed: float,
    ) -> float:
        """Find where the least squares exceed the best fit's by ``allowed``, between its value and an end.

        Returns:
            0 or infinity if even the end is within what is allowed.
        """
        from scipy.optimize import brentq

        logs = np.log(self.rates)
        # From other rates a search may end elsewhere. A value is judged once, so that an end of the bracket
        # keeps the sign for which it was taken.
        known = {best: -float(np.sqrt(allowed))}

        def excess(value: float) -> float:
            if value not in known:
                known[value] = judged(value)
            return known[value]

        def judged(value: float) -> float:
            nonlocal logs  # the neighbour's rates are where the search for these begins
            columns = curve(value)
            logs = self._minimum(lambda tried: self._projected(*columns(tried))[1], logs)
            left = self._projected(*columns(logs))[1]
            more = max(float(left @ left) - self.squares, 0.0)
            # Squares grow as those of the distance from the best value; roots of them are nearly lines.
            return float(np.sqrt(more) - np.sqrt(allowed))

        inside, step = best, 1e-3 * abs(best)
        while True:
            at_end = step >= abs(end - best)
            outside = end if at_end else best + step * (1 if end > best else -1)
            if excess(outside) > 0:
                return float(brentq(excess, inside, outside, rtol=1e-4))
            if at_end:
                return 0.0 if end == 0 else np.inf
            inside, step = outside, 2 * step

    @property
    def _freedom(self) -> int:
        return len(self.since) - PARAMETERS

    @property
    def _independent(self) -> float:
        """Degrees of freedom of as many independent points as tell the mean as well, at least 1.

        The more correlated the noise is, the less is known of its size and its correlation.
        """
        rho = self.noise.rho
        return max(len(self.since) * (1 - rho) / (1 + rho) - PARAMETERS, 1.0)

    def _modes(self, logs: Array) -> Array:
        """A constant and a decaying exponential for each logarithm of a rate, [n, 1 + k]."""
        decays = np.exp(-np.exp(logs)[:, None] * self.since)
        return np.stack([np.ones_like(self.since), *decays], axis=1)

    def _projected(self, columns: Array, points: Array | None = None) -> tuple[Array, Array]:
        """Return the least-squares coefficients of columns, and what they leave, made white."""
        white = self.noise.whiten(columns)
        target = self.noise.whiten(self.rewards if points is None else points)
        coefficients = np.asarray(np.linalg.lstsq(white, target, rcond=None)[0], dtype=np.float64)
        return coefficients, target - white @ coefficients

    def _fitted(self, logs: Array) -> Array:
        """Improve logarithms of rates until the curve of those modes misses the points least."""
        return self._minimum(lambda tried: self._projected(self._modes(tried))[1], logs)

    def _missed(self, logs: Array) -> float:
        left = self._projected(self._modes(logs))[1]
        return float(left @ left)

    def _minimum(self, missed: Callable[[Array], Array], logs: Array) -> Array:
        from scipy.optimize import least_squares

        bounds = np.log(self.grid[0]) - 1, np.log(self.grid[-1]) + 0.5
        start = np.clip(logs, bounds[0] + 1e-6, bounds[1] - 1e-6)
        found = least_squares(
            missed, start, bounds=bounds, ftol=1e-8, xtol=1e-8, gtol=1e-15, max_nfev=MOST_TRIALS
        )
        return np.asarray(found.x)

    def _linearised(self, logs: Array) -> tuple[Array, Array]:
        """Return what the curve leaves of the points, and its derivatives by its five parameters, [n, 5]."""
        modes = self._modes(logs)
        coefficients, _ = self._projected(modes)
        by_rates = -self.since[:, None] * modes[:, 1:] * coefficients[1:]
        return self.rewards - modes @ coefficients, np.concatenate([modes, by_rates], axis=1)


def peaked_shape(logs: Array, since: Array) -> Array:
    """Return the difference of two exponentials of which each has the slope 1 at 0, or its limit, [n].

    Args:
        logs: logarithms of the two rates, [2]. Where they are one, the difference of exp(-gamma t) / gamma
            vanishes, and its shape tends to the derivative by log gamma.
        since: times, 0 at the peak, [n].
    """
    rates = np.exp(logs)[:, None]
    decays = np.exp(np.minimum(-rates * since, STEEPEST))
    if abs(logs[1] - logs[0]) < SAME:
        return np.asarray(-(decays * (since + 1 / rates)).mean(axis=0))
    return np.asarray(np.diff(decays / rates, axis=0)[0])


def _search(since: Array, rewards: Array, grid: Array) -> list[tuple[float, float]]:
    """Find the pair of the grid's rates that fits best, and the one that fits best with a peak."""
    basis = np.exp(-grid[:, None] * since)
    basis -= basis.mean(axis=1, keepdims=True)  # removes J_inf from the least-squares problem
    gram, right = basis @ basis.T, basis @ (rewards - rewards.mean())
    low, high = np.triu_indices(len(grid), k=2)  # without equal or adjacent rates, which are nearly collinear
    # Solve the 2 x 2 normal equations for all pairs of rates at once.
    cross, s_low, s_high = gram[low, high], gram[low, low], gram[high, high]
    determinant = s_low * s_high - cross**2
    a_low = (s_high * right[low] - cross * right[high]) / determinant
    a_high = (s_low * right[high] - cross * right[low]) / determinant
    explained = a_low * right[low] + a_high * right[high]
    peaked = np.where((a_high < 0) & (a_low > 0), explained, -np.inf)
    chosen = int(explained.argmax()), int(peaked.argmax())
    return [(float(grid[high[pair]]), float(grid[low[pair]])) for pair in chosen]
