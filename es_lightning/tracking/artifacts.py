"""Files of a run go into MLflow's copy of it."""

from collections.abc import Iterable
from pathlib import Path

from lightning.pytorch.loggers import Logger, MLFlowLogger

from es_lightning.tracking.logger import DurableMLFlowLogger


def log_artifact(loggers: Iterable[Logger], path: Path, folder: str = "") -> None:
    """Put a file into the run of every MLflow logger.

    Args:
        loggers: of a trainer; other kinds are passed over.
        path: the file.
        folder: its place in the run.
    """
    for logger in loggers:
        if isinstance(logger, DurableMLFlowLogger):
            logger.log_artifact(path, folder)
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.log_artifact(logger.run_id, str(path), folder or None)


def log_table(loggers: Iterable[Logger], path: Path) -> None:
    """Put a table into the run of every MLflow logger, where its page of tables finds it.

    Args:
        loggers: of a trainer; other kinds are passed over.
        path: a JSON file of pandas' split form, as ``mlflow.log_table`` writes it.
    """
    own = [logger for logger in loggers if isinstance(logger, DurableMLFlowLogger)]
    for logger in own:
        logger.log_table(path)
    log_artifact([logger for logger in loggers if logger not in own], path, "tables")
