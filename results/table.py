"""The tables of docs/results.md: what the arms of a task have reached, and what their models have become.

    python -m results.table                   of sums
    python -m results.table --task conciseness

It reads the files that runs have left in results/runs, and takes seconds.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from es_lightning.analysis.comparison.arms import Arm
from es_lightning.analysis.comparison.budgets import nearest
from es_lightning.analysis.comparison.differences import difference
from es_lightning.analysis.comparison.folder import read_run
from es_lightning.analysis.comparison.forgotten import forgotten
from es_lightning.analysis.comparison.runs import Evaluated
from es_lightning.analysis.intervals import Array, Estimate
from es_lightning.cli.console import quiet
from es_lightning.errors import UsageError
from results import run
from results.suite import Run

log = logging.getLogger("results")

FIRST = "es"
"""The arm that all others are compared with."""
MORE = f"more than `{FIRST}` (95 %)"


def arms(task: str, wanted: Callable[[Run], bool]) -> list[Arm]:
    """Read the runs of a task, arm by arm.

    Args:
        task: one of ``run.TASKS``.
        wanted: which of its runs.
    """
    found = {arm: filter(wanted, run.runs([task], [arm], None)) for arm in run.ARMS}
    read = [Arm(arm, tuple(read_run(each.kept) for each in runs)) for arm, runs in found.items()]
    return [arm for arm in read if arm.runs]


def reached(task: str) -> str:
    """Return the table of rewards on the test problems in Markdown.

    Args:
        task: one of ``run.TASKS``.

    Raises:
        UsageError: the first arm has no run that has ended.
    """
    found = arms(task, lambda each: each.trained)
    if not found or found[0].label != FIRST:
        raise UsageError(f"no run of {FIRST} on {task} has ended: python -m results.run --tasks {task}.")
    cells = [_reached(arm, found[0]) for arm in found]
    cells[0][MORE] = ""
    if all(each["right answers"] == each["all rollouts"] for each in cells):  # where an answer earns 1
        for each in cells:
            del each["right answers"]
    return _markdown(cells)


def _reached(arm: Arm, first: Arm) -> dict[str, str]:
    """Return the row of an arm, by the heads of its columns."""
    ends = _ends(arm)
    return {
        "arm": f"`{arm.label}`",
        "seeds": _seeds(arm),
        "base": _mean(each.on("test")[0].reward for each in arm.runs),
        "half the rollouts": _near(arm, "rollouts", _spent(arm, "rollouts") / 2),
        "all rollouts": _mean(each.reward for each in ends),
        "each seed": ", ".join(_digits(each.reward) for each in ends),
        "right answers": _mean(right for each in ends for right in each.solved.values()),
        MORE: _interval(difference(_rewards(arm), _rewards(first)).estimate),
        f"in the seconds of `{FIRST}`": _near(arm, "seconds", _spent(first, "seconds")),
        "seconds": f"{_spent(arm, 'seconds'):,.0f}",
    }


def changed(task: str) -> str:
    """Return the table of what analyses have found of final models, in Markdown; empty without any.

    Args:
        task: one of ``run.TASKS``.
    """
    found = arms(task, lambda each: each.measured)
    if not found:
        return ""
    cells = [
        {
            "arm": f"`{arm.label}`",
            "seeds": _seeds(arm),
            "length": _mean(each.finals["norm"] for each in arm.runs),
            "weights changed": _mean(1 - each.finals["sparsity_ulp"] for each in arm.runs),
            "KL": _mean(each.last(f"kl_tuned_base/{each.task}") for each in arm.runs),
        }
        for arm in found
    ]
    for prior, of_arms in forgotten(found).items():
        for row, each in zip(cells, of_arms, strict=True):
            if each is not None:
                row[prior] = _interval(each.change.estimate)
                row[f"{prior}, {MORE}"] = _interval(each.versus.estimate) if each.versus else ""
    return _markdown(cells)


def _ends(arm: Arm) -> list[Evaluated]:
    return [each.on("test")[-1] for each in arm.runs]


def _rewards(arm: Arm) -> Array:
    """Return the rewards at the end of each run, [S, P], with the problems in alphabetical order."""
    ends = [each.rewards for each in _ends(arm)]
    return np.array([[rewards[problem] for problem in sorted(rewards)] for rewards in ends])


def _spent(arm: Arm, axis: str) -> float:
    return float(np.mean([each.spent(axis) for each in _ends(arm)]))


def _near(arm: Arm, axis: str, budget: float) -> str:
    """Return the mean reward of each run's test nearest to a budget."""
    tests = [nearest(each.on("test"), axis, budget) for each in arm.runs]
    return _mean(each.reward for each in tests if each is not None)


def _seeds(arm: Arm) -> str:
    return ", ".join(str(each.seed) for each in arm.runs)


def _mean(values: Iterable[float]) -> str:
    return _digits(float(np.mean(list(values))))


def _digits(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def _interval(estimate: Estimate) -> str:
    return "{} ({} to {})".format(*map(_digits, (estimate.value, estimate.low, estimate.high)))


def _markdown(cells: Sequence[Mapping[str, str]]) -> str:
    head = list(dict.fromkeys(name for each in cells for name in each))
    lines = [head, ["---"] * len(head), *([each.get(name, "-") for name in head] for each in cells)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Log the tables of a task."""
    parser = argparse.ArgumentParser(
        prog="python -m results.table",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--task", choices=run.TASKS, default="sums")
    task = parser.parse_args().task
    quiet()
    try:
        tables = [reached(task), changed(task)]
    except UsageError as error:
        parser.error(str(error))
    log.info("%s", "\n\n".join(filter(None, tables)))


if __name__ == "__main__":
    main()
