"""The picture of a curve that is watched for its peak, and of the test that watches it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from es_lightning.analysis.peak import middle, smoothed
from es_lightning.reports.plots import ACCENT, INK, PALETTE, QUIET, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RED, GREEN = PALETTE[1], PALETTE[2]


def stack(above: Axes, below: Axes) -> None:
    """Put two axes that stand side by side on top of one another, with one time axis."""
    figure = above.figure
    grid = figure.add_gridspec(2, 1, height_ratios=[5, 2])
    above.set_subplotspec(grid[0])
    below.set_subplotspec(grid[1])
    above.sharex(below)
    above.tick_params(labelbottom=False)


@style()
def explain(above: Axes, below: Axes, rate: float, points: int | None) -> None:
    """Say over the picture how sure an alarm is, and in both axes what is what.

    Args:
        above: axes of the curve.
        below: axes of the test.
        rate: false-alarm rate.
        points: length of the run that it holds for; None if centres were compared prompt by prompt.
    """
    words = f"chance of an alarm in {points} points of a reward that never falls: {rate:g}"
    if points is None:
        words = f"compared prompt by prompt; chance of an alarm if no centre is worse than before: {rate:g}"
    above.set_title(words, fontsize=8)
    for axes in (above, below):
        axes.legend()


def smoothed_parts(
    points: Sequence[Sequence[float]], alarms: Sequence[Mapping[str, Any]], window: int
) -> list[list[tuple[float, float]]]:
    """Smooth the curve of each stretch between two alarms that ended a test.

    Args:
        points: generation and value of each measurement.
        alarms: generation and action of each alarm.
        window: points that the curve is smoothed over.

    Returns:
        Per stretch generations and smoothed values; none where there are too few points.
    """
    times, values = np.array(points, dtype=np.float64).reshape(-1, 2).T
    edges = [-np.inf, *(alarm["generation"] for alarm in alarms if alarm["action"] != "mark"), np.inf]
    parts = []
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        part = (times > low) & (times <= high)
        curve = smoothed(values[part], window) if part.sum() > window else values[:0]
        at = [middle(first, window) for first in range(len(curve))]
        parts.append(list(zip(times[part][at].tolist(), curve.tolist(), strict=True)))
    return parts


@style()
def draw_curve(
    axes: Axes, points: Sequence[Sequence[float]], alarms: Sequence[Mapping[str, Any]], window: int
) -> None:
    """Measured points, their smoothed curve, the peaks found, and where the test raised an alarm.

    Args:
        axes: drawn upon.
        points: generation and value of each measurement.
        alarms: generation, peak, level and action of each alarm.
        window: points that the curve is smoothed over.
    """
    times, values = np.array(points, dtype=np.float64).T
    axes.plot(times, values, ".", color=QUIET, ms=5, label="measured")
    parts = smoothed_parts(points, alarms, window)
    for number, part in enumerate(parts):
        if part:
            label = None if number else f"smoothed, {window} points"
            axes.plot(*zip(*part, strict=True), color=ACCENT, lw=1.8, label=label)
    drawn = {at: value for part in parts for at, value in part}
    for number, alarm in enumerate(alarms):
        labels = ("peak", "alarm") if number == 0 else (None, None)
        level = drawn.get(alarm["peak"], alarm["level"])
        axes.plot(alarm["peak"], level, "*", color=GREEN, ms=13, mec="white", label=labels[0])
        axes.axvline(alarm["generation"], color=RED, lw=1.2, ls="--", label=labels[1])
        axes.annotate(
            f" {alarm['action']}",
            (alarm["generation"], 0.02),
            xycoords=axes.get_xaxis_transform(),
            color=RED,
            fontsize=8,
        )


@style()
def draw_prediction(axes: Axes, rows: Sequence[Mapping[str, float]]) -> None:
    """When the latest fit of the two-mode curve expects the peak, with its 5 % to 95 % interval."""
    fitted = [row for row in rows if "health/predicted_peak" in row]
    if not fitted:
        return
    peak, low, high = (fitted[-1][f"health/predicted_peak{end}"] for end in ("", "_low", "_high"))
    axes.axvspan(low, high, color=GREEN, alpha=0.13, lw=0)
    axes.axvline(peak, color=GREEN, lw=1.2, ls=":", label="peak of the two-mode fit, 5 % to 95 %")


@style()
def draw_test(axes: Axes, rows: Sequence[Mapping[str, float]]) -> None:
    """The test's statistic after each point, as a share of the critical value that it must exceed."""
    tested = [row for row in rows if row.get("health/peak_critical", 0.0) > 0]
    times = [row["generation"] for row in tested]
    shares = [row["health/peak_statistic"] / row["health/peak_critical"] for row in tested]
    axes.plot(times, shares, color=INK, lw=1.4, label="fall from the peak")
    axes.axhline(1.0, color=RED, lw=1.2, ls="--", label="alarm above")
    axes.set_ylabel("statistic /\ncritical value")
