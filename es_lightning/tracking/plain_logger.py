"""Lightning's own MLFlowLogger: made ready by one process at a time, and refused where it would fail."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from es_lightning.errors import UsageError
from es_lightning.tracking import address
from es_lightning.tracking.secrets import without_password

_SECONDS = 10.0  # to wait for a database that another process has locked


def prepare(loggers: Any) -> None:
    """Make the databases and the experiments of Lightning's MLflow loggers, before these do it themselves.

    Of two runs that begin at once, both would make the tables of a new database and then the experiment, and
    one would fail. So would a run whose experiment was deleted: MLflow keeps its name.

    Args:
        loggers: the option ``logger`` of the Trainer as it was parsed: one logger's class and options, or
            several.

    Raises:
        UsageError: the experiment was deleted, or the database cannot be opened.
    """
    for options in _of_lightning(loggers):
        uri = options.get("tracking_uri")
        if uri and options.get("run_id") is None:
            _make(str(uri), options.get("experiment_name"), options.get("artifact_location"))


def _of_lightning(loggers: Any) -> Iterator[Mapping[str, Any]]:
    for each in loggers if isinstance(loggers, list) else [loggers]:
        if str(getattr(each, "class_path", "")).rpartition(".")[2] == "MLFlowLogger":
            yield dict(each.init_args)


def _make(uri: str, name: str | None, artifact_location: str | None) -> None:
    from es_lightning.tracking.sender import Sender

    sender, shown = Sender(address.complete(uri), lambda *_: None), without_password(uri)
    try:
        client = address.when_free(lambda: sender.client, shown, _SECONDS)
        experiment = client.get_experiment_by_name(name) if name else None
        if experiment is None and name:
            sender.make_experiment(name, artifact_location)
    except Exception as error:  # of MLflow, its database or its server
        raise UsageError(address.refusal(uri, error)) from error
    if experiment is not None and experiment.lifecycle_stage == "deleted":
        raise address.deleted(f"MLflow at {shown}", str(name), experiment.experiment_id)
