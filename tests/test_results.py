"""The runs behind docs/results.md: every command is one that the command line takes."""

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from es_lightning.baselines.settings import BaselineSettings
from tests.cli.test_configs import parse

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def results() -> Iterator[ModuleType]:
    """results/run.py, which is no package."""
    spec = importlib.util.spec_from_file_location("results_run", ROOT / "results" / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_every_arm_has_its_file_and_every_file_is_an_arm(results: ModuleType) -> None:
    names = {path.stem for path in (ROOT / "results" / "arms").glob("*.yaml")}
    apart = {f"{arm}-{task}" for arm in results.ARMS for task in results.TASKS}
    assert set(results.ARMS) == names - apart
    assert set(results.TASKS) == {path.stem for path in (ROOT / "results" / "tasks").glob("*.yaml")}


def test_seeds_come_one_after_the_other_and_the_headline_has_more(results: ModuleType) -> None:
    runs = list(results.runs(["sums"], ["es", "raw"], None))
    assert [(run.arm, run.seed) for run in runs] == [
        *(("es", 0), ("raw", 0), ("es", 1), ("raw", 1), ("es", 2), ("raw", 2)),
        *(("es", 3), ("es", 4)),
    ]
    assert [run.seed for run in results.runs(["sums"], ["raw"], [1])] == [1]


@pytest.mark.parametrize("task", ["sums", "conciseness"])
def test_the_commands_are_ones_that_the_command_line_takes(
    results: ModuleType, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    for run in results.runs([task], results.ARMS, [1]):
        command = run.command()
        if run.arm in results.BASELINES:
            settings = yaml.safe_load((ROOT / "results" / "arms" / f"{run.arm}.yaml").read_text())
            assert BaselineSettings(**settings["baseline"]).updates == 8
            assert command[0] == "baseline"
            continue
        config = parse(monkeypatch, *command).fit
        rollouts = config.model.population * config.data.prompts_per_generation * config.trainer.max_steps
        assert (rollouts, config.seed_everything) == (4096, 1)


def test_a_stopped_run_goes_on_and_one_that_has_ended_is_kept(
    results: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "WORK", tmp_path / "work")
    monkeypatch.setattr(results, "KEPT", tmp_path / "kept")
    run = results.Run("sums", "es", 0)
    folder = tmp_path / "work" / run.name
    folder.mkdir(parents=True)
    assert "--ckpt_path" not in run.command()
    for name in ("journal.jsonl", "summary.json", "evaluations.jsonl", "model.safetensors"):
        (folder / name).write_text(name)
    assert run.command()[-2:] == ["--ckpt_path", "last"]
    called: list[list[str]] = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: called.append(command))
    assert not run.ended
    run.complete()
    assert run.ended
    assert called == [[sys.executable, "-m", "es_lightning", *run.command()]]
    kept = {path.name for path in (tmp_path / "kept" / run.name).iterdir()}
    assert kept == {"journal.jsonl", "summary.json", "evaluations.jsonl"}
