"""What is measured of each generation, and which warning comes of which trouble."""

import json
import logging
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from es_lightning.algorithm.noise import GaussianNoise
from es_lightning.algorithm.shaping import all_alike, z_score
from es_lightning.callbacks.population_health import PopulationHealth
from es_lightning.datamodule import TaskDataModule
from es_lightning.distributed.ranks import Ranks
from es_lightning.errors import UsageError
from es_lightning.evaluation import Evaluator
from es_lightning.grading.scorer import Grading
from es_lightning.records import Completion, Evaluation, Generation, Member, Prompt
from tests.helpers.fits import Letters, Records, fit, module, trainer

pytestmark = [pytest.mark.slow, pytest.mark.callbacks]  # many fits

MEMBERS, PROMPTS = 30, 40
PLAIN = GaussianNoise(compile=False)  # needs no compiler, which takes its time


@pytest.mark.parametrize(("option", "value"), [("centre_every", -1), ("patience", 0)])
def test_a_number_that_is_too_low_is_refused(option: str, value: int) -> None:
    with pytest.raises(UsageError, match=f"{option} is {value}"):
        PopulationHealth(**{option: value})


# In a fit


class Centres(Callback):
    """Keeps what the centre earns on the training problems before each update."""

    def __init__(self) -> None:
        self.rewards: list[list[float]] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Before the members."""
        self.rewards.append(pl_module.evaluate("train").rewards)


def test_numbers_are_those_of_the_records(tmp_path: Path) -> None:
    health, centres = PopulationHealth(centre_every=2), Centres()
    _, records = fit(Letters(), tmp_path, callbacks=[centres, health], population=6, noise=PLAIN)
    assert [row["generation"] for row in health.rows] == [0, 1, 2]
    for row, record, centre in zip(health.rows, records.generations, centres.rewards, strict=True):
        rewards = record.rewards.numpy()
        covariances = np.cov(rewards, rowvar=False)
        common = covariances[~np.eye(4, dtype=bool)].mean()
        noise = np.diag(covariances).mean() - common
        assert row["health/snr"] == pytest.approx(4 * common / noise)
        assert row["health/agreement"] == pytest.approx(4 * common / (4 * common + 2 * noise))
        shares = [row[f"health/{name}_variance"] for name in ("member", "prompt", "residual")]
        assert sum(shares) == pytest.approx(1)
        texts = [[c.text for c in record.evaluations[n].completions] for n in range(6)]
        usual = [max(column.count(text) for text in column) / 6 for column in zip(*texts, strict=True)]
        assert row["health/distinct"] == pytest.approx(1 - sum(usual) / len(usual))
        lengths = np.array([[len(c.token_ids) for c in record.evaluations[n].completions] for n in range(6)])
        assert row["health/long_tail"] == pytest.approx((lengths.max(1) / lengths.mean(1)).mean())
        assert row["health/dead_run"] == 0
        assert ("health/above_centre" in row) == (record.index % 2 == 0)
        if "health/above_centre" in row:
            assert row["health/centre_reward"] == pytest.approx(np.mean(centre), rel=1e-12)
            assert row["health/above_centre"] == np.mean(rewards.mean(1) > np.mean(centre))


def test_a_resumed_run_rolls_no_centre_out_for_what_the_journal_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = PopulationHealth(centre_every=1)
    fit(Letters(), tmp_path, steps=3, callbacks=[whole], noise=PLAIN)
    rolled_out, health, tuned = [], PopulationHealth(centre_every=1), module(noise=PLAIN)
    actual = Evaluator.evaluate
    monkeypatch.setattr(
        Evaluator,
        "evaluate",
        lambda self, *asked, **more: (rolled_out.append(self.generation), actual(self, *asked, **more))[1],
    )
    tuned.history.saved = []
    run = trainer(tmp_path, 4, [health, Records()], limit_val_batches=0)
    run.fit(tuned, TaskDataModule(Letters(), grading=Grading(workers=0)))
    assert rolled_out == [3]
    known = ("health/agreement", "health/member_variance", "health/informative_prompts")
    for before, after in zip(whole.rows, health.rows, strict=False):
        assert [after.get(name) for name in known] == [before.get(name) for name in known]


# Warnings


def simulated(rng: Any, member: float = 0.4, prompt: float = 1.5, level: float = 0.0) -> Tensor:
    """Right and wrong answers of a population whose members differ."""
    ease = prompt * rng.normal(size=(1, PROMPTS)) + level + member * rng.normal(size=(MEMBERS, 1))
    return torch.from_numpy((ease + rng.normal(size=(MEMBERS, PROMPTS)) > 0) * 1.0)


def record(index: int, rewards: Tensor, words: Any, **changes: Any) -> Generation:
    """A generation; ``words`` says what a member answers to a prompt."""
    prompts = tuple(Prompt(f"p/{p}", f"{p}") for p in range(rewards.shape[1]))
    evaluations = {
        n: Evaluation(prompts, tuple(said(words(n, p)) for p in range(len(prompts))), ())
        for n in range(len(rewards))
    }
    skipped = all_alike(rewards)
    found = Generation(
        index=index,
        members=tuple(Member(n, n) for n in range(len(rewards))),
        prompts=prompts,
        rewards=rewards,
        weights=torch.zeros(len(rewards)) if skipped else z_score(rewards),
        sigma=0.001,
        lr=0.0005,
        skipped=skipped,
        update_norm=0.0,
        drift=0.0,
        scores={"completion_truncated": 0.02, "completion_chars": 40.0},
        tokens=0,
        seconds={},
        lane_seconds=(10.0, 11.0),
        evaluations=evaluations,
    )
    return replace(found, **changes)


def said(text: str, finish_reason: str = "stop") -> Completion:
    return Completion(text, (1, 2, 3), finish_reason)


def centre_of(rewards: list[float], text: str = "x" * 40, finish_reason: str = "stop") -> Evaluation:
    prompts = tuple(Prompt(f"p/{p}", f"{p}") for p in range(len(rewards)))
    completions = tuple(said(text, finish_reason) for _ in rewards)
    return Evaluation(prompts, completions, tuple({"reward": reward} for reward in rewards))


class Stage:
    """A module and a trainer that do nothing, for the callback's hooks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, health: PopulationHealth, temperature: float) -> None:
        self.health, self.module = health, module()
        self.module.rollouts.sampling = replace(
            self.module.rollouts.sampling, temperature=temperature, max_tokens=256
        )
        self.trainer: Any = SimpleNamespace(
            loggers=[],
            callback_metrics={},
            global_step=0,
            global_rank=0,
            world_size=1,
            strategy=None,
            datamodule=TaskDataModule(Letters()),
        )
        self.module.trainer = self.trainer
        self.centre: Evaluation | None = None
        monkeypatch.setattr(self.module, "centre", nn.Module(), raising=False)
        monkeypatch.setattr(self.module.rollouts, "hold_centre", lambda centre: None)
        monkeypatch.setattr(Evaluator, "evaluate", lambda *_, **__: self.centre)
        monkeypatch.setattr(health, "picture", "")

    def show(self, found: Generation) -> None:
        """Run the hooks of one generation."""
        self.trainer.global_step = found.index
        self.health.on_train_batch_start(self.trainer, self.module, found.prompts, 0)
        self.trainer.global_step += 1
        self.health.on_train_batch_end(self.trainer, self.module, {"generation": found}, found.prompts, 0)


def different(n: int, p: int) -> str:
    return f"{n} says {p}"


def alike(n: int, p: int) -> str:
    return f"{p}" if (n + p) % 20 else f"{n} {p}"


def healthy(rng: Any) -> dict[str, Any]:
    return {"rewards": simulated(rng), "words": different}


def solved(rng: Any) -> dict[str, Any]:
    return {"rewards": simulated(rng, level=2.5), "words": different}


def small(rng: Any) -> dict[str, Any]:
    rewards = torch.from_numpy(rng.random(PROMPTS) > 0.5).double().expand(MEMBERS, PROMPTS).clone()
    rewards[rng.integers(MEMBERS), rng.integers(PROMPTS)] = rng.random()  # one token fell otherwise
    return {"rewards": rewards, "words": alike}


def dead(rng: Any) -> dict[str, Any]:
    return {"rewards": torch.full((MEMBERS, PROMPTS), 0.25), "words": alike}


def flips(rng: Any) -> dict[str, Any]:
    rewards = torch.from_numpy(rng.random(PROMPTS) > 0.5).double().expand(MEMBERS, PROMPTS)
    return {
        "rewards": (rewards - torch.from_numpy(rng.random((MEMBERS, PROMPTS)) < 0.03).double()).abs(),
        "words": alike,
    }


def hopeless(rng: Any) -> dict[str, Any]:
    return {"rewards": torch.zeros(MEMBERS, PROMPTS), "words": different}


def ruined(rng: Any) -> dict[str, Any]:
    return {"rewards": simulated(rng, 0.2, 0.2, level=-2.0), "words": different}


def garbage(rng: Any) -> dict[str, Any]:
    scores = {"completion_truncated": 0.9, "completion_chars": 900.0}
    return {"rewards": torch.zeros(MEMBERS, PROMPTS), "words": different, "scores": scores}


def silent(rng: Any) -> dict[str, Any]:
    scores = {"completion_truncated": 0.0, "completion_chars": 0.3}
    return {"rewards": simulated(rng, level=0.0), "words": lambda n, p: "" if n else f"{p}", "scores": scores}


def noisy(rng: Any) -> dict[str, Any]:
    return {"rewards": torch.from_numpy((rng.random((MEMBERS, PROMPTS)) < 0.4) * 1.0), "words": different}


def cut(rng: Any) -> dict[str, Any]:
    return healthy(rng) | {"scores": {"completion_truncated": 0.4, "completion_chars": 40.0}}


def uneven(rng: Any) -> dict[str, Any]:
    return healthy(rng) | {"lane_seconds": (20.0, 10.0) * 10}  # half of the 20 lanes have two members


def slow(rng: Any) -> dict[str, Any]:
    return healthy(rng) | {"lane_seconds": (10.0, 10.2, 25.0)}


GOOD, CUT = centre_of([1.0] * 20 + [0.0] * 20), centre_of([1.0] * 20 + [0.0] * 20, finish_reason="length")
SOLVED, POOR = centre_of([1.0] * 40), centre_of([0.0] * 40)


def warnings(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    trouble: Any,
    centre: Evaluation,
    generations: int = 10,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[str]:
    stage = Stage(monkeypatch, PopulationHealth(), temperature)
    stage.centre = centre
    rng = np.random.default_rng(seed)
    caplog.clear()
    with caplog.at_level(logging.WARNING, "es_lightning"):
        for index in range(generations):
            stage.show(record(index, **trouble(rng)))
    return [each.getMessage() for each in caplog.records]


@pytest.mark.parametrize(
    ("trouble", "centre", "advice"),
    [
        (small, GOOD, r"raise model.sigma \(0.001 now\), for example to 0.002"),
        (dead, GOOD, r"raise model.sigma"),
        (flips, GOOD, r"raise model.sigma"),
        (hopeless, POOR, r"members earn alike on 100% of the prompts.*give the reward more steps"),
        (ruined, GOOD, r"where it earned 0.5.*lower model.sigma \(0.001 now\), for example to 0.0005"),
        (garbage, GOOD, r"lower model.sigma"),
        (silent, SOLVED, r"lower model.sigma"),
        (noisy, GOOD, r"raise data.prompts_per_generation \(40 now\)\. "),
        (cut, CUT, r"40% of the completions are cut off at 256 tokens: raise model.sampling.max_tokens"),
        (
            uneven,
            GOOD,
            r"1.33 times the mean, since 30 members do not divide into 20 lanes: make model.population",
        ),
        (slow, GOOD, r"1.66 times the mean, lane 2 in the last generation"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_each_trouble_has_its_warning_after_ten_generations(
    trouble: Any,
    centre: Evaluation,
    advice: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert warnings(monkeypatch, caplog, trouble, centre, generations=9) == []
    (found,) = warnings(monkeypatch, caplog, trouble, centre)
    assert found.startswith("Since generation 0, ")
    assert re.search(advice, found), found


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("state", "centre"), [(healthy, GOOD), (healthy, POOR), (solved, SOLVED)], ids=["good", "poor", "solved"]
)
def test_a_healthy_population_is_not_warned_of(
    state: Any,
    centre: Evaluation,
    seed: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert warnings(monkeypatch, caplog, state, centre, generations=25, seed=seed) == []


def test_a_generation_of_the_journal_has_no_clocks_to_blame_a_lane_by(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clocks = iter([(10.0, 10.2, 25.0)] * 9 + [()])
    assert warnings(monkeypatch, caplog, lambda rng: slow(rng) | {"lane_seconds": next(clocks)}, GOOD) == []


def test_a_temperature_is_named_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (found,) = warnings(monkeypatch, caplog, noisy, GOOD, temperature=0.7)
    assert "lower model.sampling.temperature (0.7 now)" in found


def test_a_warning_comes_again_after_as_many_generations_and_not_before(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    found = warnings(monkeypatch, caplog, dead, GOOD, generations=35)
    assert [each.split(",")[0] for each in found] == [f"Since generation {g}" for g in (0, 10, 20)]


def test_one_good_generation_makes_the_count_begin_anew(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    turn = iter(range(19))
    assert (
        warnings(monkeypatch, caplog, lambda rng: (dead, healthy)[next(turn) == 9](rng), GOOD, generations=19)
        == []
    )


def test_dead_generations_in_a_row_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    stage, rng = (
        Stage(monkeypatch, PopulationHealth(centre_every=0, patience=2), 0.0),
        np.random.default_rng(0),
    )
    for index, trouble in enumerate([dead, healthy, dead, dead, dead, healthy]):
        stage.show(record(index, **trouble(rng)))
    assert [row["health/dead_run"] for row in stage.health.rows] == [1, 0, 1, 2, 3, 0]
    assert not any("health/above_centre" in row for row in stage.health.rows)


def test_a_resumed_monitor_warns_where_an_uninterrupted_one_does(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = Stage(monkeypatch, PopulationHealth(), 0.0), Stage(monkeypatch, PopulationHealth(), 0.0)
    first.centre = second.centre = GOOD
    rng = np.random.default_rng(0)
    for index in range(13):
        first.show(record(index, **dead(rng)))
    second.health.load_state_dict(json.loads(json.dumps(first.health.state_dict())))
    caplog.clear()
    for index in range(13, 20):
        second.show(record(index, **dead(rng)))
    assert [each.getMessage()[:20] for each in caplog.records] == ["Since generation 10,"]


def test_what_completions_tell_does_not_depend_on_the_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    whole = record(0, **healthy(rng) | {"words": lambda n, p: f"{n % 3} {p}"})
    alone, lanes = (Stage(monkeypatch, PopulationHealth(centre_every=0), 0.0) for _ in range(2))
    parts: list[bytes] = []
    monkeypatch.setattr(Ranks, "from_lanes", lambda _, payload: (parts.append(payload), parts)[1])
    for part in (0, 1):
        mine = {n: each for n, each in whole.evaluations.items() if n % 2 == part}
        lanes.show(replace(whole, evaluations=mine))
    alone.show(whole)
    assert lanes.health.rows[-1] == alone.health.rows[-1]
    assert alone.health.rows[-1]["health/distinct"] == pytest.approx(2 / 3)
    assert alone.health.rows[-1]["health/lane_imbalance"] == pytest.approx(11 / 10.5 - 1)
