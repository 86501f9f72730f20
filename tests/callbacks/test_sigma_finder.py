"""The sweep over sigma: its score against closed forms and a regression, and what it does to a run."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from es_lightning.algorithm.noise import GaussianNoise
from es_lightning.analysis.sigma_sweep import SweepVerdict, judge, score, smoothed
from es_lightning.callbacks import sigma_finder
from es_lightning.callbacks.sigma_finder import SigmaFinder
from es_lightning.datamodule import TaskDataModule
from es_lightning.errors import UsageError
from es_lightning.evaluation import Evaluator
from es_lightning.grading.scorer import Grading
from es_lightning.module import EvolutionStrategies
from es_lightning.reports import plots
from tests.helpers.fits import Letters, Records, module, trainer

pytestmark = [pytest.mark.slow, pytest.mark.callbacks]  # many fits

SIGMAS = [2.0**power for power in range(-4, 5)]


def interleaved(plus: Any, minus: Any) -> Tensor:
    """Members 2k and 2k+1 of a table [2 K, P]."""
    return torch.from_numpy(np.stack([plus, minus], axis=1).reshape(2 * len(plus), -1))


# The score


def quadratic(rng: Any, pairs: int, prompts: int, noise: float, dimension: int = 40) -> list[Tensor]:
    """J = g.x - x^T C x / 2 with ||g|| = 1 and tr(C^2) = 2 / 5^2, and white noise per member and prompt."""
    eps, slope = rng.normal(size=(pairs, dimension)), np.full(dimension, dimension**-0.5)
    curvature = np.full(dimension, (2 / 25 / dimension) ** 0.5)
    odd, even = eps @ slope, -(eps**2) @ curvature / 2
    tables = []
    for sigma in SIGMAS:
        signal = [sign * sigma * odd + sigma**2 * even for sign in (1, -1)]
        cells = [each[:, None] + noise * rng.normal(size=(pairs, prompts)) for each in signal]
        tables.append(interleaved(*cells))
    return tables


def test_the_score_of_a_quadratic_is_that_of_its_closed_form() -> None:
    prompts, noise = 8, 1.5
    tables = quadratic(np.random.default_rng(1), 6000, prompts, noise)
    found = [float(score(table, prompts)) for table in tables]
    variance = np.array(SIGMAS) ** 2
    odd, even = variance, variance**2 / 25  # sigma^2 ||g||^2 and sigma^4 tr(C^2) / 2
    rest = noise**2 / prompts
    assert found == pytest.approx((odd - even) / (odd + even + rest), abs=0.03)
    # The derivative in x = sigma^2 is 0 where s^2 = 2 x^2 / 25 + 2 s^2 x / 25.
    peak = (-rest / 25 + ((rest / 25) ** 2 + 2 * rest / 25) ** 0.5) / (2 / 25)
    assert 2**-0.5 <= SIGMAS[int(np.argmax(found))] / peak**0.5 <= 2**0.5
    assert peak < (25 * rest) ** 0.5, "the linear share has its peak at a larger sigma"


def landscape(
    rng: Any, sigma: float, pairs: int, dimension: int = 40, waves: int = 4000
) -> tuple[Any, Tensor]:
    """Pairs eps, and a smooth random reward at theta +- sigma eps; correlated over sqrt(dimension)."""
    directions = rng.normal(size=(waves, dimension)) / dimension**0.5
    phases = rng.uniform(0, 2 * np.pi, waves)
    eps = rng.normal(size=(pairs, dimension))
    plus, minus = (
        np.cos(sign * sigma * eps @ directions.T + phases).sum(1) * (2 / waves) ** 0.5 for sign in (1, -1)
    )
    return eps, interleaved(plus[:, None].repeat(2, 1), minus[:, None].repeat(2, 1))


@pytest.mark.parametrize("sigma", [0.3, 1.0, 1.5, 2.5])
def test_the_score_of_random_landscapes_is_below_what_a_regression_on_the_noise_explains(
    sigma: float,
) -> None:
    pairs, dimension, found, explained = 2000, 40, [], []
    for seed in (1, 2, 3):
        eps, table = landscape(np.random.default_rng(seed), sigma, pairs, dimension)
        members = np.stack([eps, -eps], axis=1).reshape(2 * pairs, dimension)
        rewards = table.mean(1).numpy()
        fitted = members @ np.linalg.lstsq(members, rewards - rewards.mean(), rcond=None)[0]
        explained.append(fitted.var() / rewards.var() - dimension / (2 * pairs))
        found.append(float(score(table, 2)))
    assert np.mean(found) == pytest.approx(np.exp(-(sigma**2)), abs=0.05)
    assert np.mean(explained) == pytest.approx(sigma**2 / np.expm1(sigma**2), abs=0.05)
    assert np.mean(found) <= np.mean(explained) + 0.02


def test_members_ruined_at_random_have_no_score() -> None:
    rng = np.random.default_rng(2)
    values = rng.random((4000, 1)) < 0.5
    table = interleaved(
        values[::2] + rng.normal(size=(2000, 6)) / 9, values[1::2] + rng.normal(size=(2000, 6)) / 9
    )
    assert abs(float(score(table, 6))) < 0.06
    odd = (table[::2] - table[1::2]).mean(1) / 2
    assert float(odd.var() / table.mean(1).var()) == pytest.approx(0.5, abs=0.05)


def test_what_holds_for_single_prompts_alone_does_not_count() -> None:
    rng = np.random.default_rng(3)
    slopes = rng.normal(size=(4000, 5))  # every prompt has a direction of its own
    assert abs(float(score(interleaved(slopes, -slopes), 5))) < 0.05


def test_fewer_prompts_give_the_score_of_the_whole_batch() -> None:
    rng = np.random.default_rng(4)
    slope = rng.normal(size=(5000, 1))
    cells = [slope * sign + 4 * rng.normal(size=(5000, 64)) for sign in (1, -1)]
    table = interleaved(*cells)
    assert float(score(table, 64)) == pytest.approx(1 / (1 + 16 / 64), abs=0.03)
    assert float(score(table[:, :8], 64)) == pytest.approx(1 / (1 + 16 / 64), abs=0.06)


def test_equal_rewards_have_no_score() -> None:
    assert float(score(torch.full((8, 3), 0.1, dtype=torch.float64), 3)) == pytest.approx(0, abs=1e-12)


def test_smoothing_is_a_convolution_that_ends_at_the_edges() -> None:
    values = np.random.default_rng(5).random(7)
    weights = [1, 2, 1]
    expected = np.convolve(values, weights, "same") / np.convolve(np.ones(7), weights, "same")
    assert smoothed(torch.from_numpy(values)).tolist() == pytest.approx(expected)


# The verdict


def test_a_slope_is_found_near_its_best_sigma_with_eight_pairs() -> None:
    peak = SIGMAS.index(2.0)
    verdicts = [judge(quadratic(np.random.default_rng(s), 8, 40, 4.0), 40, seed=s) for s in range(30)]
    assert sum(verdict.is_significant for verdict in verdicts) >= 27
    assert sum(abs(verdict.best - peak) <= 1 for verdict in verdicts) >= 27
    assert all(
        low <= high for verdict in verdicts for low, high in zip(verdict.low, verdict.high, strict=True)
    )
    assert all(verdict.between[0] <= verdict.between[1] for verdict in verdicts)


@pytest.mark.parametrize("member", [0.0, 0.3], ids=["chance", "ruined members"])
def test_nothing_is_found_where_directions_do_not_matter(member: float) -> None:
    found = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        ease = rng.random(20)
        tables = [
            torch.from_numpy((rng.random((16, 20)) < ease + member * rng.normal(size=(16, 1))) * 1.0)
            for _ in range(7)
        ]
        found += judge(tables, 20, seed=seed).is_significant
    assert found <= 8  # 5 % of 60 are 3, and more than 8 come once in 200 times


def test_what_single_prompts_do_alike_at_every_sigma_is_no_slope() -> None:
    """Answers that turn over with a direction, each on its own, stay turned over as sigma grows."""
    small = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        turned = rng.normal(size=(8, 10))
        tables = [
            interleaved(*(sign * turned + 0.4 * rng.normal(size=(8, 10)) for sign in (1, -1)))
            for _ in range(7)
        ]
        small += judge(tables, 10, seed=seed).p_value < 0.05
    assert small <= 8  # as above


def test_equal_members_give_no_verdict() -> None:
    verdict = judge([torch.ones(8, 4)] * 3, 4)
    assert (verdict.is_significant, verdict.p_value) == (False, 1.0)


# In a run


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("sigmas", [0.1, 0.2]),
        ("sigmas", [0.1, 0.1, 0.2]),
        ("sigmas", [0.1, 0.0, 0.2]),
        ("sigmas", [0.1, float("inf"), 0.2]),
        ("factor", 1.0),
        ("num", 2),
        ("pairs", 3),
        ("prompts", 1),
        ("seed", -1),
    ],
)
def test_a_value_out_of_range_is_refused(option: str, value: Any) -> None:
    with pytest.raises(UsageError, match=rf"SigmaFinder\.{option} is .*: give"):
        SigmaFinder(**{option: value})


def run(
    folder: Path,
    finder: SigmaFinder,
    steps: int = 2,
    others: Any = (),
    saved_journal: list[str] | None = None,
    data: dict[str, Any] | None = None,
    **options: Any,
) -> tuple[EvolutionStrategies, Records]:
    tuned, records = module(noise=GaussianNoise(compile=False)), Records()
    if saved_journal is not None:
        tuned.history.saved = saved_journal
    checkpointing = {"enable_checkpointing": bool(others), "limit_val_batches": 0}
    fit_options = {"ckpt_path": options.pop("ckpt_path")} if "ckpt_path" in options else {}
    task = TaskDataModule(Letters(), grading=Grading(workers=0), **(data or {}))
    trainer(folder, steps, [finder, records, *others], **checkpointing).fit(tuned, task, **fit_options)
    return tuned, records


def lines(folder: Path) -> list[str]:
    found = (folder / "journal.jsonl").read_text().splitlines()
    return [line.split('"seconds"')[0] for line in found]


@pytest.fixture
def second_is_best(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let every sweep suggest the second of its sigmas; returns how many sweeps there were."""
    sweeps: list[int] = []

    def judged(tables: list[Tensor], *_: Any) -> SweepVerdict:
        sweeps.append(len(tables))
        size = len(tables)
        scores = (0.1, 0.5, *(0.1,) * (size - 2))
        return SweepVerdict(scores, (0.0,) * size, (0.6,) * size, (), 0.01, 1, (0, 2))

    monkeypatch.setattr(sigma_finder, "judge", judged)
    return sweeps


def test_a_batch_that_is_too_small_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs 5 prompts, and a generation has 4: .* or lower its prompts"):
        run(tmp_path, SigmaFinder(prompts=5))
    with pytest.raises(UsageError, match="needs 2 prompts, and a generation has 1: raise"):
        run(tmp_path, SigmaFinder(), data={"prompts_per_generation": 1})


def test_a_sweep_changes_nothing_and_leaves_its_numbers(
    tmp_path: Path, second_is_best: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    finder = SigmaFinder(num=3, factor=2.0, pairs=4, prompts=2)
    with caplog.at_level(logging.INFO, "es_lightning"):
        tuned, records = run(tmp_path / "with", finder)
    plain, without = run(tmp_path / "without", SigmaFinder(stop=False, num=3, pairs=4, seed=1))
    assert lines(tmp_path / "with") == lines(tmp_path / "without")
    assert records.checksums == without.checksums
    assert tuned.sigma == 0.05
    assert finder.suggestion == 0.05
    assert [row["sigma"] for row in finder.rows] == [0.025, 0.05, 0.1]
    table = json.loads((tmp_path / "with" / "tables" / "sigma_finder.json").read_text())
    assert table == json.loads(json.dumps(finder.state_dict()))
    assert (tmp_path / "with" / "plots" / "sigma_finder.png").stat().st_size > 10_000
    assert "SigmaFinder suggests sigma 0.05 (90 % interval 0.025 to 0.1); the run's is 0.05." in caplog.text
    assert caplog.text.count("SigmaFinder: sigma ") == 3


def test_members_and_prompts_of_a_sweep_are_pairs_of_no_generation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, second_is_best: list[int]
) -> None:
    asked: list[Any] = []
    actual = Evaluator.members

    def evaluated(
        self: Any, centre: Any, members: Any, noise: Any, sigma: float, prompts: Any, *rest: Any
    ) -> Any:
        if len(asked) < 3:  # those of the generation come after the sweep's
            asked.append((members, [prompt.id for prompt in prompts], sigma))
        return actual(self, centre, members, noise, sigma, prompts, *rest)

    monkeypatch.setattr(Evaluator, "members", evaluated)
    finder = SigmaFinder(sigmas=[0.2, 0.05, 0.1], pairs=4, prompts=2)
    _, records = run(tmp_path, finder, steps=1)
    assert [sigma for _, _, sigma in asked] == [0.05, 0.1, 0.2]
    members = asked[0][0]
    assert all(each[0] == members for each in asked)
    assert [(m.index, m.sign) for m in members] == [(n, (1, -1)[n % 2]) for n in range(8)]
    assert [m.seed for m in members[::2]] == [m.seed for m in members[1::2]]
    assert not {m.seed for m in members} & {m.seed for g in records.generations for m in g.members}
    assert asked[0][1] == ["train/0", "train/2"]
    rewards = finder.rows[1]
    assert rewards["min"] <= rewards["reward"] <= rewards["max"]


def test_a_suggestion_is_applied_with_lr_in_its_ratio_and_survives_interruptions(
    tmp_path: Path, second_is_best: list[int]
) -> None:
    def finder() -> SigmaFinder:
        return SigmaFinder(sigmas=[0.01, 0.02, 0.04], pairs=4, prompts=2, apply=True)

    whole, records = run(tmp_path / "whole", finder(), steps=3)
    assert {record.sigma for record in records.generations} == {0.02}
    assert [record.lr for record in records.generations] == pytest.approx([0.02] * 3)
    folder = tmp_path / "parts"
    every = ModelCheckpoint(folder / "checkpoints", "{step}", save_top_k=-1, every_n_train_steps=2)
    run(folder, finder(), 2, [every])
    assert len(second_is_best) == 2
    from_journal, _ = run(folder, finder(), 3, saved_journal=[])
    assert from_journal.checksum() == whole.checksum()
    (folder / "journal.jsonl").write_text(
        "\n".join((folder / "journal.jsonl").read_text().split("\n")[:3]) + "\n"
    )
    resumed = finder()
    from_checkpoint, again = run(
        folder, resumed, 3, [every], ckpt_path=str(folder / "checkpoints/step=2.ckpt")
    )
    assert from_checkpoint.checksum() == whole.checksum()
    assert [(record.sigma, record.lr) for record in again.generations] == [(0.02, pytest.approx(0.02))]
    assert len(second_is_best) == 2
    assert resumed.suggestion == 0.02


def test_dollars_in_a_folder_name_are_no_formula(tmp_path: Path) -> None:
    tuned, finder = module(base="models/$a_$"), SigmaFinder()
    tuned.trainer = SimpleNamespace(datamodule=TaskDataModule(Letters()), lightning_module=tuned)
    row = dict.fromkeys(("score", "score_low", "score_high", "reward", "min", "max"), 0.1)
    found = {"pairs": 8, "prompts": 4, "configured": 0.2, "centre": {"centre/reward": 0.1}}
    rows = [{"sigma": sigma, **row} for sigma in (0.1, 0.2, 0.4)]
    finder.load_state_dict({"suggestion": 0.1, **found, "rows": rows})
    figure = finder.figure(tuned.trainer)
    plots.save(figure, tmp_path / "picture.png")  # matplotlib refuses _ as a formula
    assert "models/$a_$" in figure.get_suptitle()


@pytest.mark.parametrize(("num", "smooths"), [(3, False), (5, True)])
def test_rows_have_the_smoothed_score_where_it_chose(tmp_path: Path, num: int, smooths: bool) -> None:
    finder = SigmaFinder(num=num, pairs=4, prompts=2, stop=True)
    run(tmp_path, finder)
    scores = torch.tensor([row["score"] for row in finder.rows], dtype=torch.float64)
    told = [row["smoothed"] for row in finder.rows if "smoothed" in row]
    assert told == (pytest.approx(smoothed(scores).tolist()) if smooths else [])


def test_lr_stays_if_it_is_asked_to(tmp_path: Path, second_is_best: list[int]) -> None:
    finder = SigmaFinder(sigmas=[0.01, 0.02, 0.04], pairs=4, apply=True, keep_ratio=False)
    _, records = run(tmp_path, finder, steps=1)
    assert (records.generations[0].sigma, records.generations[0].lr) == (0.02, 0.05)


def test_a_run_may_end_with_the_sweep(tmp_path: Path, second_is_best: list[int]) -> None:
    _, records = run(tmp_path, SigmaFinder(num=3, pairs=4, stop=True))
    assert records.generations == []
    assert (tmp_path / "tables" / "sigma_finder.json").exists()


def test_a_sweep_without_a_signal_suggests_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    actual = judge
    monkeypatch.setattr(sigma_finder, "judge", lambda *arguments: replace(actual(*arguments), p_value=0.4))
    finder = SigmaFinder(num=3, pairs=4, apply=True)
    with caplog.at_level(logging.INFO, "es_lightning"):
        tuned, _ = run(tmp_path, finder, steps=1)
    assert (finder.suggestion, tuned.sigma) == (None, 0.05)
    assert (
        "suggests no sigma: no direction is better than its opposite beyond chance (p = 0.40)" in caplog.text
    )
