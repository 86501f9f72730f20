"""The runs of an experiment in MLflow, for ``compare --experiment``."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

from es_lightning.analysis.comparison.arms import is_repeat
from es_lightning.analysis.comparison.folder import FILES, missing, read_run
from es_lightning.analysis.comparison.runs import Run
from es_lightning.errors import UsageError
from es_lightning.journal.evaluations import read_evaluations
from es_lightning.tracking.places import TRACKING_URI
from es_lightning.tracking.runs import trainings

log = logging.getLogger(__name__)


def runs_of_experiment(experiment: str, task: str | None = None) -> list[Run]:
    """Read an experiment's trainings; what cannot be compared is named in a warning and left out.

    Args:
        experiment: its name in MLflow.
        task: take the runs of this task alone; None takes all.

    Raises:
        UsageError: MLflow or the experiment cannot be read, or a file is damaged.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or TRACKING_URI
    with TemporaryDirectory() as scratch:
        found = trainings(experiment, uri, FILES, Path(scratch))
        lacking = [each for each in found if missing(each.folder) or not read_evaluations(each.folder)]
        runs = [read_run(each.folder, each.name) for each in found if each not in lacking]
    _warn("have left no evaluations in MLflow", (each.name for each in lacking))
    # A baseline that has not ended does not tell its task's name; its settings are compared anyway.
    runs = [run for run in runs if task is None or run.task in ("", task)]
    if len(tasks := sorted({run.task for run in runs if run.task})) > 1:
        raise UsageError(
            f"the experiment {experiment} has runs of the tasks {', '.join(tasks)}: choose one with --task."
        )
    earlier = [
        run for index, run in enumerate(runs) if any(is_repeat(run, each) for each in runs[index + 1 :])
    ]
    _warn("were repeated later with the same settings and seed", (run.name for run in earlier))
    return [run for run in runs if run not in earlier]


def _warn(why: str, names: Iterable[str]) -> None:
    if told := ", ".join(names):
        log.warning("Left out, since they %s: %s.", why, told)
