"""Real sweeps of the tiny model: killed and gone on with, several trials at once, failures, MLflow."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from es_lightning.cli import main
from es_lightning.journal.evaluations import EVALUATIONS, read_evaluations

pytest.importorskip("optuna", reason="Optuna is not installed: es-lightning[sweep]")
pytestmark = [pytest.mark.slow, pytest.mark.long]

ROOT = Path(__file__).parents[2]
PATIENCE = 600  # seconds; a busy machine starts a fit in one or two minutes
FIT = {
    "model": {
        "base": "tiny",
        "population": 4,
        "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.3}},
        "sampling": {"max_tokens": 6},
        "engine": {"class_path": "HFEngine", "init_args": {"dtype": "float32"}},
    },
    "data": {"task": "tests.helpers.letters.Letters", "grading": {"workers": 0}},
    "trainer": {"max_steps": 6, "val_check_interval": 1, "accelerator": "cpu", "devices": 1},
    "report": {"held_out": False, "export": False},
}


def start(folder: Path, **given: Any) -> "subprocess.Popen[bytes]":
    """Begin a sweep in a folder, or go on with it."""
    folder.mkdir(exist_ok=True)
    (folder / "fit.yaml").write_text(json.dumps(FIT))
    (folder / "mine.yaml").write_text(json.dumps({"config": "fit.yaml", "output": "out", **given}))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
    with (folder / "said.txt").open("ab") as said:
        command = [sys.executable, "-m", "es_lightning", "sweep", "-c", "mine.yaml"]
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=said, stderr=said)


def finish(folder: Path, **given: Any) -> list[dict[str, str]]:
    """Let a sweep end; returns the rows of its trials."""
    assert start(folder, **given).wait(PATIENCE) == 0, (folder / "said.txt").read_text()
    with (folder / "out" / "trials.csv").open() as file:
        return list(csv.DictReader(file))


def kill_when(ready: Callable[[], bool], folder: Path, **given: Any) -> None:
    """Begin a sweep or go on with it, and kill it at a moment."""
    process, end = start(folder, **given), time.monotonic() + PATIENCE
    while not ready():
        assert process.poll() is None, (folder / "said.txt").read_text()
        assert time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_a_sweep_killed_twice_ends_with_the_trials_of_an_undisturbed_one(tmp_path: Path) -> None:
    sweep = {
        "space": {"model.sigma": {"low": 0.1, "high": 0.5, "log": True}},
        "sampler": "random",
        "trials": 2,
        "overrides": {"trainer.logger": False},
    }
    calm = finish(tmp_path / "calm", **sweep)
    assert [row["state"] for row in calm] == ["complete", "complete"]
    assert len({row["objective"] for row in calm}) == 2

    killed = tmp_path / "killed"
    measured = killed / "out" / "trial-000" / "seed-0" / EVALUATIONS
    kill_when(lambda: measured.exists() and measured.read_bytes().count(b"\n") >= 2, killed, **sweep)
    assert not (killed / "out" / "trials.csv").exists(), "the first trial was under way"
    kill_when((killed / "out" / "trial-001" / "seed-0.log").exists, killed, **sweep)
    finish(killed, **sweep)

    for name in ("trials.csv", "sweep.json"):
        assert (killed / "out" / name).read_bytes() == (tmp_path / "calm" / "out" / name).read_bytes()
    for row in calm:
        run = Path("out") / f"trial-{int(row['trial']):03d}" / "seed-0"
        both = [read_evaluations(folder / run) for folder in (tmp_path / "calm", killed)]
        seen = [[(each.step, each.rewards, each.centre) for each in rows] for rows in both]
        assert seen[0] == seen[1]
        assert seen[0][-1][0] == 6

    best = max(calm, key=lambda row: float(row["objective"]))
    config = tmp_path / "calm" / "out" / "best.yaml"
    main(["fit", "-c", str(config), "--trainer.default_root_dir", str(tmp_path / "again")])
    assert read_evaluations(tmp_path / "again")[-1].scores["reward"] == float(best["objective"])


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two trials at once need two cores")
def test_trials_at_once_have_cores_of_their_own_and_a_failed_one_stops_nothing(tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    rows = finish(
        tmp_path,
        space={"model.optimizer.lr": [0.3, 1e30]},
        overrides={"model.sigma": 0.3, "trainer.max_steps": 2},
        at_once=2,
    )
    assert [row["state"] for row in rows] == ["complete", "failed"]
    assert "lr" in rows[1]["error"]
    said = (tmp_path / "said.txt").read_text()
    assert f"trial 1 failed: {rows[1]['error']}" in said
    assert "best: trial 0, model.optimizer.lr 0.3" in said

    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    [experiment] = [each.experiment_id for each in client.search_experiments() if each.name == "es_lightning"]
    runs = {run.info.run_name: run for run in client.search_runs([experiment])}
    parent, child = runs["out"], runs["trial-000-seed-0"]
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert child.data.tags["es.trial"] == "0"
    assert parent.data.metrics["sweep/best"] == float(rows[0]["objective"])
    assert parent.data.tags["best.model.optimizer.lr"] == "0.3"
    assert {each.path for each in client.list_artifacts(parent.info.run_id)} >= {"trials.csv", "best.yaml"}
