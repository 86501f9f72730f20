"""``es-lightning probe`` on the tiny model, and the models of its candidates."""

import os
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from es_lightning.algorithm.noise import GaussianNoise
from es_lightning.cli import main
from es_lightning.cli.opened import opened
from es_lightning.landscape.probing.results import LINES, TABLE, ProbeResults
from es_lightning.models import BaseModel
from es_lightning.rollout import HFEngine

CONFIG = """
model: {base: tiny, engine: {class_path: HFEngine, init_args: {dtype: float32}}, sampling: {max_tokens: 6}}
data: {task: Conciseness}
trainer: {accelerator: cpu, devices: 1, logger: false}
probe: {sigmas: [0.05, 0.2], members: 6, batches: 2, prompts: 4, largest: 5}
"""
NAMES = {"best_of_n.png", "changes.png", "sigmas.png", "report.md"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished probe of the tiny model."""
    root = tmp_path_factory.mktemp("probe")
    (root / "mine.yaml").write_text(CONFIG)
    before = Path.cwd()
    os.chdir(root)
    try:
        main(["probe", "-c", "mine.yaml"])
    finally:
        os.chdir(before)
    return root / "runs" / "probe-mine"


def again(folder: Path, *arguments: str, config: str = "") -> None:
    config = config or str(folder.parents[1] / "mine.yaml")
    main(["probe", "-c", config, "--output", str(folder), *arguments])


def test_it_leaves_a_table_and_a_report(folder: Path) -> None:
    results = ProbeResults.read(folder)
    assert len(results.table) == 24
    assert results.header["model"] == "tiny"
    assert results.header["parameters"] == 115264
    assert results.header["largest_reward"] == 0.0, "a reply of conciseness earns 0 at most"
    assert np.isfinite(results.rewards(0.05)).all()
    assert results.rewards(0.05).shape == (2, 6, 4)
    assert {path.name for path in (folder / "report").iterdir()} >= NAMES


def test_a_stopped_probe_goes_on_to_the_same_table(folder: Path, tmp_path: Path) -> None:
    lines = (folder / LINES).read_text().splitlines(keepends=True)
    there = tmp_path / "there"
    there.mkdir()
    (there / LINES).write_text("".join(lines[:10]))
    main(["probe", "-c", str(folder.parents[1] / "mine.yaml"), "--output", str(there)])
    assert (there / TABLE).read_bytes() == (folder / TABLE).read_bytes()


def test_a_probe_of_one_batch_goes_on_with_a_second(folder: Path, tmp_path: Path) -> None:
    config, there = str(folder.parents[1] / "mine.yaml"), tmp_path / "there"
    again(there, "--probe.batches", "1", config=config)
    assert len(ProbeResults.read(there).table) == 12
    again(there, config=config)
    assert (there / TABLE).read_bytes() == (folder / TABLE).read_bytes()
    assert "2 batches of 6 candidates" in (there / "report" / "report.md").read_text()


def test_the_model_of_a_candidate_has_the_bits_and_the_rewards_of_the_probe(
    folder: Path, tmp_path: Path
) -> None:
    results = ProbeResults.read(folder)
    number = int(np.argmax(results.table["change"].to_numpy()))
    candidate, output = results.candidate(number), tmp_path / "model"
    main(["replay", "--probe", str(folder), "--candidate", str(number), "--output", str(output)])
    stored = load_file(output / "model.safetensors")
    noise = GaussianNoise()
    for name, theta in BaseModel("tiny").load().named_parameters():
        scale = candidate.sign * candidate.sigma
        expected = noise.perturbed(candidate.seed, name, theta.detach(), scale, torch.float32)
        assert torch.equal(stored[name], expected)
    with opened(["-c", str(folder.parents[1] / "mine.yaml"), "--model.base", str(output)]) as parts:
        wanted = results.header["prompt_ids"]
        prompts = [each for each in parts.prompts("train") if each.id in wanted]
        centre = parts.start()
        parts.rollouts.hold_centre(centre)
        assert parts.evaluator().evaluate(prompts).rewards == pytest.approx(candidate.rewards)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["probe"], "give a config with -c FILE"),
        (["probe", "--outptu", "x"], "there is no option --outptu. Did you mean output?"),
        (["probe", "--report", "nowhere"], "nowhere holds no probe"),
        (["replay", "--output", "x"], "give a run's journal with --journal, or a probe's folder"),
        (["replay", "--output", "x", "--probe", "x"], "--probe and --candidate belong together"),
        (["replay", "--output", "x", "--journal", "x", "--candidate", "1"], "belong together"),
        (
            ["replay", "--output", "x", "--probe", "x", "--candidate", "1", "--generation", "2"],
            "--generation",
        ),
        (["replay", "--output", "x", "--probe", "nowhere", "--candidate", "1"], "nowhere holds no probe"),
    ],
)
def test_bad_input_ends_in_one_sentence(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--probe.membrs", "3"], "there is no option probe.membrs. Did you mean probe.members?"),
        (["--probe.members", "3"], "a batch has 3 members"),
        (["--probe.prompts", "100000"], "split train has"),
        (["--probe.seed", "7"], "other settings (seed 1234, and not 7)"),
        (["--probe.batches", "1"], "2 batches of a probe, and 1 were asked for: give --probe.batches 2"),
        (["--model.sampling.max_tokens", "7"], "other settings (sampling"),
        (["--data.task.wrong_costs", "1"], "other settings (task_settings"),
    ],
)
def test_settings_are_refused_in_one_sentence(
    folder: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (folder / LINES).read_bytes()
    with pytest.raises(SystemExit) as stopped:
        again(folder, *arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert (folder / LINES).read_bytes() == before


def test_the_bits_of_a_replayed_candidate_are_those_that_the_engine_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[dict[str, torch.Tensor]] = []
    original = HFEngine.load_weights

    def noted(engine: HFEngine, named_tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        given.append({name: tensor.clone() for name, tensor in named_tensors})
        original(engine, given[-1].items())

    monkeypatch.setattr(HFEngine, "load_weights", noted)
    (tmp_path / "mine.yaml").write_text(CONFIG)
    options = ["--model.engine.init_args.dtype", "bfloat16", "--model.check_engine", "false"]
    folder = tmp_path / "probe"
    main(["probe", "-c", str(tmp_path / "mine.yaml"), "--output", str(folder), *options])
    candidates = given[-25:-1]  # the last is the centre
    for number in (0, 19):
        output = tmp_path / str(number)
        main(["replay", "--probe", str(folder), "--candidate", str(number), "--output", str(output)])
        stored = load_file(output / "model.safetensors")
        assert stored.keys() <= candidates[number].keys()
        for name, tensor in stored.items():
            assert tensor.dtype == torch.bfloat16
            assert torch.equal(tensor, candidates[number][name])


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.long
def test_the_command_killed_at_any_moment_goes_on_to_the_same_table(folder: Path, tmp_path: Path) -> None:
    there, random = tmp_path / "there", np.random.default_rng()
    config = str(folder.parents[1] / "mine.yaml")
    command = [sys.executable, "-m", "es_lightning", "probe", "-c", config, "--output", str(there)]
    for lines in random.choice(np.arange(1, 20), 2, replace=False).tolist():
        process = subprocess.Popen(command, cwd=tmp_path)
        while process.poll() is None and _lines(there / LINES) < lines:
            time.sleep(0.002)
        process.kill()
        process.wait()
    again(there, config=config)
    assert (there / TABLE).read_bytes() == (folder / TABLE).read_bytes()


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.ddp
@pytest.mark.parametrize("kept", [0, 10])
def test_two_ranks_find_what_one_finds_and_go_on_with_its_probe(
    folder: Path, tmp_path: Path, kept: int
) -> None:
    config = str(folder.parents[1] / "mine.yaml")
    (tmp_path / "two").mkdir()
    begun = (folder / LINES).read_text().splitlines(keepends=True)[:kept]
    (tmp_path / "two" / LINES).write_text("".join(begun))
    options = ["--trainer.devices", "2", "--output", str(tmp_path / "two")]
    command = [sys.executable, "-m", "es_lightning", "probe", "-c", config, *options]
    subprocess.run(command, check=True, cwd=tmp_path, timeout=200)
    assert (tmp_path / "two" / TABLE).read_bytes() == (folder / TABLE).read_bytes()
