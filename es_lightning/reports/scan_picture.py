"""Pictures of scans: the reward along a line, along a radius, and over a plane of weight space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from es_lightning.reports.plots import ACCENT, INK, PALETTE, QUIET, save, sheet, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RED, GREEN = PALETTE[1], PALETTE[2]
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """A curve with its band.

    Args:
        at: places along the axis, [T].
        value: [T].
        low: lower end of the band, [T].
        high: upper end, [T].
        label: what the legend calls it.
    """

    at: Array
    value: Array
    low: Array
    high: Array
    label: str


@style()
def line_picture(
    path: Path, title: str, reward: Curve, differences: Sequence[Curve], marks: Mapping[str, float], axis: str
) -> None:
    """Draw the reward along a line, and beside it paired differences.

    Args:
        path: PNG file to write.
        title: line above the picture.
        reward: mean reward of each point, with its 95 % interval.
        differences: to the reward of a mark, prompt by prompt, with their 95 % intervals.
        marks: names of models -> where they are on the line.
        axis: what the axis counts.
    """
    figure, [left, right] = sheet(title, columns=2, width=9)
    _draw(left, reward, ACCENT)
    for curve, color in zip(differences, (ACCENT, RED), strict=False):
        _draw(right, curve, color)
    right.axhline(0, color=QUIET, lw=1)
    _finish(left, marks, axis, "mean reward (higher is better)")
    _finish(right, marks, axis, "paired difference of the reward")
    save(figure, path)


@style()
def barrier_picture(
    path: Path, title: str, reward: Curve, drop: Curve, marks: Mapping[str, float], words: str
) -> None:
    """Draw the reward between two models, and how far it falls below the straight line between them.

    Args:
        path: PNG file to write.
        title: line above the picture.
        reward: mean reward of each point, with its 95 % interval.
        drop: how far each point is below the straight line, with its 95 % interval.
        marks: names of models -> where they are on the line.
        words: what is known of the barrier.
    """
    figure, [left, right] = sheet(title, columns=2, width=9)
    _draw(left, reward, ACCENT)
    ends = [float(np.interp(t, reward.at, reward.value)) for t in (0.0, 1.0)]
    left.plot([0, 1], ends, color=INK, lw=1.2, ls="--", label="straight line between them")
    _draw(right, drop, RED)
    right.axhline(0, color=QUIET, lw=1)
    right.set_title(words, fontsize=8)
    _finish(left, marks, "t, from the first model to the second", "mean reward (higher is better)")
    _finish(right, marks, "t, from the first model to the second", "drop below the line (0 is none)")
    save(figure, path)


@style()
def radial_picture(
    path: Path, title: str, tuned: Curve, drawn: Array, expected: Curve, length: float
) -> None:
    """Draw the reward along the tuned direction against random directions of the same length.

    Args:
        path: PNG file to write.
        title: line above the picture.
        tuned: along the tuned direction, with its 95 % interval over prompts.
        drawn: mean reward along each random direction, [K, R].
        expected: mean over the random directions; the band is where one more would lie with 95 %.
        length: distance of the tuned model from the base model.
    """
    figure, [axes] = sheet(title, width=7.6, height=4)
    for number, values in enumerate(drawn):
        label = f"{len(drawn)} random directions" if number == 0 else None
        axes.plot(expected.at, values, color=QUIET, lw=0.8, label=label)
    _draw(axes, expected, INK)
    _draw(axes, tuned, ACCENT)
    axes.axvline(1, color=QUIET, lw=1, ls=":")
    axis = f"distance from the base model, in lengths of the tuned model's change ({length:.4g})"
    _finish(axes, {}, axis, "mean reward (higher is better)")
    save(figure, path)


@style()
def plane_picture(
    path: Path,
    title: str,
    points: Array,
    reward: Array,
    marks: Mapping[str, tuple[float, float]],
    axes_names: tuple[str, str],
    error: float,
) -> None:
    """Draw the reward over a plane as a contour, with the models in it.

    Args:
        path: PNG file to write.
        title: line above the picture.
        points: coordinates of what was measured, [T, 2].
        reward: mean reward of each point, [T].
        marks: names of models -> their coordinates.
        axes_names: what the axes are.
        error: standard error of one point, to be told.
    """
    figure, [axes] = sheet(title, width=7.2, height=5.6)
    x, y = points.T
    # A contour of a plateau has levels, too: they must rise.
    levels = np.linspace(reward.min(), max(reward.max(), reward.min() + 1e-6), 13)
    filled = axes.tricontourf(x, y, reward, levels=levels, cmap="viridis")
    axes.tricontour(x, y, reward, levels=levels, colors="white", linewidths=0.4, alpha=0.6)
    axes.plot(x, y, ".", color="white", ms=2.5, alpha=0.8, ls="")
    for (name, place), form in zip(marks.items(), "os^Dv", strict=False):
        axes.plot(*place, form, color=RED, mec="white", ms=9, ls="", label=name)
    axes.set_aspect("equal")
    axes.grid(visible=False)
    _ticks(axes)
    axes.set_xlabel(axes_names[0])
    axes.set_ylabel(axes_names[1])
    axes.set_title(f"dots are measured; standard error of a point: {error:.2g}", fontsize=8)
    figure.legend(loc="outside lower left", ncols=len(marks))
    figure.colorbar(filled, ax=axes, label="mean reward (higher is better)", format="%.2f")
    save(figure, path)


def _draw(axes: Axes, curve: Curve, color: str) -> None:
    axes.fill_between(curve.at, curve.low, curve.high, color=color, alpha=0.15, lw=0)
    axes.plot(curve.at, curve.value, color=color, lw=1.6, marker="o", ms=3, label=curve.label)


def _finish(axes: Axes, marks: Mapping[str, float], across: str, up: str) -> None:
    _ticks(axes)
    for name, at in marks.items():
        axes.axvline(at, color=QUIET, lw=1, ls=":")
        place = (at, 1.0)
        text = {"xytext": (2, -3), "textcoords": "offset points", "va": "top", "fontsize": 8}
        axes.annotate(name, place, xycoords=axes.get_xaxis_transform(), color=INK, parse_math=False, **text)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.legend()


def _ticks(axes: Axes) -> None:
    """Take any numbers, where the sheet's own ticks are for whole generations."""
    from matplotlib.ticker import AutoLocator

    axes.xaxis.set_major_locator(AutoLocator())
