"""Where a command without a Trainer logs: the loggers that a fit's config asks for."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser
from lightning.pytorch.loggers import Logger

from es_lightning.errors import UsageError
from es_lightning.system.files import to_json
from es_lightning.tracking.logger import DurableMLFlowLogger
from es_lightning.tracking.places import MLFLOW_RUN, TRACKING_URI
from es_lightning.tracking.secrets import is_masked

SPOOL = "mlflow-spool.jsonl"


def loggers_for(asked: Any, folder: Path) -> list[Logger]:
    """Make the loggers that ``trainer.logger`` of a config asks for.

    Args:
        asked: its value as plain JSON: None or true is MLflow, as in a fit; false is none; otherwise a class
            with its options, or several.
        folder: of what is logged; MLflow's run has its name, and a file there says which run it is.

    Raises:
        UsageError: an option holds a secret, which plain configs do not.
    """
    if asked is False:
        return []
    if asked in (None, True):
        return [mlflow_logger(folder)]
    given = [asked] if isinstance(asked, Mapping) else list(asked)
    if is_masked(to_json(given)):
        raise UsageError(
            "trainer.logger has an address with a password or a token: give it by MLFLOW_TRACKING_URI "
            "instead, or go without by --trainer.logger false."
        )
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--logger", type=list[Logger])
    made = parser.instantiate_classes(parser.parse_object({"logger": given}))
    return list(made.logger)


def mlflow_logger(folder: Path) -> DurableMLFlowLogger:
    """Make the logger that a fit has by default; the run that the folder names goes on.

    Args:
        folder: of what is logged.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or TRACKING_URI
    logger = DurableMLFlowLogger(
        run_name=folder.name, tracking_uri=uri, spool=folder / SPOOL, system_metrics=False
    )
    logger.remember(folder / MLFLOW_RUN, resumes=True)
    return logger


def logged_before(folder: Path) -> list[Logger]:
    """Return the logger of the run that a folder names; none where nothing was logged.

    Args:
        folder: of what was logged.
    """
    return [mlflow_logger(folder)] if (folder / MLFLOW_RUN).is_file() else []


def finalized(loggers: Sequence[Logger], status: str = "success") -> None:
    """End the loggers' runs."""
    for logger in loggers:
        logger.finalize(status)
