"""Lightning's MLflow logger with an outbox, so that the tracking server may go away and come back."""

from __future__ import annotations

import atexit
import json
import logging
import re
import threading
import time
from argparse import Namespace
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.fabric.utilities.logger import _convert_params, _flatten_dict  # what its own loggers use
from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.utilities import rank_zero_only

from es_lightning.errors import StorageError, UsageError
from es_lightning.system.files import replacing
from es_lightning.tracking import address
from es_lightning.tracking.outbox import Outbox, Parcel
from es_lightning.tracking.places import MLFLOW_RUN
from es_lightning.tracking.secrets import root_cause, without_password
from es_lightning.tracking.sender import LARGE, PER_REQUEST, SYSTEM, Sender, cut, fail_fast, may_pass
from es_lightning.tracking.system_metrics import SystemMetrics

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

STATUSES = {"success": "FINISHED", "finished": "FINISHED", "failed": "FAILED"}
NAME_TAG = "mlflow.runName"
UNOPENED = "http://no-mlflow-yet.invalid"  # for Lightning's constructor, which opens what it is given

log = logging.getLogger(__name__)


class DurableMLFlowLogger(MLFlowLogger):
    """Lightning's MLflow logger for servers that come and go: training never waits, and nothing is lost.

    Metrics, parameters and artifacts are queued, and one thread sends them in order. When the server stops
    answering, one warning is given and ``spool`` keeps what is pending; when it answers again, it gets all of
    it and the file is deleted. What is left at the end is delivered by the next logger with the same
    ``spool``.

    MLflow's run is made when something is logged for the first time: Lightning asks for the client before a
    training has passed its checks, and a training that is refused leaves no run.

    In this process MLflow's client tries a request once, for 10 seconds, instead of retrying for minutes. Set
    MLFLOW_HTTP_REQUEST_MAX_RETRIES or MLFLOW_HTTP_REQUEST_TIMEOUT to change that.

    Args:
        experiment_name: experiment of the run; created if there is none.
        run_name: name of the run in MLflow.
        tracking_uri: address of the server, or a database such as ``sqlite:///mlflow.db``; None takes
            MLflow's own choice, which follows MLFLOW_TRACKING_URI. Secrets in it are shown and saved nowhere.
        spool: file that keeps what is pending while the server is away; if None, only memory keeps it.
        tags: tags of the run.
        run_id: run to continue; None begins a new one.
        artifact_location: where a new experiment keeps its artifacts; None leaves it to the server.
        patience_seconds: how long ``finalize`` waits for what is pending, and the start for a database that
            another process has locked.
        system_metrics: whether ``watch_system`` logs the use of processors, memory, disk, network and GPUs,
            every 10 seconds, or as MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL says.
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
        system_metrics: bool = True,
    ) -> None:
        from mlflow import get_tracking_uri

        uri = tracking_uri or get_tracking_uri()
        self._uri, self._shown_uri = address.complete(uri), without_password(uri)
        self._receiver = f"MLflow at {self._shown_uri}"
        self._patience_seconds = patience_seconds
        self._final_status: str | None = None
        self._run_file: Path | None = None
        self._begun = self._continues = False
        self._born = self._started = _milliseconds()
        self._key = uuid4().hex  # the run's name until it is made
        self._waits = threading.Event()
        self._system = SystemMetrics(self._log_system_metrics) if system_metrics else None
        fail_fast()
        super().__init__(
            experiment_name, run_name, UNOPENED, tags=tags, run_id=run_id, artifact_location=artifact_location
        )
        self._set_uri(self._uri)
        self._sender = Sender(self._uri, self._made)
        place = Path(spool) if spool else None
        self._outbox = Outbox(self._sender.send, may_pass, self._receiver, place, PER_REQUEST, LARGE)

    @property
    @rank_zero_experiment
    def experiment(self) -> MlflowClient:
        """MLflow's client; the first use checks the address, and queues what an earlier process left."""
        if not self._is_open:
            self._open()
            atexit.register(self._outbox.close, self._patience_seconds)
            self._outbox.recover()
        return self._sender.client if self._sender.is_open else self._unopened

    @property
    def run_id(self) -> str | None:
        """The run's id; asking for it makes the run. None if MLflow is away, and on other ranks than 0."""
        if getattr(rank_zero_only, "rank", 0) == 0 and self._known_run is None:
            self._begin()
            self._waits.wait(self._patience_seconds)
        return self._known_run

    @property
    def experiment_id(self) -> str | None:
        """The experiment's id; asking for it makes the run. None as with ``run_id``."""
        return None if self.run_id is None else self._known_experiment

    def remember(self, file: Path, resumes: bool) -> None:
        """Let a file record which MLflow run a training belongs to; call it before the first use.

        Args:
            file: a file in the training's folder; it is written when the run is made.
            resumes: whether to continue the run that the file names, if it is on this server.
        """
        self._run_file = file
        if not resumes or self._known_run is not None:
            return
        if file.exists():
            known = json.loads(file.read_text(encoding="utf-8"))
            if known.get("tracking_uri") == self._shown_uri:
                self._known_run = known["run_id"]
        elif waiting := self._outbox.waiting_run():
            self._key, self._continues = waiting, True

    @property
    def shown_uri(self) -> str:
        """The tracking URI without its secrets, as the run's file has it."""
        return self._shown_uri

    def evaluates(self, command: str, fit_run: str | None) -> None:
        """Make this an evaluation, with a name and tags of its own; a run that is under way stays as it is.

        Args:
            command: what is done, ``test`` or ``validate``.
            fit_run: the run that made the model, on the same server; MLflow's page shows this run below it.
        """
        if self._begun or self._known_run is not None:
            return
        self._add_to_name(f"-{command}")
        if fit_run is not None:
            self.tags = {**(self.tags or {}), "es.fit_run": fit_run, "mlflow.parentRunId": fit_run}

    def _open(self) -> None:
        """Check the address and what is to be continued; nothing is stored there yet."""
        import mlflow

        try:
            open_ = partial(getattr, self._sender, "client")
            self._look_up(address.when_free(open_, self._shown_uri, self._patience_seconds))
        except UsageError:
            raise
        except Exception as error:
            resumes = self._known_run is not None or self._continues
            if not isinstance(error, address.Busy) and not (resumes and may_pass(error)):
                raise UsageError(address.refusal(self._uri, error)) from error
            message = "%s cannot be used yet (%s): the run goes on without it, and %s keeps what is for it."
            log.warning(message, self._receiver, root_cause(error), self._outbox.spool or "memory alone")
        mlflow.set_tracking_uri(self._uri)
        self._note_open()
        self._continues = self._continues or self._known_run is not None
        if self._continues:
            self._sender.continues(self._name, since=self._born)

    def _look_up(self, client: MlflowClient) -> None:
        """Find the run that is to be continued, or make sure that a new one can be made."""
        from mlflow.exceptions import MlflowException

        if self._known_run is not None:
            try:
                info = client.get_run(self._known_run).info
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST" or self._run_file is None:
                    raise
                info = None
            if info is not None and info.lifecycle_stage != "deleted":
                self._known_experiment, self._started = info.experiment_id, info.start_time
                return
            log.warning("%s has no run %s any more: a new one is made.", self._receiver, self._known_run)
            self._known_run = None
        experiment = client.get_experiment_by_name(self._wanted_experiment)
        if experiment is not None and experiment.lifecycle_stage == "deleted":
            raise address.deleted(self._receiver, self._wanted_experiment, experiment.experiment_id)

    def _begin(self) -> None:
        """Queue what makes the run, or what says that it goes on."""
        from mlflow.tracking.context.registry import resolve_tags

        if self._begun:
            return
        _ = self.experiment
        self._begun = True
        if self._known_run is None:
            item: dict[str, Any] = {
                "experiment": self._wanted_experiment,
                "artifact_location": self._artifact_location,
            }
            tags = resolve_tags(self.tags)  # with those of MLFLOW_RUN_CONTEXT: a sweep names its runs there
            item |= {"run_name": tags.get(NAME_TAG, self._wanted_name), "tags": tags}
            item |= {"start_time": self._started}
            self._outbox.add([Parcel(self._key, "run", item)])
        else:
            self._record(self._known_run)
        if self._continues:
            self._outbox.add([Parcel(self._name, "status", {"status": "RUNNING"})])

    def _made(self, name: str, run: Run) -> None:
        """Note the run that was made; the outbox's thread calls this."""
        if name == self._key:
            self._known_run, self._known_experiment = run.info.run_id, run.info.experiment_id
            try:
                self._record(run.info.run_id)
            except StorageError as error:
                log.warning("%s", error)
            self._waits.set()

    def _record(self, run_id: str) -> None:
        """Record the run in its file."""
        if self._run_file is not None and self._known_experiment is not None:
            known = {"tracking_uri": self._shown_uri, "experiment_id": self._known_experiment}
            with replacing(self._run_file) as file:
                file.write(json.dumps(known | {"run_id": run_id}, indent=2).encode())

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
            step: generations done; one that was skipped counts.
            tags: tags of the model.
            params: settings that the model was made with.
            metrics: measurements of the model, for its page and the run's.
        """
        item = {"path": str(Path(path).absolute()), "name": re.sub("[/:.%\"']", "-", name), "chat": chat}
        item |= {"step": step, "tags": {"generations": str(step), **(tags or {})}}
        item |= {"params": {key: str(value) for key, value in (params or {}).items()}}
        moment = {"timestamp": _milliseconds(), "step": step}
        named = [{"key": key, "value": value, **moment} for key, value in (metrics or {}).items()]
        self._queue("model", [{**item, "metrics": named}])

    @rank_zero_only
    def log_artifact(self, path: Path | str, folder: str = "") -> None:
        """Queue a file or directory for a folder of the run; it is read when it is sent."""
        self._queue("artifact", [{"path": str(Path(path).absolute()), "folder": folder}])

    @rank_zero_only
    def watch_system(self) -> None:
        """Log what this machine is busy with until ``finalize``, unless ``system_metrics`` is off."""
        if self._system is not None and self._final_status is None:
            self._begin()
            self._system.start()

    def _log_system_metrics(self, metrics: Mapping[str, float]) -> None:
        """Queue what was measured; the step is the seconds since the run's beginning, resumed or not."""
        now = _milliseconds()
        moment = {"timestamp": now, "step": (now - self._started) // 1000}
        self._queue("metric", ({"key": f"{SYSTEM}{key}", "value": metrics[key], **moment} for key in metrics))

    @rank_zero_only
    def finalize(self, status: str = "success") -> None:
        """End the run once all is delivered; after ``patience_seconds`` leave the rest to the spool.

        A run that got nothing is not made, and one that was to be continued stays as it was.
        """
        if self._system is not None:
            self._system.stop()
        if not self._is_open or (self._outbox.closed and status == self._final_status):
            return
        self._final_status = status
        if self._begun:
            ended = {"status": STATUSES.get(status, status), "end_time": _milliseconds()}
            self._outbox.add([Parcel(self._name, "status", ended)])
        self._outbox.close(self._patience_seconds)

    def _queue(self, kind: str, items: Iterable[dict[str, Any]]) -> None:
        self._begin()
        self._outbox.add([Parcel(self._name, kind, item) for item in items])

    @property
    def _name(self) -> str:
        return self._known_run or self._key

    # Lightning's private attributes, all of them in this block. Reading its public ``experiment``, ``run_id``
    # or ``experiment_id`` would open the database and make the run; these only tell what is known so far.

    def _set_uri(self, uri: str) -> None:
        self._tracking_uri = uri  # Lightning's constructor would have opened a database, on every rank

    @property
    def _unopened(self) -> MlflowClient:
        return self._mlflow_client

    @property
    def _is_open(self) -> bool:
        return self._initialized

    def _note_open(self) -> None:
        self._initialized = True

    @property
    def _wanted_experiment(self) -> str:
        return self._experiment_name

    @property
    def _wanted_name(self) -> str | None:
        return self._run_name

    def _add_to_name(self, ending: str) -> None:
        if self._run_name is not None:
            self._run_name += ending

    @property
    def _known_experiment(self) -> str | None:
        return self._experiment_id

    @_known_experiment.setter
    def _known_experiment(self, experiment_id: str) -> None:
        self._experiment_id = experiment_id

    @property
    def _known_run(self) -> str | None:
        return self._run_id

    @_known_run.setter
    def _known_run(self, run_id: str | None) -> None:
        self._run_id = run_id


def run_of(places: Iterable[Path], shown_uri: str) -> str | None:
    """Return the id of the MLflow run that made a checkpoint or a model, as a file above it says.

    Args:
        places: checkpoints and folders of models; the first that lies in a run's folder counts.
        shown_uri: the server that the run has to be on, without secrets.
    """
    for place in places:
        # runs/demo/model, runs/demo/checkpoints/last.ckpt, runs/demo/exported/generation-5
        for folder in list(place.absolute().parents)[:2] if place.exists() else ():
            if (folder / MLFLOW_RUN).is_file():
                known = json.loads((folder / MLFLOW_RUN).read_text(encoding="utf-8"))
                return str(known["run_id"]) if known.get("tracking_uri") == shown_uri else None
    return None


def _milliseconds() -> int:
    return int(time.time() * 1000)
