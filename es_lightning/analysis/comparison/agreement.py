"""Whether runs can be compared at all: the same task, and the same held-out problems."""

from __future__ import annotations

from collections.abc import Sequence

from es_lightning.analysis.comparison.arms import differing
from es_lightning.analysis.comparison.runs import Evaluated, Run
from es_lightning.errors import UsageError

TASK = "data.task"
_PROBLEMS = "data.task.problems"  # a digest of the training problems, which journals alone have


def check_agreement(runs: Sequence[Run]) -> None:
    """Refuse runs whose rewards are not of the same thing.

    Args:
        runs: at least two.

    Raises:
        UsageError: tasks, their options, or held-out problems differ; the message says which.
    """
    first, *others = runs
    for run in others:
        _check_task(first, run)
    for split in ("val", "test"):
        _check_problems([run for run in runs if run.on(split)], split)


def _check_task(first: Run, run: Run) -> None:
    if first.task and run.task and first.task != run.task:
        raise UsageError(
            f"{first.name} is of the task {first.task} and {run.name} of {run.task}: compare runs of one "
            "task."
        )
    tasks = [_task_settings(each) for each in (first, run)]
    if all(tasks) and (names := differing(tasks)):
        told = " and ".join(f"{each.get(names[0], 'none')}" for each in tasks)
        raise UsageError(
            f"{first.name} and {run.name} differ in {names[0]}, {told}, so that their rewards are not of the "
            "same task: compare runs whose task has the same options."
        )


def _task_settings(run: Run) -> dict[str, object]:
    """Return class and options of the task; a class by its last word, since journals and configs differ."""
    settings = {name: value for name, value in run.settings.items() if _is_of_task(name)}
    if TASK in settings:
        settings[TASK] = str(settings[TASK]).rpartition(".")[2]
    return settings


def _is_of_task(name: str) -> bool:
    return (name == TASK or name.startswith(f"{TASK}.")) and name != _PROBLEMS


def _check_problems(runs: Sequence[Run], split: str) -> None:
    """Refuse evaluations on different problems, within a run too."""
    known: tuple[Run, Evaluated] | None = None
    for run in runs:
        for evaluation in run.on(split):
            known = known or (run, evaluation)
            apart = sorted(known[1].rewards.keys() ^ evaluation.rewards.keys())
            if apart:
                owner, other = (known[0], run) if apart[0] in known[1].rewards else (run, known[0])
                raise UsageError(
                    f"{known[0].name} and {run.name} were evaluated on different {split} problems: "
                    f"{owner.name} has {apart[0]}, {other.name} has not ({len(apart)} such problems). "
                    f"Compare runs with the same data.{split}_prompts and the same splits."
                )
