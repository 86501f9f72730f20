"""How prior tasks have changed: the numbers of a look at the centre, a summary, and a sentence about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from es_lightning.analysis.accuracy import marks
from es_lightning.analysis.course import Course, course, mean_course
from es_lightning.records import Evaluation

Rows = Sequence[Mapping[str, float]]
NAMES = ("", "_minimum", "_null_minimum", "_null_bound", "_minimum_p", "_change", "_change_se")
"""What follows a quantity's name in its metrics."""
ALONG_A_RUN = ("_minimum", "_null_minimum", "_null_bound", "_minimum_p")
"""Those that mean something along a run alone: its lowest value, and what chance makes of it."""


@dataclass(frozen=True)
class Look:
    """What the problems of a prior task earned at one look at the centre.

    Args:
        generation: updates that the centre had seen.
        rewards: P rewards.
        solved: P numbers from 0 to 1, whether each problem was solved, or how often; None if the task does
            not say what is right.
        named: whether the task itself names the accuracy; otherwise it is told from rewards of 0 and 1.
    """

    generation: int
    rewards: Sequence[float]
    solved: Sequence[float] | None
    named: bool = False

    @classmethod
    def of(cls, generation: int, evaluation: Evaluation) -> Look:
        """Take from an evaluation what is kept."""
        named = any("accuracy" in score for score in evaluation.scores)
        return cls(generation, evaluation.rewards, marks(evaluation), named)


def numbers(key: str, followed: Course, rows: Rows) -> dict[str, float]:
    """Name what ``Forgetting`` logs of one quantity: value, change with standard error, lowest with its null.

    Args:
        key: name of the metric of the mean.
        followed: its course, up to now.
        rows: the rows of ``Forgetting`` before this look.
    """
    change = float(followed.changes[-1])
    value = followed.base + change
    lowest = min([value, followed.base, *(row[key] for row in rows if key in row)])
    metrics = {key: value, f"{key}_minimum": lowest, f"{key}_change": change}
    error, null, bound = followed.error(), followed.lowest_by_chance(), followed.lowest_bound()
    if error is not None and null is not None and bound is not None:
        metrics |= {f"{key}_change_se": error, f"{key}_null_minimum": null[0]}
        metrics |= {f"{key}_null_bound": bound, f"{key}_minimum_p": null[1]}
    return metrics


def measured(base: Mapping[str, Look], looks: Mapping[str, Sequence[Look]], rows: Rows) -> dict[str, float]:
    """Compute what ``Forgetting`` logs at a look.

    Rewards of several tasks are averaged only if all are shares of problems solved: the mean of unlike units
    means nothing.

    Args:
        base: per task what the base model earned.
        looks: per task the later looks, the present one last; none where the centre is the base model.
        rows: the rows of ``Forgetting`` before this look.
    """
    metrics: dict[str, float] = {}
    rewards, shares = {}, {}
    for name, before in base.items():
        rewards[name] = course(before.rewards, [look.rewards for look in looks[name]])
        metrics |= numbers(f"prior/{name}", rewards[name], rows)
        solved = solved_course(before, looks[name])
        if solved is not None:
            shares[name] = solved
            metrics |= numbers(f"prior/{name}_accuracy", solved, rows)
    if len(rewards) == 1 or all(_is_share(before, looks[name]) for name, before in base.items()):
        together = mean_course(list(rewards.values()))
        metrics["prior/mean"] = together.base + float(together.changes[-1])
    if shares:
        metrics |= numbers("prior/accuracy", mean_course(list(shares.values())), rows)
    return metrics


def solved_course(before: Look, looks: Sequence[Look]) -> Course | None:
    """Follow the share of problems solved; None if the task does not say at every look what is right.

    Rewards that are all 0 do not tell whether others would be 1.
    """
    marked = [look.solved for look in (before, *looks) if look.solved is not None]
    if len(marked) < 1 + len(looks) or not (before.named or any(map(any, marked))):
        return None
    return course(marked[0], marked[1:])


def _is_share(before: Look, looks: Sequence[Look]) -> bool:
    """Whether every reward is the share of a problem that is solved."""
    known = solved_course(before, looks) is not None
    return known and all(list(look.solved or ()) == list(look.rewards) for look in (before, *looks))


def summary(key: str, followed: Course, rows: Rows) -> dict[str, Any]:
    """Summarise one quantity: the base model's value, the lowest with its null, the last, and the change.

    Args:
        key: name of the metric of its mean.
        followed: its course.
        rows: the rows of ``Forgetting``, at least one with the metric.
    """
    known = [row for row in rows if key in row]
    lowest, last, null = min(known, key=lambda row: row[key]), known[-1], followed.lowest_by_chance()
    return {
        "base": last[key] - last[f"{key}_change"],
        "minimum": lowest[key],
        "minimum_generation": int(lowest["generation"]),
        "null_minimum": null and null[0],
        "minimum_p": null and null[1],
        "looks": len(followed.changes) - 1,
        "final": last[key],
        "final_generation": int(last["generation"]),
        "change": last[f"{key}_change"],
        "change_se": last.get(f"{key}_change_se"),
    }


def sentence(name: str, row: Mapping[str, Any]) -> str:
    """Say in words how a prior task has changed.

    Args:
        name: name of the task, and of what is told of it.
        row: the ``summary`` of one quantity.
    """
    change, error = row["change"], row["change_se"]
    verb = "fell" if change < 0 else "rose" if change > 0 else "stayed, all in all,"
    spread = "" if error is None else f" +- {error:.3f}"
    doubt = ", which may be chance" if error and abs(change) < 2 * error else ""
    null = row.get("null_minimum")
    chance = "" if null is None else f" (by chance alone {null:.3f}; p = {row['minimum_p']:.2g})"
    return (
        f"Prior task {name} {verb} from {row['base']:.3f} to {row['final']:.3f} "
        f"({change:+.3f}{spread}{doubt}), lowest {row['minimum']:.3f} "
        f"at generation {row['minimum_generation']}{chance}."
    )


def problem_table(
    ids: Mapping[str, Sequence[str]], base: Mapping[str, Look], looks: Mapping[str, Sequence[Look]]
) -> dict[str, list[Any]]:
    """Lay the results out problem by problem, for paired comparisons of any two looks, or of two runs.

    Args:
        ids: per task the ids of its problems.
        base: per task what the base model earned.
        looks: per task the later looks.

    Returns:
        Columns ``task``, ``problem``, ``look`` (0 is the base model), ``generation``, ``reward`` and
        ``solved``, which is None if the task does not say what is right.
    """
    names = ("task", "problem", "look", "generation", "reward", "solved")
    columns: dict[str, list[Any]] = {name: [] for name in names}
    for name, before in base.items():
        known = solved_course(before, looks[name]) is not None
        for index, look in enumerate((before, *looks[name])):
            size = len(look.rewards)
            columns["look"] += [index] * size
            columns["task"] += [name] * size
            columns["problem"] += ids[name]
            columns["generation"] += [look.generation] * size
            columns["reward"] += look.rewards
            columns["solved"] += look.solved if known and look.solved else [None] * size
    return columns
