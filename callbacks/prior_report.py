"""Forgetting in words, numbers and pictures, from the rows that were measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from es_lightning import plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from es_lightning.records import Evaluation

Rows = Sequence[Mapping[str, float]]


def paired_change(before: Sequence[float], after: Sequence[float]) -> tuple[float, float | None]:
    """Mean of the differences d_p, problem by problem, and its standard error std(d) / sqrt(P).

    Args:
        before: P rewards.
        after: P rewards of the same problems.

    Returns:
        The standard error is None where there is but one problem.
    """
    differences = [b - a for a, b in zip(before, after, strict=True)]
    error = stdev(differences) / sqrt(len(differences)) if len(differences) > 1 else None
    return mean(differences), error


def numbers(name: str, before: Sequence[float], evaluation: Evaluation, rows: Rows) -> dict[str, float]:
    """Of a prior task what ``Forgetting`` logs.

    Args:
        name: of the task.
        before: P rewards of the base model.
        evaluation: of the centre, on the same problems.
        rows: of ``Forgetting`` so far.
    """
    key, reward = f"prior/{name}", evaluation.reward
    change, error = paired_change(before, evaluation.rewards)
    lowest = min([reward, mean(before), *(row[key] for row in rows)])
    metrics = {key: reward, f"{key}_minimum": lowest, f"{key}_change": change}
    if error is not None:
        metrics[f"{key}_change_se"] = error
    accuracies = [score["accuracy"] for score in evaluation.scores if "accuracy" in score]
    return metrics | ({f"{key}_accuracy": mean(accuracies)} if accuracies else {})


def summary(name: str, rows: Rows) -> dict[str, Any]:
    """What has become of a prior task: reward of the base, lowest and last, and the change.

    Args:
        name: of the task.
        rows: of ``Forgetting``, at least one.
    """
    key = f"prior/{name}"
    lowest, last = min(rows, key=lambda row: row[key]), rows[-1]
    return {
        "base": last[key] - last[f"{key}_change"],
        "minimum": lowest[key],
        "minimum_generation": int(lowest["generation"]),
        "final": last[key],
        "final_generation": int(last["generation"]),
        "change": last[f"{key}_change"],
        "change_se": last.get(f"{key}_change_se"),
    }


def sentence(name: str, row: Mapping[str, Any]) -> str:
    """What has become of a prior task, in words.

    Args:
        name: of the task.
        row: its ``summary``.
    """
    change, error = row["change"], row["change_se"]
    verb = "fell" if change < 0 else "rose" if change > 0 else "stayed, all in all,"
    spread = "" if error is None else f" +- {error:.3f}"
    doubt = ", which may be chance" if error and abs(change) < 2 * error else ""
    return (
        f"Prior task {name} {verb} from {row['base']:.3f} to {row['final']:.3f} "
        f"({change:+.3f}{spread}{doubt}), lowest {row['minimum']:.3f} "
        f"at generation {row['minimum_generation']}."
    )


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
    axes.set_title("prior tasks, relative to the base model", fontsize=9, loc="left", color=plots.INK)
    axes.set_xlabel("updates done")
    axes.set_ylabel("change of reward (band: one standard error)")
    axes.legend(frameon=False, fontsize=8)


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
        bar.set_label("updates done", fontsize=8)
        bar.ax.tick_params(labelsize=8)
    if points and points[0][2] == 0:
        axes.scatter(*points[0][:2], marker="*", s=170, color=plots.INK, zorder=3, label="base model")
        axes.legend(frameon=False, fontsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.set_title("new task against prior tasks", fontsize=9, loc="left", color=plots.INK)
    axes.set_xlabel("new task: " + ("validation reward" if validated else "mean reward of the population"))
    axes.set_ylabel("prior tasks: " + (f"mean reward of {tasks} tasks" if tasks > 1 else "reward"))
