"""What arms have forgotten of prior tasks, paired problem by problem."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from es_lightning.analysis.comparison.arms import Arm
from es_lightning.analysis.comparison.differences import Difference, difference
from es_lightning.analysis.comparison.runs import Run
from es_lightning.analysis.intervals import Array


@dataclass(frozen=True)
class Forgotten:
    """What an arm has forgotten of a task.

    Args:
        change: since the base model, over the problems and over the runs that were measured; below 0 if it
            has forgotten.
        versus: how much better that is than the first arm's change, on the same problems; None for the first
            arm itself, and where that was not measured.
    """

    change: Difference
    versus: Difference | None


def forgotten(arms: Sequence[Arm]) -> dict[str, tuple[Forgotten | None, ...]]:
    """Compare the changes of the prior tasks whose problems are known, and the same in all runs that tell.

    Args:
        arms: the first is the one that the others are compared with.

    Returns:
        By task what each arm has forgotten, by those of its runs that were measured; None where none was.
    """
    names = dict.fromkeys(name for arm in arms for run in arm.runs for name in run.prior)
    return {
        name: _of_task(name, arms) for name in names if _same([r for arm in arms for r in arm.runs], name)
    }


def _same(runs: Sequence[Run], name: str) -> bool:
    """Whether all runs that were measured on a task were asked the same problems."""
    return len({frozenset(run.prior[name]) for run in runs if name in run.prior}) == 1


def _of_task(name: str, arms: Sequence[Arm]) -> tuple[Forgotten | None, ...]:
    tables = [_changes([run.prior.get(name) for run in arm.runs]) for arm in arms]
    return tuple(
        None if table is None else _forgotten(table, tables[0] if index else None)
        for index, table in enumerate(tables)
    )


def _changes(measured: Sequence[Mapping[str, float] | None]) -> Array | None:
    """Return the changes of the runs that were measured, [S, P], with the problems in alphabetical order."""
    known = [each for each in measured if each is not None]
    if not known:
        return None
    return np.array([[each[problem] for problem in sorted(known[0])] for each in known])


def _forgotten(table: Array, first: Array | None) -> Forgotten:
    unchanged = np.zeros((1, table.shape[1]))
    return Forgotten(difference(table, unchanged), None if first is None else difference(table, first))
