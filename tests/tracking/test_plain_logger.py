"""Lightning's own MLflow logger: two runs at once on a new database, and a deleted experiment."""

import threading
from pathlib import Path

import pytest
from jsonargparse import Namespace
from lightning.pytorch.loggers import MLFlowLogger
from mlflow.tracking import MlflowClient

from es_lightning.errors import UsageError
from es_lightning.tracking.plain_logger import prepare
from tests.tracking.test_logger import _mlflow_forgets_the_server

__all__ = ["_mlflow_forgets_the_server"]


def options(uri: str | None, **more: str) -> Namespace:
    kind = "lightning.pytorch.loggers.MLFlowLogger"
    return Namespace(class_path=kind, init_args=Namespace(tracking_uri=uri, experiment_name="e", **more))


def test_two_runs_at_once_make_one_database_and_one_experiment(tmp_path: Path) -> None:
    uri, errors = f"sqlite:///{tmp_path}/new.db", []
    start = threading.Barrier(2)

    def run() -> None:
        start.wait()
        try:
            prepare([options(uri), True])
            assert MLFlowLogger("e", tracking_uri=uri).run_id
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("e")
    assert len(client.search_runs([experiment.experiment_id])) == 2
    client.delete_experiment(experiment.experiment_id)
    with pytest.raises(
        UsageError, match=r"has deleted the experiment e: choose .*restore --experiment-id 1'"
    ):
        prepare(options(uri))
    prepare(options(uri, run_id="one that goes on"))


@pytest.mark.parametrize("loggers", [None, True, False, [], [True], options(None)])
def test_other_loggers_are_left_alone(
    loggers: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    prepare(loggers)
    assert not list(tmp_path.iterdir())


def test_an_address_that_cannot_be_used_is_one_sentence() -> None:
    with pytest.raises(
        UsageError, match="mend the permissions there, name another one with MLFLOW_TRACKING_URI"
    ):
        prepare(options("sqlite:////proc/no/mlflow.db"))
