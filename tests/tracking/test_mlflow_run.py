"""What MLflow holds of a run that was stopped and went on: everything once, under one run."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import mlflow
import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from es_lightning.callbacks import RunRecord
from es_lightning.callbacks.run_record import _dataset
from es_lightning.cli import command_line as cli
from es_lightning.cli import entry
from es_lightning.datamodule import TaskDataModule
from es_lightning.errors import UsageError
from es_lightning.journal.entry import read_journal
from es_lightning.records import Prompt
from es_lightning.system.hardware import commit, machine
from es_lightning.tracking import sender as mlflow_sender
from es_lightning.tracking.artifacts import log_table
from es_lightning.tracking.logger import DurableMLFlowLogger
from es_lightning.tracking.sender import PARAM_LENGTH
from tests.helpers.fits import Letters, module, trainer
from tests.tracking.test_logger import free_port, wait_until

SMOKE = str(Path(__file__).parents[2] / "configs" / "smoke_cpu.yaml")
STOPS = [f"a stop string that no model says, number {number}" for number in range(20)]


def fit(*arguments: str) -> None:
    cli.main(["fit", "-c", SMOKE, "--model.sampling.stop", json.dumps(STOPS), *arguments])


@contextmanager
def no_trace() -> Iterator[None]:
    """Lightning's logger names its server to the whole process and its children; take that back."""
    before = os.environ.get("MLFLOW_TRACKING_URI")
    yield
    mlflow.set_tracking_uri(before)
    if before is None:
        os.environ.pop("MLFLOW_TRACKING_URI", None)


@pytest.fixture(scope="module")
def folder(whole: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository in which a run was made, and later continued."""
    place = tmp_path_factory.mktemp("resumed")
    (place / "mlflow.db").write_bytes(whole)
    subprocess.run(["git", "init", "-q", str(place)], check=True)
    name = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", "-C", str(place), *name, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    with pytest.MonkeyPatch.context() as patch, no_trace():
        patch.chdir(place)
        # MLflow keeps the stores of a process by their address, which must not be that of another test.
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{place}/mlflow.db")
        patch.setattr("sys.argv", ["es-lightning"])
        patch.setattr("sys.path", list(sys.path))
        fit()
        shutil.copy("runs/smoke_cpu/summary.json", "first.json")
        # Its last generation is in the journal and in MLflow, and not in its checkpoint.
        fit("--ckpt_path", "last", "--trainer.max_steps", "5")
    return place


@pytest.fixture(scope="module")
def client(folder: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{folder}/mlflow.db")


@pytest.fixture(scope="module")
def run(client: MlflowClient) -> Run:
    [found] = client.search_runs([e.experiment_id for e in client.search_experiments()])
    return found


def test_a_resumed_run_has_every_number_once(client: MlflowClient, run: Run) -> None:
    assert (run.info.status, run.info.run_name) == ("FINISHED", "smoke_cpu")
    histories = {key: client.get_metric_history(run.info.run_id, key) for key in run.data.metrics}
    steps = {key: [metric.step for metric in history] for key, history in histories.items()}
    assert steps["reward/mean"] == steps["time/generate_s"] == steps["geometry/drift"] == [0, 1, 2, 3, 4]
    assert steps["val/reward"] == [2, 4]
    assert steps["held_out/reward"] == [0, 3, 5]
    once = {key: each for key, each in steps.items() if not key.startswith("system/")}  # sampled by the clock
    assert all(max(Counter(each).values()) == 1 for each in once.values())


def test_held_out_rewards_are_those_of_the_summaries(folder: Path, client: MlflowClient, run: Run) -> None:
    paths = (folder / "first.json", folder / "runs" / "smoke_cpu" / "summary.json")
    first, last = (json.loads(path.read_text()) for path in paths)
    assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "held_out/reward")] == [
        (0, first["held_out_before"]),
        (3, first["held_out_after"]),
        (5, last["held_out_after"]),
    ]
    assert last["held_out_before"] == first["held_out_before"]


def test_metrics_are_grouped_and_nothing_else(run: Run) -> None:
    groups = {key.partition("/")[0] for key in run.data.metrics}
    assert groups == {
        *("at_a_glance", "reward", "val", "held_out", "geometry", "time", "health", "cost", "system")
    }


def test_the_experiment_is_one_of_training(client: MlflowClient, run: Run) -> None:
    experiment = client.get_experiment(run.info.experiment_id)
    assert experiment.name == "es_lightning"
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"


def test_parameters_are_whole_and_plain(run: Run) -> None:
    assert run.data.params["model/sampling/stop"] == str(STOPS)
    assert len(str(STOPS)) > 250
    assert run.data.params["model/shaping"] == "es_lightning.algorithm.shaping.z_score"
    assert run.data.params["data/task/class_path"] == "es_lightning.tasks.Conciseness"
    assert run.data.params["trainer/max_steps"] == "3", "a parameter tells of the run's beginning"
    assert run.data.tags["resumed.trainer/max_steps"] == "5"


def test_tags_tell_what_made_the_run(folder: Path, run: Run) -> None:
    tags = run.data.tags
    assert (tags["base_model"], tags["task"], tags["recipe"]) == ("tiny", "Conciseness", "smoke_cpu")
    head = (folder / ".git" / "refs" / "heads").glob("*")
    assert tags["git_commit"] == next(iter(head)).read_text().strip() == tags["mlflow.source.git.commit"]
    assert tags["git_changed_files"] == "no"
    cores = len(os.sched_getaffinity(0))
    ours = f"{cores} CPU core{'s' if cores > 1 else ''}"
    assert tags["hardware"] == machine().replace(f"{ours} of", "1 CPU core of"), "threads_per_rank is 1"
    header, _ = read_journal(folder / "runs" / "smoke_cpu" / "journal.jsonl")
    assert header["machine"] == tags["hardware"]
    assert "| generations | 5 |" in tags["mlflow.note.content"]


def test_a_run_put_in_from_its_folder_has_the_same_numbers(
    folder: Path,
    client: MlflowClient,
    run: Run,
    whole: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "again.db").write_bytes(whole)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri := f"sqlite:///{tmp_path}/again.db")
    with no_trace():
        for _ in range(2):  # the second time it is there already
            entry.main(["to-mlflow", str(folder / "runs" / "*"), "--experiment", "again"])
    again = MlflowClient(uri)
    [found] = again.search_runs([again.get_experiment_by_name("again").experiment_id])
    assert (found.info.run_name, found.info.status) == ("smoke_cpu", "FINISHED")
    untold = {"geometry/update_norm", "time/tokens_per_s", "cost/peak_bytes"}
    assert {key for key in run.data.metrics.keys() - found.data.metrics if not key.startswith("system/")} == (
        untold
    )
    for key in found.data.metrics.keys() & run.data.metrics.keys():
        there = {each.step: each.value for each in client.get_metric_history(run.info.run_id, key)}
        for each in again.get_metric_history(found.info.run_id, key):
            # The journal keeps milliseconds, and Lightning logs some metrics in float32.
            assert each.value == pytest.approx(there[each.step], rel=1e-6, abs=6e-4), (key, each.step)
    shared = {key for key in found.data.params if key.startswith(("model/", "data/"))}
    assert shared
    assert all(found.data.params[key] == run.data.params[key] for key in shared)
    kept = {each.path for each in again.list_artifacts(found.info.run_id)}
    assert kept >= {"journal.jsonl", "evaluations.jsonl", "config.yaml", "summary.json"}


def test_there_is_no_commit_outside_of_a_repository(tmp_path: Path) -> None:
    assert commit(tmp_path) == {}


def test_data_sets_are_inputs_of_the_run(run: Run) -> None:
    inputs = {each.dataset.name: each for each in run.inputs.dataset_inputs}
    assert set(inputs) == {"Conciseness train", "Conciseness val", "Conciseness test"}
    train = inputs["Conciseness train"]
    assert json.loads(train.dataset.profile)["num_rows"] == 96
    assert [(tag.key, tag.value) for tag in train.tags] == [("mlflow.data.context", "training")]
    assert len({each.dataset.digest for each in inputs.values()}) == 3


def test_files_are_there_and_current(folder: Path, client: MlflowClient, run: Run, tmp_path: Path) -> None:
    root = folder / "runs" / "smoke_cpu"
    for name in ("journal.jsonl", "config.yaml", "summary.json", "plots/reward.png"):
        copy = client.download_artifacts(run.info.run_id, name, str(tmp_path))
        assert Path(copy).read_bytes() == (root / name).read_bytes()
    assert len((root / "journal.jsonl").read_text().splitlines()) == 6


def test_the_model_can_be_loaded_and_asked(folder: Path, client: MlflowClient, run: Run) -> None:
    newest = max(run.outputs.model_outputs, key=lambda output: output.step)
    assert newest.step == 5
    logged = client.get_logged_model(newest.model_id)
    assert (
        logged.tags["checksum"]
        == json.loads((folder / "runs" / "smoke_cpu" / "summary.json").read_text())["centre_checksum"]
    )
    assert logged.params["sigma"] == run.data.params["model/sigma"] == "0.02"
    path = logged.artifact_location.removeprefix("file://")
    path = str(folder / path) if not Path(path).is_absolute() else path
    model = mlflow.pyfunc.load_model(path)
    names = [column.name for column in model.metadata.signature.inputs]
    assert "messages" in names
    asked = {"messages": [{"role": "user", "content": "Who?"}], "max_tokens": 5}
    [answer] = model.predict(asked)
    assert isinstance(answer["choices"][0]["message"]["content"], str)
    assert answer["usage"]["completion_tokens"] <= 5
    pipeline = mlflow.transformers.load_model(path)
    weights = dict(pipeline.model.named_parameters())
    from es_lightning.models.weights import BaseWeights

    exported = BaseWeights(folder / "runs" / "smoke_cpu" / "model")
    assert all((exported.read(name) == weight).all() for name, weight in weights.items())


def test_the_models_page_has_its_rewards(folder: Path, client: MlflowClient, run: Run) -> None:
    newest = max(run.outputs.model_outputs, key=lambda output: output.step)
    logged = client.get_logged_model(newest.model_id)
    summary = json.loads((folder / "runs" / "smoke_cpu" / "summary.json").read_text())
    assert logged.metrics is not None
    assert {metric.key: (metric.value, metric.step, metric.run_id) for metric in logged.metrics} == {
        "held_out/before": (summary["held_out_before"], 5, run.info.run_id),
        "held_out/after": (summary["held_out_after"], 5, run.info.run_id),
    }
    assert logged.tags["generations"] == "5"


@pytest.mark.slow
@pytest.mark.tasks
@pytest.mark.long
def test_the_model_can_be_served(folder: Path, client: MlflowClient, run: Run) -> None:
    newest = max(run.outputs.model_outputs, key=lambda output: output.step)
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", f"models:/{newest.model_id}"]
    command += ["--env-manager", "local", "--port", str(port), "--workers", "1"]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    with (folder / "serve.log").open("wb") as output:
        server = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        address = f"http://127.0.0.1:{port}"
        wait_until(lambda: _answers(f"{address}/ping"), 120)
        body = json.dumps({"messages": [{"role": "user", "content": "Who?"}], "max_tokens": 4})
        request = Request(f"{address}/invocations", body.encode(), {"Content-Type": "application/json"})
        with urlopen(request, timeout=60) as response:
            answer = json.load(response)
        [reply] = answer if isinstance(answer, list) else [answer]
        assert reply["choices"][0]["message"]["role"] == "assistant"
    finally:
        os.killpg(server.pid, 9)
        server.wait()


def _answers(address: str) -> bool:
    try:
        with urlopen(address, timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False


# A logger by itself -----------------------------------------------------------------------------------


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
