"""Files and tables of a run are logged to MLflow as artifacts."""

from collections.abc import Iterable
from pathlib import Path

from lightning.pytorch.loggers import Logger, MLFlowLogger

from es_lightning.tracking.logger import DurableMLFlowLogger


def log_artifact(loggers: Iterable[Logger], path: Path, folder: str = "") -> None:
    """Log a file as an artifact with every MLflow logger.

    Args:
        loggers: the loggers of a trainer; other kinds are skipped.
        path: the file.
        folder: folder of the artifacts to put it into; empty for the top folder.
    """
    for logger in loggers:
        if isinstance(logger, DurableMLFlowLogger):
            logger.log_artifact(path, folder)
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.log_artifact(logger.run_id, str(path), folder or None)


def log_table(loggers: Iterable[Logger], path: Path) -> None:
    """Log a table with every MLflow logger, where MLflow's page of tables finds it.

    Args:
        loggers: the loggers of a trainer; other kinds are skipped.
        path: a JSON file in pandas' ``split`` orientation, as ``mlflow.log_table`` writes it.
    """
    own = [logger for logger in loggers if isinstance(logger, DurableMLFlowLogger)]
    for logger in own:
        logger.log_table(path)
    log_artifact([logger for logger in loggers if logger not in own], path, "tables")
