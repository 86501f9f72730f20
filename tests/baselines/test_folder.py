"""The folder of a baseline: what it leaves there, what it replaces, and what it refuses to replace."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mlflow.tracking import MlflowClient
from safetensors.torch import load_file

from es_lightning.baselines import child as child_module
from es_lightning.cli import main
from es_lightning.errors import RolloutError
from es_lightning.journal.evaluations import read_evaluations
from es_lightning.journal.opening import open_centre
from es_lightning.models import BaseModel
from es_lightning.models.embedded import tiny_folder
from es_lightning.rollout import HFEngine
from tests.baselines import stand_in_for_trl
from tests.helpers.tracked import no_trace

FIT = """
model: {base: tiny, engine: {class_path: HFEngine, init_args: {dtype: float32}}, sampling: {max_tokens: 8}}
data: {task: tests.helpers.letters.Letters, prompts_per_generation: 2, grading: {workers: 0}}
trainer: {accelerator: cpu, devices: 1, logger: false}
"""
BASELINE = "baseline: {updates: 2, group: 2, minibatch: 4, evaluate_every: 2}\n"
LEFT_BY_BASELINE = {"config.yaml", "updates.jsonl", "evaluations.jsonl", "summary.json", "trl.log", "model"}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two configs, and a process that stands in for TRL."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fit.yaml").write_text(FIT)
    (tmp_path / "baseline.yaml").write_text(FIT + BASELINE)
    monkeypatch.setattr(child_module, "SCRIPT", Path(stand_in_for_trl.__file__))
    monkeypatch.setattr("es_lightning.cli.baseline.require_trl", lambda: None)
    return tmp_path


def baseline(*options: str) -> None:
    main(["baseline", "-c", "baseline.yaml", "--output", "out", *options])


def fit(*options: str) -> None:
    short = ["--trainer.max_steps", "1", "--trainer.val_check_interval", "1", "--model.population", "2"]
    main(["fit", "-c", "fit.yaml", "--trainer.default_root_dir", "out", *short, *options])


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def content(place: Path) -> dict[str, bytes]:
    return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}


def refusal(capsys: pytest.CaptureFixture[str], *options: str, of: Callable[..., None] = baseline) -> str:
    with pytest.raises(SystemExit) as stopped:
        of(*options)
    assert stopped.value.code == 2
    return capsys.readouterr().err


def run_id(place: Path) -> str:
    known = json.loads((place / "mlflow-run.json").read_text())
    return str(known["run_id"])


@pytest.mark.parametrize("dtype", [pytest.param(torch.float32, marks=pytest.mark.slow), torch.bfloat16])
def test_what_analyze_opens_is_the_policy_as_its_engine_rounded_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    read: list[dict[str, torch.Tensor]] = []
    monkeypatch.setattr(
        "es_lightning.baselines.training.load_file", lambda path: read.append(load_file(path)) or read[-1]
    )
    baseline("--model.engine.init_args.dtype", str(dtype).removeprefix("torch."))
    base, policy = BaseModel("tiny"), read[-1]
    assert base.dtype == torch.bfloat16
    assert not torch.equal(policy["model.norm.weight"], policy["model.norm.weight"].bfloat16().float())
    opened = open_centre("out", base, folder / "scratch")
    for name, _ in base.blueprint.named_parameters():
        value = opened.weights.read(name)
        assert value.dtype == dtype
        assert torch.equal(value, policy[name].to(dtype))
    assert BaseModel("out/model").dtype == dtype
    assert {path.name for path in Path("out").iterdir()} == LEFT_BY_BASELINE


@pytest.mark.slow
def test_the_test_problems_are_evaluated_along_with_every_validation() -> None:
    baseline("--data.test_with_val", "true", "--baseline.evaluate_every", "1", "--baseline.updates", "3")
    rows = read_evaluations(Path("out"))
    between = [(step, split) for step in (1, 2) for split in ("test", "val")]
    assert [(row.step, row.split) for row in rows] == [
        *((0, "test"), (0, "val")),
        *between,
        *((3, "val"), (3, "test")),
    ]
    by_step = {(row.step, row.split): row for row in rows}
    for step in (1, 2, 3):
        assert by_step[step, "test"].centre == by_step[step, "val"].centre
        assert by_step[step, "test"].cost == by_step[step, "val"].cost
    assert len({row.centre for row in rows}) == 4
    told = [json.loads(line) for line in (Path("out") / "updates.jsonl").read_text().splitlines()]
    logged = {
        name: {row["update"]: row[name] for row in told if name in row}
        for name in ("test/reward", "held_out/reward")
    }
    rewards = {step: by_step[step, "test"].scores["reward"] for step in range(4)}
    assert logged == {"test/reward": rewards, "held_out/reward": {step: rewards[step] for step in (0, 3)}}


def test_a_baseline_cannot_test_along_without_test_problems(capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal(capsys, "--data.test_with_val", "true", "--data.task", "tests.helpers.letters.Bytes")
    assert "Bytes has no problems in split 'test'" in said


def test_a_run_is_replaced_when_asked_and_nothing_of_it_stays(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = folder / "out"
    fit()
    write(out / "notes.txt", "mine")
    write(out / "analysis.json", "{}")
    refused_unasked(out, capsys)
    baseline("--overwrite", "true")
    assert {path.name for path in out.iterdir()} == LEFT_BY_BASELINE | {"notes.txt"}
    refused_unasked(out, capsys)
    write(out / "policy.safetensors", "of a baseline that was killed")
    fit("--overwrite", "true", "--report.export", "false")
    left = {path.name for path in out.iterdir()}
    assert {"journal.jsonl", "notes.txt"} < left
    assert not left & {"updates.jsonl", "trl.log", "policy.safetensors", "model"}


def refused_unasked(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = content(out)
    message = refusal(capsys)
    assert "out already holds a run: replace it with --overwrite true, or choose another folder" in message
    assert content(out) == before


@pytest.mark.parametrize("begun", ["config.yaml", "journal.jsonl", "updates.jsonl"])
def test_what_cannot_start_replaces_nothing(
    begun: str, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder / "out" / begun, "of a run")
    shutil.copytree(tiny_folder(), folder / "out" / "model")
    refused_unasked(folder / "out", capsys)
    before = content(folder / "out")
    again = ["--overwrite", "true"]
    assert "delete the base model out/model" in refusal(capsys, *again, "--model.base", "out/model")
    assert "give 4, for example" in refusal(capsys, *again, "--baseline.minibatch", "5")
    monkeypatch.setattr(HFEngine, "start", lambda *_: pytest.fail("it cannot start"))
    with pytest.raises(pytest.fail.Exception):
        baseline(*again)
    assert content(folder / "out") == before


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--ckpt_path", "last"],
        ["--ckpt_path", "kept.ckpt"],
        ["--ckpt_path", "kept.ckpt", "--overwrite", "true"],
    ],
)
def test_no_fit_goes_on_with_a_baseline(
    options: list[str], folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("config.yaml", "updates.jsonl"):
        write(folder / "out" / name, "of a baseline")
    before = content(folder / "out")
    monkeypatch.setattr("es_lightning.cli.refusals.check_start", lambda *_: None)  # of the kept checkpoint
    message = refusal(capsys, *options, of=fit)
    assert "out holds a baseline, which a fit cannot go on with: replace it with --overwrite" in message
    assert content(folder / "out") == before


@pytest.mark.slow
def test_a_baseline_that_was_killed_begins_again_in_a_run_of_its_own(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"sqlite:///{folder}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setattr("sys.path", list(sys.path))
    with no_trace():
        monkeypatch.setenv("STAND_IN", "fails")
        with pytest.raises(RolloutError, match="no memory is left"):
            baseline("--trainer.logger", "true")
        ids = [run_id(folder / "out")]
        monkeypatch.delenv("STAND_IN")
        baseline("--trainer.logger", "true", "--overwrite", "true")
        ids.append(run_id(folder / "out"))
    client = MlflowClient(uri)
    assert len(set(ids)) == 2
    assert [client.get_run(each).info.status for each in ids] == ["FAILED", "FINISHED"]
    steps = [[row.step for row in client.get_metric_history(each, "train/loss")] for each in ids]
    assert steps == [[1], [1, 2]]
