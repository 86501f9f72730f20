"""A sweep in MLflow: a run of its own, with the runs of its fits below it."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from es_lightning.cli.run_loggers import loggers_for
from es_lightning.sweeps.results import Row, Rows
from es_lightning.sweeps.settings import SweepSettings
from es_lightning.sweeps.trial import name_of
from es_lightning.tracking.artifacts import log_artifact

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

log = logging.getLogger(__name__)

CONTEXT = "MLFLOW_RUN_CONTEXT"
"""MLflow's own variable: tags, as JSON, of every run that a process makes."""


class SweepLog:
    """The sweep's own run, where the fits log to MLflow; nothing where they do not.

    Args:
        asked: ``trainer.logger`` of the fits, as JSON.
        settings: of the sweep.
    """

    def __init__(self, asked: Any, settings: SweepSettings) -> None:
        from lightning.pytorch.loggers import MLFlowLogger

        self._settings = settings
        made: list[Logger] = loggers_for(asked, settings.output, "sweep") if is_mlflow(asked) else []
        self.loggers = [each for each in made if isinstance(each, MLFlowLogger)]
        self._parent = self.loggers[0].run_id if self.loggers else None
        if self.loggers and self._parent is None:
            log.warning("MLflow is away: the runs of the trials are logged without the sweep's above them.")
        self._told: set[int] = set()

    @property
    def parameters(self) -> dict[str, Any]:
        """The settings of the sweep, for its run's page."""
        return {f"sweep.{name}": value for name, value in self._settings.plain().items()}

    def environment(self, number: int, seed: int) -> dict[str, str]:
        """Return the variables that put a fit's run below the sweep's, under a name of its own.

        Args:
            number: of the trial.
            seed: of the fit.
        """
        if self._parent is None:
            return {}
        tags = json.loads(os.environ.get(CONTEXT) or "{}")
        tags |= {"mlflow.parentRunId": self._parent, "mlflow.runName": f"{name_of(number)}-seed-{seed}"}
        tags |= {"es.sweep": self._settings.output.name, "es.trial": str(number)}
        return {CONTEXT: json.dumps(tags)}

    def tell(self, rows: Rows, best: Row | None) -> None:
        """Log the trials that have ended since, the best of all, and the files.

        Args:
            rows: of all trials.
            best: row of the best one; None if none is complete.
        """
        for row in rows:
            if row["trial"] not in self._told and row["objective"] is not None:
                self._told.add(row["trial"])
                for logger in self.loggers:
                    logger.log_metrics({"sweep/objective": row["objective"]}, step=row["trial"])
        names = ["trials.csv", "sweep.png", *(["best.yaml"] if best else [])]
        for logger in self.loggers:
            if best is not None:
                logger.log_metrics({"sweep/best": best["objective"]}, step=len(rows) - 1)
                _tag(logger, {f"best.{key}": str(best[key]) for key in ("trial", *self._settings.space)})
        for name in names:
            log_artifact(self.loggers, self._settings.output / name)


def is_mlflow(asked: Any) -> bool:
    """Whether the fits of a config log to MLflow.

    Args:
        asked: ``trainer.logger``, as JSON: None and true mean MLflow.
    """
    listed = asked if isinstance(asked, list) else [asked]
    return any(
        each in (None, True)
        or (isinstance(each, Mapping) and "mlflow" in str(each.get("class_path", "")).lower())
        for each in listed
    )


def _tag(logger: Logger, tags: Mapping[str, str]) -> None:
    from es_lightning.tracking.logger import DurableMLFlowLogger

    if isinstance(logger, DurableMLFlowLogger):
        logger.log_tags(tags)
        return
    for name, value in tags.items():
        logger.experiment.set_tag(logger.run_id, name, value)  # type: ignore[attr-defined]
