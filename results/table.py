"""The table of docs/results.md: what each arm had reached on the test problems of a task, seed by seed.

    python -m results.table                   sums
    python -m results.table --task conciseness

It reads the files that runs have left in results/runs, and takes a second.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from es_lightning.analysis.comparison.budgets import nearest
from es_lightning.analysis.comparison.differences import difference
from es_lightning.analysis.comparison.folder import read_run
from es_lightning.analysis.comparison.runs import Evaluated
from es_lightning.analysis.intervals import Array
from es_lightning.cli.console import quiet
from results import run
from results.suite import Run

log = logging.getLogger("results")

FIRST = "es"
"""The arm that all others are compared with."""


@dataclass(frozen=True)
class Row:
    """What the runs of an arm have reached.

    Args:
        arm: its name.
        seeds: of its runs.
        tests: the evaluations of each run on the test problems, in order.
    """

    arm: str
    seeds: tuple[int, ...]
    tests: tuple[tuple[Evaluated, ...], ...]

    @classmethod
    def of(cls, runs: Sequence[Run]) -> Self:
        """Read the runs of one arm."""
        read = tuple(tuple(read_run(each.kept).on("test")) for each in runs)
        return cls(runs[0].arm, tuple(each.seed for each in runs), read)

    @property
    def ends(self) -> list[Evaluated]:
        """The last test of each run."""
        return [each[-1] for each in self.tests]

    def near(self, axis: str, budget: float) -> list[Evaluated]:
        """Return of each run the test nearest to a budget.

        Args:
            axis: ``rollouts`` or ``seconds``.
            budget: of each run.
        """
        found = [nearest(each, axis, budget) for each in self.tests]
        return [each for each in found if each is not None]

    def spent(self, axis: str) -> float:
        """Return what a run has cost in the mean.

        Args:
            axis: ``rollouts`` or ``seconds``.
        """
        return float(np.mean([each.spent(axis) for each in self.ends]))

    def rewards(self) -> Array:
        """Return the rewards at the end of each run, [S, P], problems in alphabetical order."""
        last = [each.rewards for each in self.ends]
        return np.array([[rewards[problem] for problem in sorted(rewards)] for rewards in last])

    def cells(self, first: Self) -> dict[str, str]:
        """Return the row of the table, by the head of its column.

        Args:
            first: the arm that this one is compared with.
        """
        apart = difference(self.rewards(), first.rewards()).estimate
        values = (apart.value, apart.low, apart.high)
        return {
            "arm": f"`{self.arm}`",
            "seeds": ", ".join(map(str, self.seeds)),
            "base": shown([each[0].reward for each in self.tests]),
            "half the rollouts": shown([e.reward for e in self.near("rollouts", self.spent("rollouts") / 2)]),
            "all rollouts": shown([each.reward for each in self.ends]),
            "each seed": ", ".join(shown([each.reward]) for each in self.ends),
            "right answers": shown([right for each in self.ends for right in each.solved.values()]),
            f"more than `{FIRST}` (95 %)": "{} ({} to {})".format(*map(digits, values)),
            f"in the seconds of `{FIRST}`": shown(
                [e.reward for e in self.near("seconds", first.spent("seconds"))]
            ),
            "seconds": f"{self.spent('seconds'):,.0f}",
        }


def shown(values: Sequence[float]) -> str:
    """Return the mean in three digits; a dash of nothing."""
    return digits(float(np.mean(values))) if values else "-"


def digits(value: float) -> str:
    """Return a number in three digits or so."""
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def rows(task: str) -> list[Row]:
    """Return the arms that have runs, in their order.

    Args:
        task: one of ``run.TASKS``.
    """
    found = [[each for each in run.runs([task], [arm], None) if each.trained] for arm in run.ARMS]
    return [Row.of(runs) for runs in found if runs]


def table(task: str) -> str:
    """Return the table in Markdown.

    Args:
        task: one of ``run.TASKS``.
    """
    found = rows(task)
    cells = [row.cells(found[0]) for row in found]
    cells[0][f"more than `{FIRST}` (95 %)"] = ""
    if all(each["right answers"] == each["all rollouts"] for each in cells):  # as where an answer earns 1
        for each in cells:
            del each["right answers"]
    lines = [list(cells[0]), ["---"] * len(cells[0]), *(list(each.values()) for each in cells)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Log the table of a task."""
    parser = argparse.ArgumentParser(
        prog="python -m results.table",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--task", choices=run.TASKS, default="sums")
    quiet()
    log.info("%s", table(parser.parse_args().task))


if __name__ == "__main__":
    main()
