"""Problems of other tasks than the run's: which are taken, and what they are called."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from es_lightning.errors import UsageError
from es_lightning.records import Prompt
from es_lightning.task import Task


def check_names(
    owner: str, tasks: Mapping[str, Task], suffixes: Sequence[str] = ("",), reserved: Sequence[str] = ()
) -> None:
    """Make sure that no two metrics of the tasks have the same name, and that all loggers accept the names.

    Args:
        owner: what has the tasks, for messages.
        tasks: the tasks by name.
        suffixes: what follows a task's name in its metrics.
        reserved: names that the owner itself uses in place of a task's.

    Raises:
        UsageError: a name cannot be used.
    """
    for name in tasks:
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
            raise UsageError(f"{owner}.tasks has {name!r}: name a task with letters, digits and _ . - alone.")
    metrics = Counter(f"{name}{suffix}" for name in [*reserved, *tasks] for suffix in suffixes)
    for metric, count in metrics.items():
        if count > 1:
            raise UsageError(f"{owner}.tasks gives two metrics the name {metric!r}: rename a task.")


def choose(problems: Sequence[Prompt], size: int, seed: int | None) -> list[Prompt]:
    """Choose some of the problems, in their order: the first ones, or a random subset for the seed."""
    if seed is None or size >= len(problems):
        return list(problems[:size])
    return [problems[i] for i in sorted(random.Random(seed).sample(range(len(problems)), size))]


def problems_of(task: Task, splits: Sequence[str]) -> tuple[str, list[Prompt]]:
    """Return the first of the splits that has problems, and these; an empty list if none has any."""
    for split in splits:
        problems = task.problems(split)
        if problems:
            return split, problems
    return splits[0], []


def check_prior(owner: str, sample: int | None, max_tokens: int | None, split: str) -> None:
    """Check how problems of prior tasks are taken.

    Args:
        owner: what has the options, for messages.
        sample: number of problems of each task; None takes all.
        max_tokens: most new tokens of a completion; None takes the run's limit.
        split: where the problems come from.

    Raises:
        UsageError: a value is outside its range.
    """
    if sample is not None and sample < 1:
        raise UsageError(f"{owner}.sample is {sample}: give at least 1 problem, or null for all.")
    if max_tokens is not None and max_tokens < 1:
        raise UsageError(f"{owner}.max_tokens is {max_tokens}: give at least 1, or null.")
    if split not in {"test", "val"}:
        raise UsageError(f"{owner}.split is {split!r}: give test or val.")


def prior_problems(
    owner: str, name: str, task: Task, split: str, sample: int | None, seed: int | None
) -> tuple[str, list[Prompt]]:
    """Choose the problems of a prior task; a task without ``test`` problems uses ``val``.

    Args:
        owner: what has the task, for messages.
        name: what the task is called.
        task: the task.
        split: ``test`` or ``val``.
        sample: how many; None takes all.
        seed: of the choice; None takes the first ones.

    Returns:
        The split that they are from, and the problems.

    Raises:
        UsageError: the task has no problems.
    """
    splits = list(dict.fromkeys([split, "val"]))
    found, problems = problems_of(task, splits)
    if not problems:
        where = " or ".join(splits)
        raise UsageError(f"{owner}.tasks.{name} has no problems in {where}: check its data options.")
    return found, choose(problems, sample or len(problems), seed)
