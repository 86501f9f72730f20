"""How a prior task has changed: paired differences, the lowest reward so far, and a sentence about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from statistics import mean, stdev
from typing import Any

from es_lightning.records import Evaluation

Rows = Sequence[Mapping[str, float]]


def paired_change(before: Sequence[float], after: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean of the per-problem differences d_p, and its standard error std(d) / sqrt(P).

    Args:
        before: P rewards.
        after: P rewards of the same problems.

    Returns:
        The standard error is None if there is only one problem.
    """
    differences = [b - a for a, b in zip(before, after, strict=True)]
    error = stdev(differences) / sqrt(len(differences)) if len(differences) > 1 else None
    return mean(differences), error


def numbers(name: str, before: Sequence[float], evaluation: Evaluation, rows: Rows) -> dict[str, float]:
    """Compute the numbers that ``Forgetting`` logs for a prior task.

    Args:
        name: name of the task.
        before: P rewards of the base model.
        evaluation: evaluation of the centre on the same problems.
        rows: the rows of ``Forgetting`` so far.
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
    """Summarise a prior task: the base model's reward, the lowest, the last, and the change.

    Args:
        name: name of the task.
        rows: the rows of ``Forgetting``, at least one.
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
    """Say in words how a prior task has changed.

    Args:
        name: name of the task.
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
