"""Has a reward curve passed its peak? A sequential test whose false-alarm rate holds for a whole run.

The test compares two windows of equal length, the best one so far and the latest one, for many lengths. Its
critical values are those of noise around a constant mean, found by simulation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from es_lightning.analysis.curve_noise import resolution, running_correlation, running_noise
from es_lightning.errors import UsageError

Array = npt.NDArray[np.float64]

SEED = 20_260_200_170  # seed of the simulated runs, so that critical values are the same everywhere
CHUNK = 2**21  # simulated points in memory at once
# Noise of the simulated runs where the test estimates its correlation: correlation of neighbouring points in
# the AR(1) part, and share of the variance that is white. A centre that wanders and is measured with jitter
# looks like the mixtures.
KINDS = ((0.0, 0.0), (0.4, 0.0), (0.75, 0.0), (0.75, 0.5), (0.9, 0.25), (0.9, 0.5), (0.95, 0.5))
FAR = {5: 2.0, 10: 3.0}  # about the square root of a distance in points, beside that distance


@dataclass(frozen=True)
class PeakVerdict:
    """What the test says after a point.

    Args:
        alarm: whether the curve has fallen from its peak.
        statistic: fall from the best to the latest window, the largest over all lengths, in a scale that only
            ``critical`` gives a meaning.
        critical: what ``statistic`` must exceed; infinite while there are too few points.
        window: length in points of the windows that ``statistic`` compares.
        peak: index of the point in the middle of the best window.
        level: mean of the best window, in units of the values.
        latest: mean of the latest window.
    """

    alarm: bool
    statistic: float
    critical: float
    window: int
    peak: int
    level: float
    latest: float

    def nearness(self) -> float:
        """Return how near the statistic is to an alarm: its share of the critical value, above 1 if beyond.

        It is 0 where there can be no alarm yet.
        """
        if not self.alarm and (self.critical <= 0 or math.isinf(self.critical)):
            return 0.0
        return self.statistic / self.critical if self.critical > 0 else math.inf


class PeakTest:
    """Tests a curve after every new point; high values are good.

    The windows are averages of running medians of three points, so that a single outlier, which noise with
    heavy tails produces, does not make a peak.

    The critical values are those of a constant curve. If the correlation is known, no curve that never falls
    raises more false alarms than a constant one. The median of three points lies between the means at the
    first and at the last of them, and the windows lie at least three points apart. So a rising mean can only
    lower the differences between windows, whatever the noise. Bends of the mean can only raise the estimate
    of the noise.

    Args:
        false_alarm_rate: chance of any alarm in a whole run whose mean never falls, 0.001 to 0.5.
        horizon: points of a whole run; later points are compared with the last critical value.
        smallest: length of the shortest window in points, odd, at least 3.
        min_points: points before which there is no alarm.
        min_drop: fall that is not worth an alarm, in units of the values.
        correlation: correlation of the noise of neighbouring points, 0 to 0.9, which the critical values
            allow for. None estimates it after each point; the critical values then allow for up to 0.75, and
            for up to 0.95 beside as much white noise.

    Raises:
        UsageError: a value is outside its range.
    """

    def __init__(
        self,
        false_alarm_rate: float = 0.05,
        horizon: int = 128,
        smallest: int = 3,
        min_points: int = 9,
        min_drop: float = 0.0,
        correlation: float | None = None,
    ) -> None:
        check_settings(false_alarm_rate, smallest, min_points, min_drop, correlation)
        self.smallest, self.min_points, self.min_drop = smallest, min_points, min_drop
        self.correlation = correlation
        self._calibration = (false_alarm_rate, max(horizon, min_points), smallest, min_points)

    def critical(self, curves: Array, least: float = 0.0) -> Array:
        """Return critical values [R, n] after each point of curves [R, n]; infinite where alarms are off."""
        table = critical_values(*self._calibration, self.correlation)
        values = table[np.minimum(np.arange(curves.shape[1]), len(table) - 1)]
        found, on = np.full(curves.shape, np.inf), np.isfinite(values)
        found[:, on] = values[on] * allowance(curves, self.correlation, least)[:, on]
        return found

    def __call__(self, values: Sequence[float]) -> PeakVerdict:
        """Judge a curve by all its points so far.

        Args:
            values: finite, at least one, in the order they were measured.
        """
        curve = np.asarray(values, dtype=np.float64)
        least = resolution(curve)
        critical = float(self.critical(curve[None], least)[0, -1])
        noise = max(float(running_noise(curve[None])[0, -1]), least)
        comparisons = []
        for window in windows(len(curve), self.smallest) or [min(len(curve), self.smallest)]:
            means = smoothed(curve, window)
            # Only windows that end before the latest one begins can be the best one.
            best = int(np.argmax(means[: max(len(means) - window, 1)]))
            level, latest = float(means[best]), float(means[-1])
            error = noise * float(np.sqrt(2 / window))
            statistic = (level - latest - self.min_drop) / error if error > 0 else 0.0
            comparisons.append((statistic, window, best, level, latest))
        statistic, window, best, level, latest = max(comparisons)
        return PeakVerdict(
            statistic > critical, statistic, critical, window, middle(best, window), level, latest
        )


def windows(points: int, smallest: int) -> list[int]:
    """Return the lengths of which two windows fit side by side; they are odd, and about double each time."""
    half, lengths = smallest // 2, []
    while 2 * (2 * half + 1) <= points:
        lengths.append(2 * half + 1)
        half = max(1, 2 * half)
    return lengths


def running_medians(curves: Array) -> Array:
    """Take the median of each point [R, n] and the two before it; the first two get the mean so far."""
    medians = curves.copy()
    medians[:, 1:2] = curves[:, :2].mean(axis=1, keepdims=True)
    medians[:, 2:] = np.median(np.stack([curves[:, 2:], curves[:, 1:-1], curves[:, :-2]]), axis=0)
    return medians


def smoothed(curve: Array, window: int) -> Array:
    """Average each ``window`` running medians of a curve [n]: float64 [n - window + 1]; see ``middle``."""
    medians = running_medians(curve[None])[0]
    return np.asarray(np.convolve(medians, np.full(window, 1 / window), mode="valid"))


def middle(first: int, window: int) -> int:
    """Return the index of the point that a smoothed value belongs to; a running median lags by one point."""
    return max(first + window // 2 - 1, 0)


def statistics(curves: Array, smallest: int, min_drop: float = 0.0) -> Array:
    """Compute the test's statistic after each point of many curves, whose values are continuous.

    Args:
        curves: float64 [R, n].
        smallest: length of the shortest window.
        min_drop: fall that does not count.

    Returns:
        float64 [R, n]; minus infinity where no two windows fit.
    """
    noise, sums = running_noise(curves), np.cumsum(running_medians(curves), axis=1)
    sums = np.concatenate([np.zeros((len(curves), 1)), sums], axis=1)
    largest = np.full_like(curves, -np.inf)
    for window in windows(curves.shape[1], smallest):
        means = (sums[:, window:] - sums[:, :-window]) / window
        best = np.maximum.accumulate(means, axis=1)[:, :-window]
        error = noise[:, 2 * window - 1 :] * np.sqrt(2 / window)
        falls = best - means[:, window:] - min_drop
        ratio = np.divide(falls, error, out=np.zeros_like(falls), where=error > 0)
        part = largest[:, 2 * window - 1 :]
        np.maximum(part, ratio, out=part)
    return largest


def allowance(curves: Array, correlation: float | None, least: float = 0.0) -> Array:
    """Compute the factor on the critical values, [R, n] after each point; 1 if the correlation is known.

    The factor is noise / (1 - rho)^2, divided by noise, both of them estimates. A known rho would need less.
    Because rho is estimated, this makes the share of runs with an alarm about equal for all correlations.
    White noise hides slow noise from rho, but not from the noise around neighbours that are far away: the
    numerator is at least ``FAR`` times that. A fall looks like correlation, so the smallest of the latest
    eight numerators is used.

    Args:
        curves: float64 [R, n].
        correlation: the known correlation; None estimates it.
        least: lower bound of the noise, in units of the values.
    """
    if correlation is not None:
        return np.ones_like(curves)
    noise = np.maximum(running_noise(curves), least)
    errors = noise / (1 - running_correlation(curves)) ** 2
    for apart, factor in FAR.items():
        errors = np.maximum(errors, factor * running_noise(curves, apart))
    errors = np.pad(errors, ((0, 0), (7, 0)))
    errors[:, :12] = np.inf  # the padding, and the first five points, which say hardly anything of the noise
    errors = np.lib.stride_tricks.sliding_window_view(errors, 8, axis=1).min(axis=-1)
    return np.asarray(np.divide(errors, noise, out=np.ones_like(curves), where=noise > 0))


@lru_cache(maxsize=32)
def critical_values(
    false_alarm_rate: float, horizon: int, smallest: int, min_points: int, correlation: float | None = 0.0
) -> Array:
    """Find the critical values for a run of ``horizon`` points, from simulated runs without a peak.

    Their shape over time is the 99 % quantile of the statistic after each point. It allows for how poorly a
    few points determine the noise. Their height is such that the given share of the runs raises any alarm.

    Args:
        false_alarm_rate: share of runs that raise an alarm.
        horizon: points of a run.
        smallest: length of the shortest window.
        min_points: points before which there is no alarm.
        correlation: correlation of the noise of neighbouring points; None gives multiples of ``allowance``
            that are high enough for each of ``KINDS``.

    Returns:
        float64 [horizon], read-only.
    """
    simulated = KINDS if correlation is None else ((correlation, 0.0),)
    runs = int(np.clip(2e7 / horizon, 2_000, max(5_000, 20 / false_alarm_rate))) // min(3, len(simulated))
    generator, kinds = np.random.default_rng(SEED), []
    for rho, white in simulated:
        parts = []
        for start in range(0, runs, max(1, CHUNK // horizon)):
            rows = min(max(1, CHUNK // horizon), runs - start)
            noise = _autoregressive(generator.standard_normal((rows, horizon)), rho)
            if white:
                jitter = generator.standard_normal((rows, horizon))
                noise = np.sqrt(1 - white) * noise + np.sqrt(white) * jitter
            ratios = statistics(noise, smallest)[:, min_points - 1 :]
            parts.append(ratios / allowance(noise, correlation)[:, min_points - 1 :])
        kinds.append(np.concatenate(parts))
    shape = np.max([np.quantile(kind, 0.99, axis=0) for kind in kinds], axis=0)
    highest = [(kind / shape).max(axis=1) for kind in kinds]
    height = np.max(np.quantile(highest, 1 - false_alarm_rate, axis=1, method="higher"))
    table: Array = np.concatenate([np.full(min_points - 1, np.inf), shape * height])
    table.flags.writeable = False
    return table


def _autoregressive(noise: Array, correlation: float) -> Array:
    """Turn white noise [R, n] into noise of unit variance whose neighbours are correlated, in place."""
    scale = np.sqrt(1 - correlation**2)
    for t in range(1, noise.shape[1] if correlation else 0):
        noise[:, t] = correlation * noise[:, t - 1] + scale * noise[:, t]
    return noise


def check_settings(
    false_alarm_rate: float,
    smallest: int,
    min_points: int,
    min_drop: float,
    correlation: float | None = None,
) -> None:
    """Refuse settings that are outside their range."""
    rules = {
        f"false_alarm_rate is {false_alarm_rate}: give 0.001 to 0.5.": 0.001 <= false_alarm_rate <= 0.5,
        f"smoothing is {smallest}: give an odd number from 3 on.": smallest >= 3 and smallest % 2 == 1,
        f"min_points is {min_points}: give at least 2 * smoothing.": min_points >= 2 * smallest,
        f"min_drop is {min_drop}: give at least 0, in the metric's units.": min_drop >= 0,
        f"correlation is {correlation}: give 0 to 0.9.": correlation is None or 0 <= correlation <= 0.9,
    }
    for sentence, kept in rules.items():
        if not kept:
            raise UsageError(sentence)
