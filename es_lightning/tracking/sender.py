"""How each kind of parcel gets into an MLflow run, and which errors mean that the server is only away.

MLflow identifies a metric by run, name, time, step and value, so a metric that is sent twice is stored once.
"""

from __future__ import annotations

import json
import logging
import math
import sqlite3
import tempfile
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from es_lightning.tracking import address
from es_lightning.tracking.outbox import THREAD

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel, Metric, Run
    from mlflow.tracking import MlflowClient

PER_REQUEST = {
    "run": 1,
    "metric": 500,  # MLflow's limits; with its copy, a metric may count twice
    "param": 100,
    "tag": 100,
    "artifact": 1,
    "table": 1,
    "dataset": 1,
    "model": 1,
    "status": 1,
}
LARGE = {"artifact", "model"}  # may take long, and their store may be down while the server works
# MLflow's page sorts groups of metrics by name; this one comes first, and holds copies of what matters most.
AT_A_GLANCE = {
    "reward/mean": "at_a_glance/reward",
    "val/reward": "at_a_glance/val_reward",
    "held_out/reward": "at_a_glance/held_out_reward",
}
PASSING = {401, 403, 408, 429}  # HTTP codes about a token, a gateway or a rate, and not about a parcel
SECONDS_PER_REQUEST = 10
PARAM_LENGTH = 6000  # characters; MLflow refuses longer ones
TABLES = "mlflow.loggedArtifacts"  # the tag by which MLflow's page knows a run's tables
KIND = "mlflow.experimentKind"  # decides which of two views MLflow's page shows; here the one for training
NAME = "es.key"  # the tag that holds a run's name before it was made
SYSTEM = "system/"  # of these metrics, which come by the clock, a resumed run repeats none


class Sender:
    """Sends parcels of one kind to one run; several at once if MLflow takes several.

    Args:
        uri: MLflow's tracking URI; nothing is opened before something is asked of it.
        made: called with the name of a run, and the run that was made for it.
    """

    def __init__(self, uri: str, made: Callable[[str, Run], None]) -> None:
        self._uri, self._made = uri, made
        self._continued: dict[str, int] = {}
        self._last_steps: dict[tuple[str, str], int] = {}
        self._params: dict[str, dict[str, str]] = {}

    @cached_property
    def client(self) -> MlflowClient:
        """MLflow's client; the first use opens the database, or raises ``address.Busy`` at once."""
        from mlflow.tracking import MlflowClient

        with address.alone(self._uri):
            address.check(self._uri)
            return MlflowClient(self._uri)

    @property
    def is_open(self) -> bool:
        """Whether there is a client."""
        return "client" in vars(self)

    def continues(self, run_id: str, since: int) -> None:
        """Note that an earlier process began a run.

        Metrics up to the last step that the run has are not stored again. Parameters that have changed become
        tags, since MLflow never changes a parameter.

        Args:
            run_id: the run.
            since: when this process took over, in milliseconds since 1970.
        """
        self._continued[run_id] = since

    def send(self, run_id: str, kind: str, items: list[dict[str, Any]]) -> str | None:
        """Send the data of several parcels of one kind; return the id of the run if that has made it."""
        if kind == "run":
            return self._make_run(run_id, items[0])
        getattr(self, f"_send_{kind}")(run_id, items)
        return None

    def _make_run(self, name: str, item: dict[str, Any]) -> str:
        """Make a run, unless an earlier attempt or process has made it, and its experiment."""
        experiment = self._experiment(item["experiment"], item["artifact_location"])
        found = self.client.search_runs([experiment], f"tags.`{NAME}` = '{name}'", max_results=1)
        run = next(iter(found), None) or self.client.create_run(
            experiment, item["start_time"], {**item["tags"], NAME: name}, item["run_name"]
        )
        if name in self._continued:
            self._continued[run.info.run_id] = self._continued[name]
        self._made(name, run)
        return str(run.info.run_id)

    def _experiment(self, name: str, artifact_location: str | None) -> str:
        experiment = self.client.get_experiment_by_name(name)
        if experiment is not None:
            if KIND not in experiment.tags:
                self.client.set_experiment_tag(experiment.experiment_id, KIND, "custom_model_development")
            return str(experiment.experiment_id)
        self.make_experiment(name, artifact_location)
        return self._experiment(name, artifact_location)

    def make_experiment(self, name: str, artifact_location: str | None) -> None:
        """Make an experiment, unless another run has just made it."""
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_experiment(name, artifact_location)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _send_metric(self, run_id: str, items: list[dict[str, Any]]) -> None:
        from mlflow.entities import Metric

        items = items + [
            {**item, "key": AT_A_GLANCE[item["key"]]} for item in items if item["key"] in AT_A_GLANCE
        ]
        # In a run that this process began, all metrics count as earlier ones, and none is compared.
        since = self._continued.get(run_id, math.inf)
        # What an earlier process left goes first: only then does the server know how far that process came.
        self._log_metrics(run_id, [Metric(**item) for item in items if item["timestamp"] < since])
        own = [item for item in items if item["timestamp"] >= since]
        self._log_metrics(run_id, [Metric(**item) for item in own if not self._is_repeated(run_id, item)])

    def _log_metrics(self, run_id: str, metrics: list[Metric]) -> None:
        if metrics:
            self.client.log_batch(run_id, metrics=metrics, synchronous=True)

    def _is_repeated(self, run_id: str, item: dict[str, Any]) -> bool:
        """Tell whether the run has this step already; a resumed run repeats steps after its checkpoint."""
        if item["key"].startswith(SYSTEM):
            return False
        key = run_id, item["key"]
        if key not in self._last_steps:
            history = self.client.get_metric_history(run_id, item["key"])
            self._last_steps[key] = max((metric.step for metric in history), default=-1)
        return bool(item["step"] <= self._last_steps[key])

    def _send_param(self, run_id: str, items: list[dict[str, Any]]) -> None:
        from mlflow.entities import Param, RunTag

        if run_id in self._continued and run_id not in self._params:
            self._params[run_id] = dict(self.client.get_run(run_id).data.params)
        known = self._params.get(run_id, {})
        fresh = [Param(**item) for item in items if item["key"] not in known]
        changed = [item for item in items if known.get(item["key"], item["value"]) != item["value"]]
        tags = [RunTag(f"resumed.{item['key']}", item["value"]) for item in changed]
        if fresh or tags:
            self.client.log_batch(run_id, params=fresh, tags=tags, synchronous=True)

    def _send_tag(self, run_id: str, items: list[dict[str, Any]]) -> None:
        from mlflow.entities import RunTag

        self.client.log_batch(run_id, tags=[RunTag(**item) for item in items], synchronous=True)

    def _send_artifact(self, run_id: str, items: list[dict[str, Any]]) -> None:
        self.client.log_artifact(run_id, items[0]["path"], items[0]["folder"] or None)

    def _send_table(self, run_id: str, items: list[dict[str, Any]]) -> None:
        tables = json.loads(self.client.get_run(run_id).data.tags.get(TABLES, "[]"))
        if items[0] not in tables:
            self.client.set_tag(run_id, TABLES, json.dumps([*tables, items[0]]))

    def _send_dataset(self, run_id: str, items: list[dict[str, Any]]) -> None:
        """Do what ``mlflow.log_input`` does, for a run that is not this thread's active one."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        data = dict(items[0])
        tags = [InputTag("mlflow.data.context", data.pop("context"))]
        self.client.log_inputs(run_id, datasets=[DatasetInput(Dataset(**data), tags)])

    def _send_model(self, run_id: str, items: list[dict[str, Any]]) -> None:
        """Do what ``mlflow.transformers.log_model`` does, without its global state; a retry adds nothing."""
        from mlflow.entities import LoggedModelOutput, LoggedModelStatus, Metric

        item, run = items[0], self.client.get_run(run_id)
        model = self._begun_model(run, item) or self.client.create_logged_model(
            run.info.experiment_id,
            name=item["name"],
            source_run_id=run_id,
            tags=item["tags"],
            params=item["params"],
        )
        if model.status == LoggedModelStatus.READY:
            return
        with tempfile.TemporaryDirectory() as scratch:
            save_model(Path(item["path"]), Path(scratch) / "model", item["chat"], model.model_id, run_id)
            self.client.log_model_artifacts(model.model_id, str(Path(scratch) / "model"))
        known = {metric.key for metric in model.metrics or ()}
        fresh = [each for each in item["metrics"] if each["key"] not in known]
        self._log_metrics(run_id, [Metric(**each, model_id=model.model_id) for each in fresh])
        outputs = run.outputs.model_outputs if run.outputs else []
        if all(output.model_id != model.model_id for output in outputs):
            self.client.log_outputs(run_id, [LoggedModelOutput(model.model_id, item["step"])])
        self.client.finalize_logged_model(model.model_id, "READY")  # last: it vouches for the rest

    def _begun_model(self, run: Run, item: dict[str, Any]) -> LoggedModel | None:
        """Return the model that an earlier attempt or process made of the same parcel, complete or not."""
        of_run = f"source_run_id = '{run.info.run_id}'"
        models = self.client.search_logged_models([run.info.experiment_id], of_run)
        alike = (each for each in models if each.name == item["name"])
        return next((each for each in alike if item["tags"].items() <= each.tags.items()), None)

    def _send_status(self, run_id: str, items: list[dict[str, Any]]) -> None:
        if items[0]["status"] == "RUNNING":
            self.client.update_run(run_id, status="RUNNING")
        else:
            self.client.set_terminated(run_id, **items[0])


def cut(value: str) -> str:
    """Cut a parameter's value to the length that MLflow takes."""
    note = " ... (whole in config.yaml)"
    return value if len(value) <= PARAM_LENGTH else value[: PARAM_LENGTH - len(note)] + note


def save_model(folder: Path, output: Path, chat: bool, model_id: str | None, run_id: str | None) -> None:
    """Write a Hugging Face model in MLflow's format, with its signature.

    Args:
        folder: folder of the Hugging Face model.
        output: folder to write.
        chat: whether the model takes a list of messages and returns a reply, or takes and returns plain text.
        model_id: MLflow's id of the model.
        run_id: the run that made the model.
    """
    from importlib.metadata import version

    import mlflow.transformers
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    # MLflow looks for a licence and a card on the hub, and warns; a model that was just tuned has none there.
    logging.getLogger("mlflow.transformers").setLevel(logging.ERROR)
    text, limit = Schema([ColSpec("string")]), ParamSpec("max_new_tokens", "long", 256)
    signature = ModelSignature(inputs=text, outputs=text, params=ParamSchema([limit]))
    packages = ("torch", "transformers", "accelerate")
    mlflow.transformers.save_model(
        str(folder),
        str(output),
        task="llm/v1/chat" if chat else "text-generation",
        signature=None if chat else signature,
        mlflow_model=Model(model_id=model_id, run_id=run_id),
        pip_requirements=[f"{name}=={version(name)}" for name in packages],
    )


def fail_fast() -> None:
    """Let MLflow give up a request soon; environment variables that are set still take precedence.

    MLflow reads these defaults at each request.
    """
    from mlflow import environment_variables

    environment_variables.MLFLOW_HTTP_REQUEST_MAX_RETRIES.default = 0
    environment_variables.MLFLOW_HTTP_REQUEST_TIMEOUT.default = SECONDS_PER_REQUEST
    # A locked database would print a traceback for each attempt; the outbox gives one warning.
    logging.getLogger("mlflow.store.db.utils").addFilter(_not_from_sender)


def _not_from_sender(record: logging.LogRecord) -> bool:
    return record.threadName != THREAD


def may_pass(error: Exception) -> bool:
    """Tell whether an error means that the server is away, and not that it refuses a parcel."""
    from mlflow.exceptions import ERROR_CODE_TO_HTTP_STATUS, MlflowException

    response = getattr(error, "response", None)  # of requests.HTTPError, which uploads of artifacts raise
    if response is not None:
        status = response.status_code
    elif isinstance(error, MlflowException):
        if error.error_code == "ENDPOINT_NOT_FOUND":  # a gateway that has lost its server
            return True
        status = ERROR_CODE_TO_HTTP_STATUS.get(error.error_code, 500)
    elif isinstance(error, sqlite3.OperationalError | _database_errors()):
        return True
    else:
        return isinstance(error, OSError) and not isinstance(error, FileNotFoundError | PermissionError)
    return int(status) >= 500 or status in PASSING


def _database_errors() -> type[Exception]:
    from sqlalchemy.exc import OperationalError

    return OperationalError
