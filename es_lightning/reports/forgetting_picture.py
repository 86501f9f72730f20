"""The picture of forgetting: each prior task along a run, and the new task against the prior ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from es_lightning.analysis.forgetting import Rows
from es_lightning.reports import plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@plots.style()
def draw_changes(axes: Axes, rows: Rows, tasks: Sequence[str]) -> None:
    """A curve per prior task, relative to the base model, with one standard error around it.

    Args:
        axes: empty.
        rows: of ``Forgetting``.
        tasks: names.
    """
    axes.axhline(0.0, color=plots.INK, lw=0.8)
    for name in tasks:
        steps = [row["generation"] for row in rows]
        changes = [row[f"prior/{name}_change"] for row in rows]
        errors = [row.get(f"prior/{name}_change_se", 0.0) for row in rows]
        [line] = axes.plot(steps, changes, lw=1.6, marker="o", ms=3.5, label=name)
        low = [change - error for change, error in zip(changes, errors, strict=True)]
        high = [change + error for change, error in zip(changes, errors, strict=True)]
        axes.fill_between(steps, low, high, color=line.get_color(), alpha=0.13, lw=0)
    axes.set_title("prior tasks, relative to the base model")
    axes.set_xlabel("generations done")
    axes.set_ylabel("change of reward (band: one standard error)")
    axes.legend()


@plots.style()
def draw_pareto(axes: Axes, rows: Rows, tasks: int) -> None:
    """The way of the centre: the new task's reward against the prior tasks', all by one measure.

    Args:
        axes: empty.
        rows: of ``Forgetting``.
        tasks: how many prior tasks there are.
    """
    from matplotlib.ticker import MaxNLocator

    validated = sum("val/reward" in row for row in rows) > 1
    name = "val/reward" if validated else "reward/mean"
    points = [(row[name], row["prior/mean"], row["generation"]) for row in rows if name in row]
    if points:
        new, prior, generations = zip(*points, strict=True)
        axes.plot(new, prior, color=plots.QUIET, lw=1.0, zorder=1)
        dots = axes.scatter(new, prior, c=generations, cmap="viridis_r", s=26, zorder=2)
        bar = axes.figure.colorbar(dots, ax=axes)
        bar.set_label("generations done", fontsize=8)
    if points and points[0][2] == 0:
        axes.scatter(*points[0][:2], marker="*", s=170, color=plots.INK, zorder=3, label="base model")
        axes.legend()
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.set_title("new task against prior tasks")
    axes.set_xlabel("new task: " + ("validation reward" if validated else "mean reward of the population"))
    axes.set_ylabel("prior tasks: " + (f"mean reward of {tasks} tasks" if tasks > 1 else "reward"))
