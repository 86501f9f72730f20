"""``es-lightning tune-step`` on the tiny model, and what it refuses; tests/landscape tests the numbers."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml

from es_lightning.cli import main
from es_lightning.cli.tune_step_run import (
    advised_yaml,
    check_step,
    numbers,
    probe_settings,
    report,
    updates_of,
)
from es_lightning.cli.tune_step_sentences import Configured, sentences
from es_lightning.errors import UsageError
from es_lightning.landscape.probing.results import LINES, TABLE
from es_lightning.landscape.steps.gain import UNKNOWN, Estimate
from es_lightning.landscape.steps.pair_rewards import PairRewards
from es_lightning.landscape.steps.step_size import PAYS, advise
from tests.helpers.quadratics import World, world

CONFIG = """
model:
  base: tiny
  population: 8
  sigma: 0.1
  engine: {class_path: HFEngine, init_args: {dtype: float32}}
  sampling: {max_tokens: 6}
data: {task: Conciseness, prompts_per_generation: 8}
trainer: {accelerator: cpu, devices: 1, logger: false, max_steps: 3}
"""
SIGMAS = (0.05, 0.1, 0.2, 0.4)
NOW = Configured(sigma=0.1, lr=0.02, updates=9, population=16, batch=16, antithetic=False, groups=())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished map of the tiny model."""
    root = tmp_path_factory.mktemp("tune")
    (root / "mine.yaml").write_text(CONFIG)
    before = Path.cwd()
    os.chdir(root)
    try:
        main(
            [
                "tune-step",
                "-c",
                "mine.yaml",
                "--pairs",
                "4",
                "--sigmas",
                "0.1,0.05,0.2",
                "--data.objective",
                "log_likelihood",
            ]
        )
    finally:
        os.chdir(before)
    return root / "runs" / "tune-step-mine"


@pytest.mark.slow
def test_it_leaves_a_picture_and_tables(folder: Path) -> None:
    left = {path.name for path in (folder / "report").iterdir()}
    assert left >= {"tune_step.png", "tune_step.json", "gain.csv", "sigma.csv", "population.csv"}
    assert pd.read_csv(folder / "report" / "sigma.csv")["sigma"].tolist() == [0.05, 0.1, 0.2]
    assert set(pd.read_csv(folder / "report" / "population.csv")["population"]) >= {8, 16, 32}


@pytest.mark.slow
def test_a_stopped_probe_goes_on_to_the_same_map(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    logger = SimpleNamespace(log_metrics=lambda _, step: steps.append(step), finalize=lambda _: None)
    monkeypatch.setattr("es_lightning.cli.tune_step_run.loggers_for", lambda *_: [logger])
    there = tmp_path / "there"
    there.mkdir()
    lines = (folder / LINES).read_text().splitlines(keepends=True)
    (there / LINES).write_text("".join(lines[:12]))
    words = ["-c", str(folder.parents[1] / "mine.yaml"), "--pairs", "4", "--sigmas", "0.05,0.1,0.2"]
    main(["tune-step", *words, "--data.objective", "log_likelihood", "--output", str(there)])
    assert (there / TABLE).read_bytes() == (folder / TABLE).read_bytes()
    assert (there / "report" / "gain.csv").read_bytes() == (folder / "report" / "gain.csv").read_bytes()
    assert steps[0] > 10**12, "the time in milliseconds, so that a later report of the folder is seen as well"


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.ddp
@pytest.mark.parametrize("kept", [0, 12])
def test_two_ranks_draw_the_map_of_one_and_go_on_with_its_probe(
    folder: Path, tmp_path: Path, kept: int
) -> None:
    there = tmp_path / "two"
    there.mkdir()
    begun = (folder / LINES).read_text().splitlines(keepends=True)[:kept]
    (there / LINES).write_text("".join(begun))
    words = ["-c", str(folder.parents[1] / "mine.yaml"), "--pairs", "4", "--sigmas", "0.05,0.1,0.2"]
    options = ["--data.objective", "log_likelihood", "--trainer.devices", "2", "--output", str(there)]
    command = [sys.executable, "-m", "es_lightning", "tune-step", *words, *options]
    subprocess.run(command, check=True, cwd=tmp_path, timeout=200)
    assert (there / TABLE).read_bytes() == (folder / TABLE).read_bytes()
    for name in ("gain.csv", "sigma.csv", "population.csv", "tune_step.json"):
        assert (there / "report" / name).read_bytes() == (folder / "report" / name).read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a config with -c FILE"),
        (["-c", "demo.yaml", "--pairs", "3"], "--pairs is 3: give 4 or more"),
        (["-c", "demo.yaml", "--prompts", "2"], "--prompts is 2: give 4 or more"),
        (["-c", "demo.yaml", "--sigmas", "0.1,0.2"], "give 3 or more different numbers above 0"),
        (["-c", "demo.yaml", "--sigmas", "0.1,0.2,-0.1"], "numbers above 0"),
        (["-c", "demo.yaml", "--sigmas", "a,b"], "are no numbers"),
        (["-c", "demo.yaml", "--pair", "8"], "there is no option --pair"),
    ],
)
def test_bad_input_ends_in_one_sentence(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["tune-step", *arguments])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shaping": "es_lightning.algorithm.shaping.centered_rank"}, "--model.shaping z_score"),
        (
            {"optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.1}}},
            "model.optimizer is Adam",
        ),
        (
            {"optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1, "momentum": 0.9}}},
            "SGD with momentum",
        ),
        ({"kl_penalty": {"weight": 0.1}}, "leave model.kl_penalty out"),
    ],
)
def test_another_step_is_refused(change: dict[str, object], message: str) -> None:
    sgd = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}
    model = {
        "shaping": "es_lightning.algorithm.shaping.z_score",
        "optimizer": sgd,
        "kl_penalty": None,
    } | change
    parts = SimpleNamespace(config={"model": model}, task=SimpleNamespace(name="Mine", group_weights=dict))
    with pytest.raises(UsageError, match=message):
        check_step(parts)  # type: ignore[arg-type]


@pytest.mark.parametrize("steps", [None, -1, 0])
def test_a_run_of_unknown_length_is_refused(steps: int | None) -> None:
    parts = SimpleNamespace(config={"trainer": {"max_steps": steps}})
    with pytest.raises(UsageError, match="give --trainer.max_steps"):
        updates_of(parts)  # type: ignore[arg-type]


def test_a_mixture_is_refused() -> None:
    model = {"shaping": "z_score", "optimizer": {"class_path": "SGD", "init_args": {"lr": 0.1}}}
    task = SimpleNamespace(name="Mixture", group_weights=lambda: {"a": 1.0})
    with pytest.raises(UsageError, match="no common unit"):
        check_step(SimpleNamespace(config={"model": model}, task=task))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "available", "taken"), [(None, 500, 128), (None, 100, 100), (40, 500, 40), (40, 30, 40)]
)
def test_more_prompts_than_a_generation_has_are_probed_if_there_are_as_many(
    given: int | None, available: int, taken: int
) -> None:
    options = SimpleNamespace(sigmas=None, pairs=4, prompts=given)
    parts = SimpleNamespace(sigma=0.004, seed=0, data=SimpleNamespace(batch_size=32))
    settings = probe_settings(options, parts, available)  # type: ignore[arg-type]
    assert (settings.prompts, settings.sigmas) == (taken, [0.002, 0.004, 0.008])


def results_of(probe: PairRewards, folder: Path) -> SimpleNamespace:
    tables = dict(zip(probe.sigmas, probe.rewards[:, None], strict=True))
    header = {"task": "Quadratic", "model": "known"}
    return SimpleNamespace(
        sigmas=list(probe.sigmas),
        centre=probe.centre,
        header=header,
        folder=folder,
        rewards=tables.__getitem__,
    )


def test_the_advice_is_yaml_that_a_fit_takes(tmp_path: Path) -> None:
    # One curved direction, in which the slope lies: members beyond a few gain nothing.
    truth = World(np.append(4.0, np.zeros(49)), np.append(1.0, np.zeros(49)), white=0.01)
    now = replace(NOW, population=32)
    advice = report(results_of(truth.probe(SIGMAS, 200, 0), tmp_path), now, tmp_path)  # type: ignore[arg-type]
    lines = yaml.safe_load((tmp_path / "report" / "advised.yaml").read_text())
    model, once = lines["model"], truth.best_lr(advice.sigma, advice.population)
    assert advice.population == 8
    assert lines["trainer"] == {"max_steps": 36}, "as many rollouts as nine updates with 32 members"
    assert model["sigma"] == advice.sigma
    assert advice.curve.best_lr.value == pytest.approx(once, rel=0.4)
    assert model["optimizer"]["init_args"]["lr"] == pytest.approx(advice.run.best_lr.value, rel=0.05)
    assert advice.run.best_lr.value < 0.2 * once
    assert yaml.safe_load(advised_yaml(advice, now)) == lines
    stored = json.loads((tmp_path / "report" / "tune_step.json").read_text())
    assert stored["tune_step/lr_low"] <= stored["tune_step/lr"] <= stored["tune_step/lr_high"]
    told = " ".join(sentences(advice, now))
    assert "36 updates with 8 members" in told
    assert "9 updates with 32 members" in told
    assert re.search("Doubling 32 members [^:]*: by the rule of 1.5, that does not pay", told)


def test_a_population_that_cannot_be_told_stays_and_is_said_to(tmp_path: Path) -> None:
    probe, now = world(4, prompts=16, white=0.1).probe(SIGMAS, 60, 0), replace(NOW, population=32, updates=6)
    advice = report(results_of(probe, tmp_path), now, tmp_path)  # type: ignore[arg-type]
    half = next(curve.doubling for curve in advice.curves if curve.population == 16)
    assert half.low < half.value < PAYS < half.high
    assert advice.population == 32
    assert "max_steps" not in (tmp_path / "report" / "advised.yaml").read_text()
    told = sentences(advice, now)
    assert any("Doubling 16 members" in line and "cannot be told whether that pays" in line for line in told)


def test_it_is_said_whether_a_run_s_gain_tells_populations_apart() -> None:
    advice = advise(world(4, prompts=16, white=0.1).probe(SIGMAS, 24, 0), 16, 16, updates=6, resamples=30)
    alike, one, other = Estimate(1.1, 0.9, 1.2), Estimate(1.0, 1.0, 1.0), Estimate(0.8, 0.7, 0.95)
    now, rest = replace(NOW, updates=6), (alike, *[UNKNOWN] * 3)
    gains = [run.best_gain.value for run in advice.runs[:4]]
    told = sentences(replace(advice, run_ratios=(alike, alike, one, *rest)), now)[-1]
    assert told == (
        f"Runs of as many rollouts with 4 to 32 members gain {min(gains):+.3g} to {max(gains):+.3g}: a run's "
        "gain does not tell these populations from the config's 16. The rule of 1.5 is about single updates."
    )
    told = sentences(replace(advice, run_ratios=(other, alike, one, *rest)), now)[-1]
    assert told == (
        "Of runs of as many rollouts, those with 4 members gain 0.800 times (0.700 to 0.950) what the "
        "config's gain."
    )


def test_what_ends_with_the_probe_is_said_to_be_at_least_that(tmp_path: Path) -> None:
    truth = world(4, prompts=16, white=0.1)
    most = 1.5 * truth.best_lr(0.1, 16) / 16**0.5  # between where the gain is largest and where it ends
    probe = truth.probe((0.05, 0.1, most), 60, 0)
    advice = report(results_of(probe, tmp_path), NOW, tmp_path)  # type: ignore[arg-type]
    told = " ".join(sentences(advice, NOW))
    assert f"It gains up to lr {most * 16**0.5:.2g} at least, where the probe ends" in told
    stored = json.loads((tmp_path / "report" / "tune_step.json").read_text())
    assert stored["tune_step/largest_lr_at_least"] == 1
    assert stored["tune_step/update_lr_at_least"] == 0
    table = pd.read_csv(tmp_path / "report" / "population.csv").set_index("population")
    assert table.loc[16, "largest_lr_at_least"]
    plane = World(np.zeros(30), np.full(30, 0.2), white=1e-6)
    told = " ".join(sentences(advise(plane.probe(SIGMAS, 16, seed=0), 16, 16, resamples=30), NOW))
    assert re.search(r"With 16 .* at lr at least \S+ \(90 % interval \S+ to \S+ or more\)", told)


def test_a_sigma_that_stays_is_said_to_stay(tmp_path: Path) -> None:
    probe = world(1, prompts=16, white=0.3).probe((0.07, 0.1, 0.14), 24, 0)
    now = replace(NOW, sigma=0.07)
    advice = report(results_of(probe, tmp_path), now, tmp_path)  # type: ignore[arg-type]
    told = sentences(advice, now)[0]
    assert told.startswith("sigma 0.1 has the highest score")
    assert told.endswith("It cannot be told from the config's 0.07, which stays.")
    assert numbers(advice, now)["tune_step/highest_sigma"] == 0.1
    assert (tmp_path / "report" / "advised.yaml").read_text().startswith("model:\n  sigma: 0.07\n")


def test_noise_is_called_noise(tmp_path: Path) -> None:
    rewards = np.random.default_rng(0).standard_normal((4, 24, 16))
    probe = PairRewards(SIGMAS, np.zeros(16), rewards)
    advice = report(results_of(probe, tmp_path), NOW, tmp_path)  # type: ignore[arg-type]
    assert sentences(advice, NOW)[0].startswith("tune-step: cannot tell")
    assert not (tmp_path / "report" / "advised.yaml").exists()
    assert (tmp_path / "report" / "tune_step.png").exists()


def test_numbers_of_the_map_are_finite() -> None:
    advice = advise(world(0).probe(SIGMAS, 8, 0), 16, 16, resamples=30)
    assert all(np.isfinite(value) for value in numbers(advice, NOW).values())


def test_the_luck_of_the_centre_is_told_and_no_part_of_the_gain() -> None:
    probe = world(4, prompts=16, white=0.1).probe(SIGMAS, 60, 0)
    lucky = PairRewards(SIGMAS, probe.centre + 0.3, probe.rewards)
    plain, other = (advise(each, 16, 16, resamples=30) for each in (probe, lucky))
    assert not any("than the centre" in line for line in sentences(plain, NOW))
    assert any("earn 0.3 less than the centre" in line for line in sentences(other, NOW))
    assert numbers(other, NOW)["tune_step/offset"] == pytest.approx(
        numbers(plain, NOW)["tune_step/offset"] - 0.3
    )
    assert numbers(other, NOW)["tune_step/gain"] == pytest.approx(numbers(plain, NOW)["tune_step/gain"])
