"""The picture of forgetting: each prior task along a run, and the new task against the prior ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from es_lightning.analysis.forgetting import Rows
from es_lightning.reports import plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POINTS = 100  # percentage points per share
MEAN = "prior/accuracy"
LEAST_P = 0.001  # 4000 draws tell no smaller one


def picture(title: str, rows: Rows, tasks: Sequence[str]) -> Figure:
    """Draw the change of accuracy, that of rewards in their standard errors, and the way of the centre.

    Only tasks that say what is right have an accuracy; only those that do not are drawn by their rewards.

    Args:
        title: line above the picture.
        rows: of ``Forgetting``.
        tasks: names.
    """
    known = {name for row in rows for name in row}
    marked = [name for name in tasks if f"prior/{name}_accuracy_change" in known]
    others = [name for name in tasks if name not in marked]
    panels: list[Callable[[Axes], None]] = []
    if marked:
        panels.append(lambda axes: draw_accuracy(axes, rows, marked))
    if others:
        panels.append(lambda axes: draw_rewards(axes, rows, others))
    if marked or "prior/mean" in known:
        panels.append(lambda axes: draw_pareto(axes, rows, len(marked) or len(tasks)))
    figure, columns = plots.sheet(title, len(panels), width=5.0 * len(panels), height=4.2)
    for axes, panel in zip(columns, panels, strict=True):
        panel(axes)
    return figure


@plots.style()
def draw_accuracy(axes: Axes, rows: Rows, tasks: Sequence[str]) -> None:
    """A curve of the change of accuracy per task, and of their mean, with one standard error around each.

    In 5 of 100 runs that forget nothing some look so far is below the dotted line; with several tasks, of
    their mean.

    Args:
        axes: empty.
        rows: of ``Forgetting``.
        tasks: names of the tasks that have an accuracy.
    """
    axes.axhline(0.0, color=plots.INK, lw=0.8)
    several = len(tasks) > 1
    for name in tasks:
        _accuracy_curve(axes, rows, f"prior/{name}_accuracy", name, None, 1.2)
    if several:
        _accuracy_curve(axes, rows, MEAN, "mean", plots.INK, 2.0)
    key = MEAN if several else f"prior/{tasks[0]}_accuracy"
    bounded = [row for row in rows if f"{key}_null_bound" in row]
    if bounded:
        steps = [row["generation"] for row in bounded]
        bounds = [row[f"{key}_null_bound"] - row[key] + row[f"{key}_change"] for row in bounded]
        label = "lowest look by chance, 5 % quantile" + " (of the mean)" * several
        axes.plot(steps, [POINTS * each for each in bounds], color=plots.INK, ls=":", lw=1.2, label=label)
    axes.set_title("prior tasks, same problems as the base model")
    axes.set_xlabel("generations done")
    axes.set_ylabel("change of accuracy, points\n(band: one standard error)")
    axes.legend(fontsize=7)


def _accuracy_curve(axes: Axes, rows: Rows, key: str, name: str, color: str | None, width: float) -> None:
    """Draw changes in points, and say how low they were, and the chance of that if nothing is forgotten."""
    points = [row for row in rows if f"{key}_change" in row]
    steps = [row["generation"] for row in points]
    changes = [POINTS * row[f"{key}_change"] for row in points]
    errors = [POINTS * row.get(f"{key}_change_se", 0.0) for row in points]
    label = f"{name}: lowest {min(changes):+.1f}"
    if f"{key}_minimum_p" in points[-1]:
        p_value = points[-1][f"{key}_minimum_p"]
        label += f", p = {p_value:.2g}" if p_value >= LEAST_P else f", p < {LEAST_P:g}"
    [line] = axes.plot(steps, changes, lw=width, marker="o", ms=3, label=label, color=color)
    low = [change - error for change, error in zip(changes, errors, strict=True)]
    high = [change + error for change, error in zip(changes, errors, strict=True)]
    axes.fill_between(steps, low, high, color=line.get_color(), alpha=0.1, lw=0)


@plots.style()
def draw_rewards(axes: Axes, rows: Rows, tasks: Sequence[str]) -> None:
    """A curve per task that has no accuracy: its change of reward in standard errors, whatever its unit.

    Args:
        axes: empty.
        rows: of ``Forgetting``.
        tasks: their names.
    """
    axes.axhspan(-2, 2, color=plots.QUIET, alpha=0.15, lw=0, label="may be chance")
    axes.axhline(0.0, color=plots.INK, lw=0.8)
    for name in tasks:
        change, error = f"prior/{name}_change", f"prior/{name}_change_se"
        points = [row for row in rows if row.get(error, 0.0) > 0 or row.get(change) == 0]
        scaled = [row[change] / row[error] if row.get(error) else 0.0 for row in points]
        axes.plot([row["generation"] for row in points], scaled, lw=1.6, marker="o", ms=3.5, label=name)
    axes.set_title("prior tasks without an accuracy")
    axes.set_xlabel("generations done")
    axes.set_ylabel("change of reward, in standard errors")
    axes.legend(fontsize=7)


@plots.style()
def draw_pareto(axes: Axes, rows: Rows, tasks: int) -> None:
    """The way of the centre: the new task against the prior tasks, both in accuracy where they have one.

    Args:
        axes: empty.
        rows: of ``Forgetting``.
        tasks: how many prior tasks are averaged.
    """
    from matplotlib.ticker import MaxNLocator

    counts = {name: sum(name in row for row in rows) for name in ("val/accuracy", "val/reward")}
    name = next((name for name, count in counts.items() if count > 1), "reward/mean")
    in_accuracy = any(MEAN in row for row in rows)
    prior, unit = (MEAN, POINTS) if in_accuracy else ("prior/mean", 1)
    scale = POINTS if name == "val/accuracy" else 1
    points = [row for row in rows if name in row and prior in row]
    if points:
        new, old = [scale * row[name] for row in points], [unit * row[prior] for row in points]
        errors = [unit * row.get(f"{prior}_change_se", 0.0) for row in points]
        axes.errorbar(new, old, errors, color=plots.QUIET, lw=1.0, elinewidth=0.8, zorder=1)
        steps = [row["generation"] for row in points]
        dots = axes.scatter(new, old, c=steps, cmap="viridis_r", s=26, zorder=2)
        axes.figure.colorbar(dots, ax=axes).set_label("generations done", fontsize=8)
    if points and points[0]["generation"] == 0:
        axes.scatter(new[0], old[0], marker="*", s=170, color=plots.INK, zorder=3, label="base model")
        axes.legend()
    axes.xaxis.set_major_locator(MaxNLocator(6))
    named = {"val/accuracy": "validation accuracy, %", "val/reward": "validation reward"}
    axes.set_title("new task against prior tasks")
    axes.set_xlabel("new task: " + named.get(name, "mean reward of the population"))
    of = f", mean of {tasks}" if tasks > 1 else ""
    what = "accuracy, %" if in_accuracy else "reward"
    axes.set_ylabel(
        f"prior tasks: {what}{of}\n(bars: SE of the change)" if in_accuracy else f"prior: {what}{of}"
    )
