"""Lightning's MLflow logger behind an outbox, so that a tracking server may go away and come back.

MLflow identifies a metric by run, name, time, step and value: what is sent twice is stored once.
"""

from __future__ import annotations

import atexit
import logging
import re
import time
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.fabric.utilities.logger import _convert_params, _flatten_dict
from lightning.pytorch.loggers import Logger, MLFlowLogger
from lightning.pytorch.utilities import rank_zero_only

from es_lightning.errors import UsageError
from es_lightning.spool import THREAD, Entry, Outbox, one_line, root_cause

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

PER_REQUEST = {"metric": 1000, "param": 100, "artifact": 1, "status": 1}  # MLflow's limits
STATUSES = {"success": "FINISHED", "finished": "FINISHED", "failed": "FAILED"}
PASSING = {401, 403, 408, 429}  # these say something about a token, a gateway or a rate, not about an entry
SECONDS_PER_REQUEST = 10


class DurableMLFlowLogger(MLFlowLogger):
    """Lightning's MLflow logger for servers that come and go: training never waits, and nothing is lost.

    Metrics, parameters and artifacts are queued, and one thread sends them in order. When the server stops
    answering, one warning is given and ``spool`` keeps what is pending; when it answers again, it gets all of
    it and the file is deleted. The next logger with the same ``spool`` delivers what is left at the end.

    In this process MLflow's client tries a request once and for 10 seconds, instead of for minutes; set
    MLFLOW_HTTP_REQUEST_MAX_RETRIES or MLFLOW_HTTP_REQUEST_TIMEOUT to have it otherwise.

    Args:
        experiment_name: experiment of the run; made if there is none.
        run_name: name of the run in MLflow.
        tracking_uri: address of the server, or a database such as ``sqlite:///mlflow.db``; unless given,
            MLflow's own choice, which follows MLFLOW_TRACKING_URI.
        spool: file that keeps entries while the server is away; if None, memory alone keeps them.
        tags: tags of the run.
        run_id: run to go on with; a new one unless given.
        artifact_location: where a new experiment keeps its artifacts; the server's choice unless given.
        patience_seconds: how long ``finalize`` waits for what is pending.
    """

    def __init__(
        self,
        experiment_name: str = "es_lightning",
        run_name: str | None = None,
        tracking_uri: str | None = None,
        spool: Path | str | None = None,
        tags: dict[str, Any] | None = None,
        run_id: str | None = None,
        artifact_location: str | None = None,
        patience_seconds: float = 10.0,
    ) -> None:
        uri = tracking_uri or _default_uri()
        self._receiver = f"MLflow at {one_line(uri)}"
        self._patience_seconds = patience_seconds
        self._final_status: str | None = None
        _fail_fast()
        with self._usage_error():
            super().__init__(
                experiment_name, run_name, uri, tags=tags, run_id=run_id, artifact_location=artifact_location
            )
        self._outbox = Outbox(
            self._send,
            _may_pass,
            self._receiver,
            Path(spool) if spool else None,
            PER_REQUEST,
            yielding={"artifact"},  # the store of artifacts may be down alone
        )

    @property
    @rank_zero_experiment
    def experiment(self) -> MlflowClient:
        """MLflow's client; the first use makes the run, and takes over what an earlier process left."""
        if not self._initialized:
            with self._usage_error():
                _ = super().experiment
            atexit.register(self._outbox.close, self._patience_seconds)
            self._outbox.recover()
        return self._mlflow_client

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Queue the metrics of a step, with the time of now."""
        moment = {"timestamp": _milliseconds(), "step": int(step or 0)}
        items = [(re.sub("[^a-zA-Z0-9_/. -]+", "", key), float(value)) for key, value in metrics.items()]
        self._queue("metric", ({"key": key, "value": value, **moment} for key, value in items))

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *_: Any, **__: Any) -> None:
        """Queue parameters, flattened and cut as Lightning does."""
        items = _flatten_dict(_convert_params(params)).items()
        self._queue("param", ({"key": key, "value": str(value)[:250]} for key, value in items))

    @rank_zero_only
    def log_artifact(self, path: Path | str, folder: str = "") -> None:
        """Queue a file or a directory, which is read when it is sent, for a folder of the run."""
        self._queue("artifact", [{"path": str(Path(path).absolute()), "folder": folder}])

    @rank_zero_only
    def finalize(self, status: str = "success") -> None:
        """End the run when all is delivered; after ``patience_seconds`` leave that to the spool."""
        repeated = self._outbox.closed and status == self._final_status
        if not self._initialized or repeated:
            return
        self._final_status = status
        self._queue("status", [{"status": STATUSES.get(status, status), "end_time": _milliseconds()}])
        self._outbox.close(self._patience_seconds)

    def _queue(self, kind: str, items: Iterable[dict[str, Any]]) -> None:
        run_id = str(self.run_id)
        self._outbox.add([Entry(run_id, kind, item) for item in items])

    def _send(self, run_id: str, kind: str, items: list[dict[str, Any]]) -> None:
        from mlflow.entities import Metric, Param

        client = self._mlflow_client
        if kind == "metric":
            client.log_batch(run_id, metrics=[Metric(**item) for item in items], synchronous=True)
        elif kind == "param":
            client.log_batch(run_id, params=[Param(**item) for item in items], synchronous=True)
        elif kind == "artifact":
            client.log_artifact(run_id, items[0]["path"], items[0]["folder"] or None)
        else:
            client.set_terminated(run_id, **items[0])

    @contextmanager
    def _usage_error(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise UsageError(
                f"{self._receiver} cannot be used ({root_cause(error)}): start it, name another one with "
                "MLFLOW_TRACKING_URI or the logger's tracking_uri, or go without by --trainer.logger false."
            ) from error


def keep_artifact(loggers: Iterable[Logger], path: Path, folder: str = "") -> None:
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


def _default_uri() -> str:
    from mlflow import get_tracking_uri

    return get_tracking_uri()


def _milliseconds() -> int:
    return int(time.time() * 1000)


def _fail_fast() -> None:
    """Change MLflow's defaults, which it reads at each request; variables that are set still win."""
    from mlflow import environment_variables

    environment_variables.MLFLOW_HTTP_REQUEST_MAX_RETRIES.default = 0
    environment_variables.MLFLOW_HTTP_REQUEST_TIMEOUT.default = SECONDS_PER_REQUEST
    # A locked database would print a traceback per attempt, where the outbox gives one warning.
    logging.getLogger("mlflow.store.db.utils").addFilter(_not_from_sender)


def _not_from_sender(record: logging.LogRecord) -> bool:
    return record.threadName != THREAD


def _may_pass(error: Exception) -> bool:
    """Tell a server that is away from one that refuses an entry."""
    from mlflow.exceptions import ERROR_CODE_TO_HTTP_STATUS, MlflowException

    response = getattr(error, "response", None)  # of requests.HTTPError, which uploads of artifacts raise
    if response is not None:
        status = response.status_code
    elif isinstance(error, MlflowException):
        if error.error_code == "ENDPOINT_NOT_FOUND":  # a gateway that has lost its server
            return True
        status = ERROR_CODE_TO_HTTP_STATUS.get(error.error_code, 500)
    else:
        return isinstance(error, OSError) and not isinstance(error, FileNotFoundError | PermissionError)
    return int(status) >= 500 or status in PASSING
