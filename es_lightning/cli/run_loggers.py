"""Where a command without a Trainer logs: the loggers that a fit's config asks for."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from es_lightning.errors import UsageError
from es_lightning.system.files import to_json
from es_lightning.tracking.places import MLFLOW_RUN, TRACKING_URI
from es_lightning.tracking.secrets import is_masked

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

    from es_lightning.tracking.logger import DurableMLFlowLogger

SPOOL = "mlflow-spool.jsonl"


def loggers_for(asked: Any, folder: Path, kind: str = "probe", resumes: bool = True) -> list[Logger]:
    """Make the loggers that ``trainer.logger`` of a config asks for, and open MLflow, which may refuse.

    Args:
        asked: its value as plain JSON: None or true is MLflow, as in a fit; false is none; otherwise a class
            with its options, or several.
        folder: of what is logged; MLflow's run has its name, and a file there says which run it is.
        kind: of run, a tag of MLflow's.
        resumes: whether MLflow's run that the file names goes on; a new one else.

    Raises:
        UsageError: MLflow cannot be used, or an option held a secret, which plain configs do not show.
    """
    if asked is False:
        return []
    if asked not in (None, True):
        return _instantiated(asked)
    logger = mlflow_logger(folder, kind, resumes)
    _ = logger.experiment  # checks the address
    return [logger]


def _instantiated(asked: Any) -> list[Logger]:
    """Make loggers from their classes and options."""
    given = [asked] if isinstance(asked, Mapping) else list(asked)
    if is_masked(to_json(given)):
        raise UsageError(
            "trainer.logger has an address with a password or a token: give it by MLFLOW_TRACKING_URI "
            "instead, or go without by --trainer.logger false."
        )
    from lightning.pytorch.cli import instantiate_class

    return [instantiate_class((), dict(each)) for each in given]


def mlflow_logger(folder: Path, kind: str = "probe", resumes: bool = True) -> DurableMLFlowLogger:
    """Make the logger that a fit has by default.

    Args:
        folder: of what is logged.
        kind: of run, a tag of MLflow's.
        resumes: whether the run that the folder names goes on; a new one else.
    """
    from es_lightning.tracking.logger import DurableMLFlowLogger  # Lightning takes seconds

    uri = os.environ.get("MLFLOW_TRACKING_URI") or TRACKING_URI
    logger = DurableMLFlowLogger(
        run_name=folder.name,
        tracking_uri=uri,
        spool=folder / SPOOL,
        system_metrics=False,
        tags={"kind": kind},
    )
    logger.remember(folder / MLFLOW_RUN, resumes)
    return logger


def logged_before(folder: Path) -> list[Logger]:
    """Return the logger of the run that a folder names; none where nothing was logged.

    Args:
        folder: of what was logged.
    """
    return [mlflow_logger(folder)] if (folder / MLFLOW_RUN).is_file() else []


def log_report_metrics(loggers: Sequence[Logger], metrics: Mapping[str, float]) -> None:
    """Log the numbers of a report, at a step of its own.

    A run that goes on keeps nothing of a step that it has, and the same folder can be reported again: so the
    step is the time, in milliseconds.

    Args:
        loggers: none are fine.
        metrics: by name; none are fine.
    """
    step = time.time_ns() // 10**6
    for logger in loggers:
        if metrics:
            logger.log_metrics(dict(metrics), step=step)


@contextmanager
def logging_to(loggers: Sequence[Logger], settings: Mapping[str, Any]) -> Iterator[Sequence[Logger]]:
    """Log settings, give the loggers to a ``with`` block, and end their runs as it ended.

    Args:
        loggers: none are fine.
        settings: parameters of the runs.
    """
    for logger in loggers:
        if settings:
            logger.log_hyperparams(dict(settings))
    try:
        yield loggers
    except BaseException:
        for logger in loggers:
            logger.finalize("failed")
        raise
    for logger in loggers:
        logger.finalize("success")
