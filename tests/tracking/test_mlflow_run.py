"""What MLflow holds of a run that was stopped and went on: everything once, under one run."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from urllib.request import Request, urlopen

import mlflow
import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from es_lightning.cli import command_line as cli
from es_lightning.cli import entry
from es_lightning.journal.entry import read_journal
from es_lightning.system.hardware import commit, machine
from tests.helpers.tracked import no_trace
from tests.tracking.test_logger import free_port, wait_until

SMOKE = str(Path(__file__).parents[2] / "configs" / "smoke_cpu.yaml")
STOPS = [f"a stop string that no model says, number {number}" for number in range(20)]


def fit(*arguments: str) -> None:
    cli.main(["fit", "-c", SMOKE, "--model.sampling.stop", json.dumps(STOPS), *arguments])


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
