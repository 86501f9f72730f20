"""Pictures of scans: the reward along a line, along a radius, and over a plane of weight space."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from es_lightning.reports.plots import ACCENT, INK, PALETTE, QUIET, save, sheet, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RED = PALETTE[1]
REWARD = "mean reward (higher is better)"
Table = Mapping[str, npt.NDArray[Any]]
"""Columns by name: those of the CSV beside the picture."""


@style()
def line_picture(path: Path, title: str, table: Table, marks: Mapping[str, float], axis: str) -> None:
    """Draw the reward along a line, and beside it paired differences to its two models.

    Args:
        path: PNG file to write.
        title: line above the picture.
        table: ``t``, and ``reward``, ``minus_t0`` and ``minus_t1`` with the ends of their intervals.
        marks: names of the models at t = 0 and t = 1 -> where they are.
        axis: what t counts.
    """
    figure, [left, right] = sheet(title, columns=2, width=9)
    _draw(left, table, "t", "reward", ACCENT, "mean over prompts, 95 % interval")
    for name, at, color in zip(marks, ("t0", "t1"), (ACCENT, RED), strict=True):
        _draw(right, table, "t", f"minus_{at}", color, f"minus {name}, prompt by prompt")
    right.axhline(0, color=QUIET, lw=1)
    _finish(left, marks, axis, REWARD)
    _finish(right, marks, axis, "difference of the reward")
    save(figure, path)


@style()
def barrier_picture(path: Path, title: str, table: Table, marks: Mapping[str, float], words: str) -> None:
    """Draw the reward between two models, and how far it falls below the straight line between them.

    Args:
        path: PNG file to write.
        title: line above the picture.
        table: ``t``, and ``reward`` and ``drop`` with the ends of their intervals.
        marks: names of the models at t = 0 and t = 1 -> where they are.
        words: what is known of the barrier.
    """
    figure, [left, right] = sheet(f"{title}\n{words}", columns=2, width=9, height=3.8)
    _draw(left, table, "t", "reward", ACCENT, "mean over prompts, 95 % interval")
    ends = [float(table["reward"][table["t"] == at][0]) for at in (0, 1)]
    left.plot([0, 1], ends, color=INK, lw=1.2, ls="--", label="straight line")
    inside = (table["t"] >= 0) & (table["t"] <= 1)  # beyond the models a line between them says nothing
    within = {name: column[inside] for name, column in table.items()}
    _draw(right, within, "t", "drop", RED, "drop, 95 % for all points at once")
    right.axhline(0, color=QUIET, lw=1)
    axis = "t, from the first model to the second"
    _finish(left, marks, axis, REWARD)
    _finish(right, marks, axis, "drop below the straight line")
    save(figure, path)


@style()
def radial_picture(path: Path, title: str, table: Table, tuned: str, length: float) -> None:
    """Draw the reward along the tuned direction against random directions of the same length.

    Args:
        path: PNG file to write.
        title: line above the picture.
        table: ``direction``, ``radius``, ``reward`` with the ends of its interval, and ``random`` with the
            range of a further random direction.
        tuned: name of the tuned model.
        length: distance of the tuned model from the base model.
    """
    figure, [axes] = sheet(title, width=7.6, height=4)
    drawn = [name for name in dict.fromkeys(table["direction"].tolist()) if name not in ("base", "tuned")]
    for number, name in enumerate(drawn):
        ray = _ray(table, name)
        label = f"{len(drawn)} random directions" if number == 0 else None
        axes.plot(ray["radius"], ray["reward"], color=QUIET, lw=0.8, label=label)
    along = _ray(table, "tuned")
    _draw(axes, along, "radius", "random", INK, "their mean, and where one more would lie (95 %)")
    _draw(axes, along, "radius", "reward", ACCENT, f"towards {tuned}, 95 % interval over prompts")
    axis = f"distance from base, in lengths of the tuned model's change ({length:.4g})"
    _finish(axes, {tuned: 1.0}, axis, REWARD)
    save(figure, path)


@style()
def plane_picture(
    path: Path, title: str, table: Table, marks: Mapping[str, tuple[float, float]], names: tuple[str, str]
) -> None:
    """Draw the reward over a plane as a contour, with the models in it.

    Args:
        path: PNG file to write.
        title: line above the picture.
        table: ``x``, ``y``, and ``reward`` with its standard error.
        marks: names of models -> their coordinates.
        names: of the axes.
    """
    figure, [axes] = sheet(title, width=7.2, height=5.6)
    x, y, reward = table["x"], table["y"], table["reward"]
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
    axes.set_xlabel(names[0])
    axes.set_ylabel(names[1])
    error = float(np.median(table["reward_se"]))
    axes.set_title(f"dots are measured; standard error of a point about {error:.2g}", fontsize=8)
    figure.legend(loc="outside lower left", ncols=len(marks))
    figure.colorbar(filled, ax=axes, label=REWARD, format="%.2f")
    save(figure, path)


def _ray(table: Table, direction: str) -> dict[str, npt.NDArray[Any]]:
    """Return the rows of one direction, the base model among them, in order of the radius."""
    chosen = np.isin(table["direction"], ["base", direction])
    order = np.argsort(table["radius"][chosen])
    return {name: column[chosen][order] for name, column in table.items()}


def _draw(axes: Axes, table: Table, across: str, up: str, color: str, label: str) -> None:
    at = table[across]
    axes.fill_between(at, table[f"{up}_low"], table[f"{up}_high"], color=color, alpha=0.15, lw=0)
    axes.plot(at, table[up], color=color, lw=1.6, marker="o", ms=3, label=label)


def _finish(axes: Axes, marks: Mapping[str, float], across: str, up: str) -> None:
    _ticks(axes)
    for name, at in marks.items():
        axes.axvline(at, color=QUIET, lw=1, ls=":")
        place = (at, 1.0)  # above the axes, where no legend is
        text: dict[str, Any] = {"xytext": (0, 2), "textcoords": "offset points", "fontsize": 8}
        axes.annotate(name, place, xycoords=axes.get_xaxis_transform(), color=INK, parse_math=False, **text)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.legend()


def _ticks(axes: Axes) -> None:
    """Take any numbers, where the sheet's own ticks are for whole generations."""
    from matplotlib.ticker import AutoLocator

    axes.xaxis.set_major_locator(AutoLocator())
