"""The runs behind docs/results.md: every command is one that the command line takes."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from es_lightning.baselines.settings import BaselineSettings
from es_lightning.tasks.multiple_choice import MultipleChoice
from results import reproduce_gpu, run
from results.suite import BASELINES, Run
from tests.cli.test_configs import parse

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def at_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """The place where the commands are given."""
    monkeypatch.chdir(ROOT)


def stems(folder: str) -> set[str]:
    return {path.stem for path in (ROOT / "results" / folder).glob("*.yaml")}


def test_every_arm_has_its_file_and_every_file_is_an_arm() -> None:
    apart = {f"{arm}-{task}" for arm in run.ARMS for task in run.TASKS}
    assert set(run.ARMS) == stems("arms") - apart
    assert set(run.TASKS) == stems("tasks")
    assert set(reproduce_gpu.TASKS) == stems("gpu/tasks")
    assert stems("gpu/arms") < set(run.ARMS)


def test_seeds_come_one_after_the_other_and_the_headline_has_more() -> None:
    runs = list(run.runs(["sums"], ["es", "raw"], None))
    assert [(each.arm, each.seed) for each in runs] == [
        *(("es", 0), ("raw", 0), ("es", 1), ("raw", 1), ("es", 2), ("raw", 2)),
        *(("es", 3), ("es", 4)),
    ]
    assert [each.seed for each in run.runs(["sums"], ["raw"], [1])] == [1]


@pytest.mark.parametrize("task", run.TASKS)
def test_the_commands_are_ones_that_the_command_line_takes(
    task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for each in run.runs([task], run.ARMS, [1]):
        command = each.training()
        if each.arm in BASELINES:
            assert settings_of(command).updates == 8
            continue
        config = parse(monkeypatch, *command).fit
        rollouts = config.model.population * config.data.prompts_per_generation * config.trainer.max_steps
        assert (rollouts, config.seed_everything) == (4096, 1)


def settings_of(command: list[str]) -> BaselineSettings:
    """The settings in the config files and options of a baseline's command."""
    assert command[0] == "baseline"
    files = [yaml.safe_load(Path(word).read_text()) for word in command if word.endswith(".yaml")]
    found = {name: value for each in files for name, value in each.get("baseline", {}).items()}
    options = dict(zip(command, command[1:], strict=False))
    prefix = "--baseline."
    found |= {
        name.removeprefix(prefix): int(value) for name, value in options.items() if name.startswith(prefix)
    }
    return BaselineSettings(**found)


@pytest.mark.parametrize("task", reproduce_gpu.TASKS)
def test_so_are_those_for_gpus_and_all_have_as_many_rollouts(
    task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for each in reproduce_gpu.runs([task], run.ARMS, [2], generations=100, devices=1):
        command = each.training()
        if each.arm in BASELINES:
            settings = settings_of(command)
            settings.check_batch(200)
            assert settings.updates * settings.group * 200 == 600_000
            continue
        config = parse(monkeypatch, *command).fit
        rollouts = config.model.population * config.data.prompts_per_generation * config.trainer.max_steps
        assert (rollouts, config.model.sigma) == (600_000, 0.001)


def test_the_estimate_is_the_published_one_and_counts_nothing_twice() -> None:
    [es, grpo] = reproduce_gpu.runs(["countdown-3b"], ["es", "grpo"], [0], generations=250, devices=1)
    assert reproduce_gpu.gpu_hours(es, 250) == 4 * 8 / 2
    assert reproduce_gpu.gpu_hours(grpo, 250) == 20 * 8 / 2
    assert "96.0, 288 dollars" in reproduce_gpu.estimate([es, grpo], 250, 3.0)


@pytest.mark.parametrize("options", [[], ["--list"], ["--go"]])
def test_nothing_is_run_without_a_gpu_or_unasked(
    options: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("something was run"))
    monkeypatch.setattr(reproduce_gpu.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["reproduce_gpu", "--seeds", "0", *options])
    if "--go" in options:
        with pytest.raises(SystemExit):
            reproduce_gpu.main()
        assert "PyTorch sees no GPU" in capsys.readouterr().err
    else:
        reproduce_gpu.main()


@pytest.mark.parametrize("name", ["capitals", "kinds"])
def test_prior_tasks_have_enough_problems(name: str) -> None:
    task = MultipleChoice("own", str(ROOT / "results" / "prior" / f"{name}.jsonl"), mode="loglikelihood")
    task.prepare()
    prompts = task.problems("test")
    assert len(prompts) >= 200
    assert len({prompt.text for prompt in prompts}) == len(prompts)


def test_a_stopped_run_goes_on_and_one_that_has_ended_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = replace(run.SUITE, work=tmp_path / "work", kept=tmp_path / "kept")
    each = Run(here, "sums", "es", 0)
    each.folder.mkdir(parents=True)
    assert "--ckpt_path" not in each.training()
    for name in ("journal.jsonl", "summary.json", "evaluations.jsonl", "model.safetensors"):
        (each.folder / name).write_text(name)
    assert each.training()[-2:] == ["--ckpt_path", "last"]
    called: list[list[str]] = []

    def stands_in(command: list[str], check: bool) -> None:
        assert check
        called.append(command[3:])
        if command[3] == "analyze":
            (each.folder / "analysis.json").write_text("{}")

    monkeypatch.setattr(subprocess, "run", stands_in)
    wanted = [each.training(), each.analysis()]
    each.complete()
    assert called == wanted
    assert each.ended
    kept = {path.name for path in each.kept.iterdir()}
    assert kept == {"journal.jsonl", "summary.json", "evaluations.jsonl", "analysis.json"}
    each.complete()
    assert called == wanted, "nothing is done twice"
