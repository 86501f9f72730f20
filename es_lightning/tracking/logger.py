"""Lightning's MLflow logger with an outbox, so that the tracking server may go away and come back."""

from __future__ import annotations

import atexit
import json
import logging
import re
import time
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.fabric.utilities.logger import _convert_params, _flatten_dict  # what its own loggers use
from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.utilities import rank_zero_only

from es_lightning.errors import UsageError
from es_lightning.system.files import replacing
from es_lightning.tracking.outbox import Outbox, Parcel, root_cause, without_password
from es_lightning.tracking.sender import LARGE, PER_REQUEST, Sender, cut, fail_fast, may_pass

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

STATUSES = {"success": "FINISHED", "finished": "FINISHED", "failed": "FAILED"}
KIND = "mlflow.experimentKind"  # decides which of two views MLflow's page shows; here the one for training

log = logging.getLogger(__name__)


class DurableMLFlowLogger(MLFlowLogger):
    """Lightning's MLflow logger for servers that come and go: training never waits, and nothing is lost.

    Metrics, parameters and artifacts are queued, and one thread sends them in order. When the server stops
    answering, one warning is given and ``spool`` keeps what is pending; when it answers again, it gets all of
    it and the file is deleted. What is left at the end is delivered by the next logger with the same
    ``spool``.

    In this process MLflow's client tries a request once, for 10 seconds, instead of retrying for minutes. Set
    MLFLOW_HTTP_REQUEST_MAX_RETRIES or MLFLOW_HTTP_REQUEST_TIMEOUT to change that.

    Args:
        experiment_name: experiment of the run; created if there is none.
        run_name: name of the run in MLflow.
        tracking_uri: address of the server, or a database such as ``sqlite:///mlflow.db``; None takes
            MLflow's own choice, which follows MLFLOW_TRACKING_URI.
        spool: file that keeps what is pending while the server is away; if None, only memory keeps it.
        tags: tags of the run.
        run_id: run to continue; None begins a new one.
        artifact_location: where a new experiment keeps its artifacts; None leaves it to the server.
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
        from mlflow import get_tracking_uri

        uri = tracking_uri or get_tracking_uri()
        self._shown_uri = without_password(uri)
        self._receiver = f"MLflow at {self._shown_uri}"
        self._patience_seconds = patience_seconds
        self._final_status: str | None = None
        self._run_file: Path | None = None
        self._begun = self._continues = False
        self._born = _milliseconds()
        fail_fast()
        with self._usage_error():
            super().__init__(
                experiment_name, run_name, uri, tags=tags, run_id=run_id, artifact_location=artifact_location
            )
        self._sender = Sender(self._client)
        place = Path(spool) if spool else None
        self._outbox = Outbox(self._sender.send, may_pass, self._receiver, place, PER_REQUEST, LARGE)

    @property
    @rank_zero_experiment
    def experiment(self) -> MlflowClient:
        """MLflow's client; the first use creates the run and queues what an earlier process left."""
        if not self._is_open:
            with self._usage_error():
                self._open()
            atexit.register(self._outbox.close, self._patience_seconds)
            self._outbox.recover()
        return self._client

    def remember(self, file: Path, resumes: bool) -> None:
        """Let a file record which MLflow run a training belongs to; call it before the first use.

        Args:
            file: a file in the training's folder; it is written when something is logged for the first time.
            resumes: whether to continue the run that the file names, if it is on this server.
        """
        self._run_file = file
        if resumes and file.exists() and self._known_run is None:
            known = json.loads(file.read_text(encoding="utf-8"))
            if known.get("tracking_uri") == self._shown_uri:
                self._known_run = known["run_id"]

    def _open(self) -> None:
        """Create the run or continue one; create a new one if the server has lost it."""
        if self._known_run is not None and self._run_file is not None and self._is_lost(self._known_run):
            log.warning("%s has no run %s any more: a new one is made.", self._receiver, self._known_run)
            self._known_run = None
        continued = self._known_run
        _ = super().experiment
        experiment = str(self._known_experiment)
        if KIND not in self._client.get_experiment(experiment).tags:
            self._client.set_experiment_tag(experiment, KIND, "custom_model_development")
        if continued is not None:
            self._continues = True
            self._sender.continues(continued, since=self._born)

    def _begin(self, run_id: str) -> None:
        """Record the run in its file.

        The first parcel does this: Lightning opens the run before the training has passed its checks.
        """
        self._begun = True
        if self._continues:
            self._outbox.add([Parcel(run_id, "status", {"status": "RUNNING"})])
        if self._run_file is not None:
            known = {"tracking_uri": self._shown_uri, "experiment_id": self._known_experiment}
            with replacing(self._run_file) as file:
                file.write(json.dumps(known | {"run_id": run_id}, indent=2).encode())

    def _is_lost(self, run_id: str) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            stage = self._client.get_run(run_id).info.lifecycle_stage
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return True
        return bool(stage == "deleted")

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Queue a step's metrics with the current time, except Lightning's epoch, which says nothing."""
        moment = {"timestamp": _milliseconds(), "step": int(step or 0)}
        # Without characters that MLflow refuses in names.
        named = {re.sub("[^a-zA-Z0-9_/. -]+", "", key): float(value) for key, value in metrics.items()}
        items = [item for item in named.items() if item[0] != "epoch"]
        self._queue("metric", ({"key": key, "value": value, **moment} for key, value in items))

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *_: Any, **__: Any) -> None:
        """Queue parameters, flattened as Lightning does and cut at MLflow's limit of 6,000 characters."""
        items = _flatten_dict(_convert_params(params)).items()
        self._queue("param", ({"key": key, "value": cut(str(value))} for key, value in items))

    @rank_zero_only
    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Queue tags of the run."""
        self._queue("tag", ({"key": key, "value": value} for key, value in tags.items()))

    @rank_zero_only
    def log_table(self, path: Path | str) -> None:
        """Queue a table, a JSON file in pandas' ``split`` orientation, for MLflow's page of tables."""
        self.log_artifact(path, "tables")
        self._queue("table", [{"path": f"tables/{Path(path).name}", "type": "table"}])

    @rank_zero_only
    def log_dataset(self, dataset: Mapping[str, Any], context: str) -> None:
        """Queue a data set that the run has used.

        Args:
            dataset: the result of ``to_dict`` of an ``mlflow.data`` data set.
            context: what the data set was used for, for example ``training``.
        """
        self._queue("dataset", [{**dataset, "context": context}])

    @rank_zero_only
    def log_model(
        self,
        path: Path | str,
        name: str,
        chat: bool,
        step: int = 0,
        tags: Mapping[str, str] | None = None,
        params: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Queue a Hugging Face model as an MLflow model; its folder is read when it is sent.

        A run stores the same model only once.

        Args:
            path: the model's folder.
            name: the model's name in MLflow.
            chat: whether the model takes messages, or plain text.
            step: number of updates that the model has seen.
            tags: tags of the model.
            params: settings that the model was made with.
            metrics: measurements of the model, for its page and the run's.
        """
        item = {"path": str(Path(path).absolute()), "name": re.sub("[/:.%\"']", "-", name), "chat": chat}
        item |= {"step": step, "tags": {"updates": str(step), **(tags or {})}}
        item |= {"params": {key: str(value) for key, value in (params or {}).items()}}
        moment = {"timestamp": _milliseconds(), "step": step}
        named = [{"key": key, "value": value, **moment} for key, value in (metrics or {}).items()]
        self._queue("model", [{**item, "metrics": named}])

    @rank_zero_only
    def log_artifact(self, path: Path | str, folder: str = "") -> None:
        """Queue a file or directory for a folder of the run; it is read when it is sent."""
        self._queue("artifact", [{"path": str(Path(path).absolute()), "folder": folder}])

    @rank_zero_only
    def finalize(self, status: str = "success") -> None:
        """End the run once all is delivered; after ``patience_seconds`` leave the rest to the spool.

        A run that was to be continued, but got nothing new, stays as it was.
        """
        if not self._is_open or (self._outbox.closed and status == self._final_status):
            return
        self._final_status = status
        if self._begun or not self._continues:
            ended = {"status": STATUSES.get(status, status), "end_time": _milliseconds()}
            self._outbox.add([Parcel(str(self._known_run), "status", ended)])
        self._outbox.close(self._patience_seconds)

    def _queue(self, kind: str, items: Iterable[dict[str, Any]]) -> None:
        run_id = str(self.run_id)
        if not self._begun:
            self._begin(run_id)
        self._outbox.add([Parcel(run_id, kind, item) for item in items])

    # Lightning's private attributes, all of them in this block. Reading its public ``experiment``, ``run_id``
    # or ``experiment_id`` would create the run; these only tell what is known so far.

    @property
    def _client(self) -> MlflowClient:
        return self._mlflow_client

    @property
    def _is_open(self) -> bool:
        return self._initialized

    @property
    def _known_experiment(self) -> str | None:
        return self._experiment_id

    @property
    def _known_run(self) -> str | None:
        return self._run_id

    @_known_run.setter
    def _known_run(self, run_id: str | None) -> None:
        self._run_id = run_id

    @contextmanager
    def _usage_error(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise UsageError(
                f"{self._receiver} cannot be used ({root_cause(error)}): start it, name another one with "
                "MLFLOW_TRACKING_URI or the logger's tracking_uri, or go without by --trainer.logger false."
            ) from error


def _milliseconds() -> int:
    return int(time.time() * 1000)
