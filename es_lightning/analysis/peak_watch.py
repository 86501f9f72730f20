"""A curve watched for its peak: its points, what the test and the fit say about them, and the alarms."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

from es_lightning.analysis.paired_peak import LEAST_PROMPTS, PairedPeakTest
from es_lightning.analysis.peak import PeakTest, PeakVerdict
from es_lightning.analysis.two_modes import fit_two_modes
from es_lightning.errors import UsageError

log = logging.getLogger(__name__)


class PeakWatch:
    """Keeps the points of a run, and judges those since the last stop or anneal.

    Where each of these points has the values of at least 16 prompts, always of the same number, centres are
    compared prompt by prompt; elsewhere the curve is tested.

    Args:
        sign: 1 if high values are good, -1 if low ones are.
        predict: whether to fit the two-mode curve.
        settings: settings of ``PeakTest``, except the horizon.
    """

    def __init__(self, sign: float, predict: bool, **settings: Any) -> None:
        PeakTest(**settings)  # raises if a setting is out of range
        self.sign, self.predict, self.settings = sign, predict, settings
        self._test: PairedPeakTest | None = None
        self.horizon: int | None = None
        self.points: list[list[float]] = []
        """Generation and value of all measurements."""
        self.prompts: list[list[float]] = []
        """Values of the validation prompts in each measurement; empty where they are not known."""
        self.alarms: list[dict[str, Any]] = []
        """Alarms that an action followed: generation, peak, level at the peak, latest level, and action."""
        self.since = -1
        """Points up to this generation are not judged any more: they lie before the last stop or anneal."""

    def lacks(self, generation: int) -> bool:
        """Whether all points lie before a generation."""
        return not self.points or self.points[-1][0] < generation

    @property
    def paired(self) -> bool:
        """Whether the present stretch is judged prompt by prompt."""
        counts = {len(self.prompts[i]) for i in self._stretch()}
        return len(counts) == 1 and counts.pop() >= LEAST_PROMPTS

    def add(
        self, generation: int, value: float, prompts: Sequence[float] = ()
    ) -> tuple[dict[str, float], dict[str, Any] | None]:
        """Add a point and judge the curve.

        Args:
            generation: later than the generations of all points so far.
            value: finite.
            prompts: values of the prompts that ``value`` is the mean of, in the same order every time; empty
                if they are not known.

        Returns:
            Numbers to log, and a description of the fall if the curve has fallen from its peak.
        """
        self.points.append([float(generation), value])
        self.prompts.append(list(prompts))
        stretch = [self.points[i] for i in self._stretch()]
        times, upright = [point[0] for point in stretch], [self.sign * point[1] for point in stretch]
        verdict = self._verdict(upright)
        peak, level = int(times[verdict.peak]), self.sign * verdict.level
        numbers = {"health/peak_generation": float(peak), "health/peak_reward": level}
        if math.isfinite(verdict.critical):
            numbers["health/peak_statistic"] = verdict.statistic
            numbers["health/peak_critical"] = verdict.critical
        numbers |= self._prediction(times, upright)
        alarm = {"generation": generation, "peak": peak, "level": level}
        return numbers, alarm | {"latest": self.sign * verdict.latest} if verdict.alarm else None

    def _stretch(self) -> list[int]:
        return [i for i, point in enumerate(self.points) if point[0] > self.since]

    def _verdict(self, upright: list[float]) -> PeakVerdict:
        if not self.paired:
            # The critical values are cached, so making a test for every point costs little.
            return PeakTest(**self.settings, horizon=self.horizon or 1)(upright)
        stretch = self._stretch()
        if self._test is None or self._test.points != len(stretch) - 1:  # a new stretch, or a resumed run
            settings = {key: value for key, value in self.settings.items() if key != "correlation"}
            self._test = PairedPeakTest(len(self.prompts[-1]), **settings)
            for i in stretch[:-1]:
                self._test.add([self.sign * value for value in self.prompts[i]])
        return self._test.add([self.sign * value for value in self.prompts[-1]])

    def _prediction(self, times: list[float], upright: list[float]) -> dict[str, float]:
        if not self.predict:
            return {}
        try:
            fitted = fit_two_modes(times, upright)
        except UsageError:
            raise
        except (ArithmeticError, ValueError) as error:  # LinAlgError is one; no run is to end for a picture
            log.warning(
                "No peak is predicted, since the fit of the curve failed: %s. The run goes on.", error
            )
            return {}
        if fitted is None:
            return {}
        named = {"": fitted.peak, "_low": fitted.interval[0], "_high": fitted.interval[1]}
        return {f"health/predicted_peak{end}": value for end, value in named.items()}

    def state_dict(self) -> dict[str, Any]:
        """Points and alarms so far."""
        return {
            "points": self.points,
            "prompts": self.prompts,
            "alarms": self.alarms,
            "since": self.since,
            "horizon": self.horizon,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.points = [list(point) for point in state_dict["points"]]
        # Versions up to 0.1.0 kept no values of prompts: what they began goes on with the test of the curve.
        self.prompts = [list(each) for each in state_dict.get("prompts", [[] for _ in self.points])]
        self._test = None
        self.alarms = [dict(alarm) for alarm in state_dict["alarms"]]
        self.since, self.horizon = state_dict["since"], state_dict["horizon"]
