"""A logger by itself: a run that goes on, a model, and a table are in MLflow once."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from es_lightning.callbacks import RunRecord
from es_lightning.callbacks.run_record import _dataset
from es_lightning.datamodule import TaskDataModule
from es_lightning.errors import UsageError
from es_lightning.records import Prompt
from es_lightning.tracking import sender as mlflow_sender
from es_lightning.tracking.artifacts import log_table
from es_lightning.tracking.logger import DurableMLFlowLogger
from es_lightning.tracking.sender import PARAM_LENGTH
from tests.helpers.fits import Letters, module, trainer
from tests.helpers.tracked import no_trace
from tests.tracking.test_logger import wait_until


@pytest.fixture
def uri(whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A database; artifacts go into the working folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.db").write_bytes(whole)
    with no_trace():
        yield f"sqlite:///{tmp_path}/own.db"


def logger(uri: str, resumes: bool) -> DurableMLFlowLogger:
    made = DurableMLFlowLogger("own", "one", uri)
    made.remember(Path("mlflow-run.json"), resumes)
    return made


def runs(uri: str) -> list[Run]:
    client = MlflowClient(uri)
    return list(client.search_runs([e.experiment_id for e in client.search_experiments()]))


def test_steps_that_a_killed_run_repeats_are_not_stored_twice(uri: str) -> None:
    first = logger(uri, resumes=False)
    for step in range(5):
        first.log_metrics({"reward/mean": step, **({"val/reward": step} if step % 2 else {})}, step)
    first.finalize("failed")
    second = logger(uri, resumes=True)
    for step in range(3, 7):
        second.log_metrics({"reward/mean": step, "val/reward": step, "new": 1.0}, step)
    second.finalize()
    [run] = runs(uri)
    client = MlflowClient(uri)
    steps = {
        key: [m.step for m in client.get_metric_history(run.info.run_id, key)] for key in run.data.metrics
    }
    assert steps == {
        "reward/mean": [0, 1, 2, 3, 4, 5, 6],
        "val/reward": [1, 3, 4, 5, 6],
        "new": [3, 4, 5, 6],
        "at_a_glance/reward": [0, 1, 2, 3, 4, 5, 6],
        "at_a_glance/val_reward": [1, 3, 4, 5, 6],
    }
    assert run.info.status == "FINISHED"


def test_what_the_spool_still_holds_comes_before_what_is_repeated(uri: str, tmp_path: Path) -> None:
    first = logger(uri, resumes=False)
    first.log_metrics({"reward/mean": 0.0}, 0)
    first.finalize("failed")
    earlier = {"key": "reward/mean", "value": 1.0, "timestamp": 1000, "step": 1}
    line = json.dumps({"run_id": first.run_id, "kind": "metric", "data": earlier})
    (tmp_path / "spool").write_text(line + "\n")
    second = DurableMLFlowLogger("own", "one", uri, tmp_path / "spool")
    second.remember(Path("mlflow-run.json"), resumes=True)
    for step in (1, 2):
        second.log_metrics({"reward/mean": float(step)}, step)
    second.finalize()
    history = MlflowClient(uri).get_metric_history(str(first.run_id), "reward/mean")
    assert sorted(metric.step for metric in history) == [0, 1, 2]


REWARDS = {"held_out/before": 0.25, "held_out/after": 0.5}


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of a model; MLflow's form of it is a copy."""
    monkeypatch.setattr(mlflow_sender, "save_model", lambda path, output, *_: shutil.copytree(path, output))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("all")
    return tmp_path / "model"


def log_model(own: DurableMLFlowLogger, model: Path) -> None:
    own.log_model(model, "a/task", True, 3, {"checksum": "abc"}, {"sigma": 0.1}, REWARDS)


def assert_there_once(uri: str) -> None:
    [run] = runs(uri)
    client = MlflowClient(uri)
    [model] = client.search_logged_models([run.info.experiment_id])
    assert (model.name, str(model.status), model.params) == ("a-task", "READY", {"sigma": "0.1"})
    assert model.metrics is not None
    assert sorted((m.key, m.value, m.step) for m in model.metrics) == [
        ("held_out/after", 0.5, 3),
        ("held_out/before", 0.25, 3),
    ]
    assert [(output.model_id, output.step) for output in run.outputs.model_outputs] == [(model.model_id, 3)]
    assert [len(client.get_metric_history(run.info.run_id, key)) for key in REWARDS] == [1, 1]
    assert [file.path for file in client.list_logged_model_artifacts(model.model_id)] == ["weights"]


@pytest.mark.parametrize(
    "step",
    [
        "create_logged_model",
        "log_model_artifacts",
        *(pytest.param(step, marks=pytest.mark.slow) for step in ("log_batch", "log_outputs")),
        "finalize_logged_model",
    ],
)
def test_a_model_is_stored_once_wherever_its_delivery_is_cut_off(
    uri: str, model: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    own, real = logger(uri, resumes=False), getattr(MlflowClient, step)

    def arrives_unheard(client: MlflowClient, *arguments: Any, **named: Any) -> None:
        monkeypatch.setattr(MlflowClient, step, real)
        real(client, *arguments, **named)
        raise ConnectionError("cut off")

    _ = own.experiment
    monkeypatch.setattr(MlflowClient, step, arrives_unheard)
    log_model(own, model)
    own.finalize()
    assert_there_once(uri)
    again = logger(uri, resumes=True)  # a resumed run that comes to its end once more
    log_model(again, model)
    again.finalize()
    assert_there_once(uri)


def test_a_model_that_was_left_is_delivered_with_its_rewards(
    uri: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(*_: Any) -> None:
        raise ConnectionError("down")

    first = DurableMLFlowLogger("own", "one", uri, tmp_path / "spool", patience_seconds=0.5)
    first.remember(Path("mlflow-run.json"), resumes=False)
    wait_until(lambda: first.run_id, 10)  # on a busy machine its patience is short
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_model_artifacts", down)
        log_model(first, model)
        first.finalize()
    second = DurableMLFlowLogger("own", "one", uri, tmp_path / "spool")
    second.remember(Path("mlflow-run.json"), resumes=True)
    second.log_metrics({"a": 1.0}, 4)
    second.finalize()
    assert_there_once(uri)


@pytest.mark.parametrize("resumes", [True, False])
def test_a_training_that_fails_its_checks_leaves_the_earlier_run_alone(
    uri: str, tmp_path: Path, resumes: bool
) -> None:
    first = logger(uri, resumes=False)
    first.log_metrics({"a": 1.0}, 0)
    first.finalize()
    known = Path("mlflow-run.json").read_text()

    class Refuses(RunRecord):
        """Stands for any check."""

        def setup(self, *_: Any, **__: Any) -> None:
            """Fail."""
            raise UsageError("no")

    (tmp_path / "journal.jsonl").write_text("the earlier run's")
    with pytest.raises(UsageError, match="no"):
        trainer(tmp_path, callbacks=[Refuses()], logger=logger(uri, resumes)).fit(
            module(), TaskDataModule(Letters())
        )
    assert Path("mlflow-run.json").read_text() == known
    client = MlflowClient(uri)
    assert client.get_run(str(first.run_id)).info.status == "FINISHED"
    assert [client.list_artifacts(run.info.run_id) for run in runs(uri)] == [[]], (
        "no run for what was refused"
    )


def test_a_run_that_goes_on_is_under_way_whatever_the_spool_still_says(uri: str, tmp_path: Path) -> None:
    first = logger(uri, resumes=False)
    first.log_metrics({"a": 1.0}, 0)
    first.finalize()
    left = {"run_id": first.run_id, "kind": "status", "data": {"status": "FAILED", "end_time": 1000}}
    (tmp_path / "spool").write_text(json.dumps(left) + "\n")
    second = DurableMLFlowLogger("own", "one", uri, tmp_path / "spool")
    second.remember(Path("mlflow-run.json"), resumes=True)
    second.log_metrics({"a": 1.0}, 1)
    wait_until(lambda: len(MlflowClient(uri).get_metric_history(str(first.run_id), "a")) == 2, 10)
    assert runs(uri)[0].info.status == "RUNNING"
    second.finalize()
    assert runs(uri)[0].info.status == "FINISHED"


@pytest.mark.slow
@pytest.mark.faults
def test_a_run_that_the_server_has_lost_is_made_anew(uri: str, caplog: pytest.LogCaptureFixture) -> None:
    first = logger(uri, resumes=False)
    first.log_metrics({"a": 1.0}, 0)
    first.finalize()
    MlflowClient(uri).delete_run(str(first.run_id))
    second = logger(uri, resumes=True)
    second.log_metrics({"a": 2.0}, 1)
    second.finalize()
    assert second.run_id != first.run_id
    assert f"has no run {first.run_id} any more" in caplog.text
    assert json.loads(Path("mlflow-run.json").read_text())["run_id"] == second.run_id


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.parametrize("resumes", [True, False])
def test_another_server_or_a_new_run_is_not_mixed_with_the_old(
    uri: str, tmp_path: Path, resumes: bool
) -> None:
    first = logger(uri, resumes=False)
    first.log_metrics({"a": 1.0}, 0)
    first.finalize()
    second = logger(f"sqlite:///{tmp_path}/other.db" if resumes else uri, resumes)
    second.log_metrics({"a": 2.0}, 1)
    second.finalize()
    assert second.run_id != first.run_id


def test_a_parameter_beyond_mlflows_limit_is_cut_and_says_so(uri: str) -> None:
    own = logger(uri, resumes=False)
    own.log_hyperparams({"short": "x" * PARAM_LENGTH, "long": "y" * (PARAM_LENGTH + 1)})
    own.finalize()
    params = runs(uri)[0].data.params
    assert params["short"] == "x" * PARAM_LENGTH
    assert len(params["long"]) == PARAM_LENGTH
    assert params["long"].endswith("yyy ... (whole in config.yaml)")


def test_a_table_is_found_by_mlflows_page(uri: str, tmp_path: Path) -> None:
    own = logger(uri, resumes=False)
    path = tmp_path / "rollouts.json"
    for rows in ([["a", 1]], [["a", 1], ["b", 2]]):
        path.write_text(json.dumps({"columns": ["text", "reward"], "data": rows}))
        log_table([own], path)
    own.finalize()
    [run] = runs(uri)
    table = MlflowClient(uri).load_table(run.info.experiment_id, "tables/rollouts.json")
    assert table["text"].tolist() == ["a", "b"]
    assert json.loads(run.data.tags["mlflow.loggedArtifacts"]) == [
        {"path": "tables/rollouts.json", "type": "table"}
    ]


def test_a_reference_of_any_kind_is_part_of_a_data_set() -> None:
    circle: list[Any] = []
    circle.append(circle)
    described = [_dataset("n", [Prompt("a", "b", reference=r)]) for r in ({(1, 2): 3}, {(1, 2): 4}, circle)]
    assert len({each["digest"] for each in described}) == 3
