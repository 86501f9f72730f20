"""A curve watched for its peak: its points, what the test and the fit say about them, and the alarms."""

from __future__ import annotations

import math
from typing import Any

from es_lightning.analysis.peak import PeakTest
from es_lightning.analysis.two_modes import fit_two_modes


class PeakWatch:
    """Keeps the points of a run, and judges those since the last stop or anneal.

    Args:
        sign: 1 if high values are good, -1 if low ones are.
        predict: whether to fit the two-mode curve.
        settings: settings of ``PeakTest``, except the horizon.
    """

    def __init__(self, sign: float, predict: bool, **settings: Any) -> None:
        PeakTest(**settings)  # raises if a setting is out of range
        self.sign, self.predict, self.settings = sign, predict, settings
        self.horizon: int | None = None
        self.points: list[list[float]] = []
        """Generation and value of all measurements."""
        self.alarms: list[dict[str, Any]] = []
        """Alarms that an action followed: generation, peak, level at the peak, latest level, and action."""
        self.since = -1
        """Points up to this generation are not judged any more: they lie before the last stop or anneal."""

    def lacks(self, generation: int) -> bool:
        """Whether all points lie before a generation."""
        return not self.points or self.points[-1][0] < generation

    def add(self, generation: int, value: float) -> tuple[dict[str, float], dict[str, Any] | None]:
        """Add a point and judge the curve.

        Args:
            generation: later than the generations of all points so far.
            value: finite.

        Returns:
            Numbers to log, and a description of the fall if the curve has fallen from its peak.
        """
        self.points.append([float(generation), value])
        stretch = [point for point in self.points if point[0] > self.since]
        times, upright = [point[0] for point in stretch], [self.sign * point[1] for point in stretch]
        # The critical values are cached, so making a test for every point costs little.
        verdict = PeakTest(**self.settings, horizon=self.horizon or 1)(upright)
        peak, level = int(times[verdict.peak]), self.sign * verdict.level
        numbers = {"health/peak_generation": float(peak), "health/peak_reward": level}
        if math.isfinite(verdict.critical):
            numbers["health/peak_statistic"] = verdict.statistic
            numbers["health/peak_critical"] = verdict.critical
        numbers |= self._prediction(times, upright)
        alarm = {"generation": generation, "peak": peak, "level": level}
        return numbers, alarm | {"latest": self.sign * verdict.latest} if verdict.alarm else None

    def _prediction(self, times: list[float], upright: list[float]) -> dict[str, float]:
        fitted = fit_two_modes(times, upright) if self.predict else None
        if fitted is None:
            return {}
        named = {"": fitted.peak, "_low": fitted.interval[0], "_high": fitted.interval[1]}
        return {f"health/predicted_peak{end}": value for end, value in named.items()}

    def state_dict(self) -> dict[str, Any]:
        """Points and alarms so far."""
        return {
            "points": self.points,
            "alarms": self.alarms,
            "since": self.since,
            "horizon": self.horizon,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.points = [list(point) for point in state_dict["points"]]
        self.alarms = [dict(alarm) for alarm in state_dict["alarms"]]
        self.since, self.horizon = state_dict["since"], state_dict["horizon"]
