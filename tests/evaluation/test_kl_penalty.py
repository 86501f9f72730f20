"""The KL penalty: against transformers in float64, its memory, its place in a run, and what it refuses."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from es_lightning.algorithm.noise import GaussianNoise
from es_lightning.algorithm.population import Population
from es_lightning.datamodule import TaskDataModule
from es_lightning.errors import RewardError, RolloutError, UsageError
from es_lightning.evaluation import Evaluator, Rollouts
from es_lightning.evaluation.kl_penalty import KLMeter, KLPenalty, divergences
from es_lightning.grading.scorer import Grading, Scorer
from es_lightning.journal import read_journal
from es_lightning.models import BaseModel
from es_lightning.records import Choice, Completion, Prompt
from es_lightning.rollout import HFEngine, Sampling
from tests.evaluation.test_evaluator import Place
from tests.helpers.fits import Letters, Records, fit, module, trainer

HERE, NOISE, SIGMA = Grading(workers=0), GaussianNoise(compile=False), 0.05
DRAWN = Sampling(max_tokens=6, temperature=1.0, n=2)


class Engine(HFEngine):
    """Counts the sequences that it scores, and fails when it is told to."""

    def __init__(self) -> None:
        super().__init__("float32", "cpu")
        self.calls: list[list[Sequence[int]]] = []
        self.failing: set[int] = set()

    def logprobs(self, sequences: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        self.calls.append(list(sequences))
        if len(self.calls) in self.failing:
            raise RuntimeError("out of memory")
        return super().logprobs(sequences)


Parts = tuple[BaseModel, Rollouts, Engine, list[Prompt], nn.Module]


@pytest.fixture
def parts() -> Parts:
    base, engine = BaseModel("tiny"), Engine()
    rollouts = Rollouts(engine, DRAWN)
    prompts = rollouts.reserve(base, Letters().problems("val"))
    rollouts.start(base)
    return base, rollouts, engine, prompts, base.load()


def evaluator(parts: Parts, weight: float = 0.5, ranks: Any = None, kl: KLMeter | None = None) -> Evaluator:
    kl = kl or KLMeter(KLPenalty(weight), parts[0])
    return Evaluator(parts[1], Scorer(Letters(), HERE), ranks, kl=kl)


def test_it_is_k3_of_the_samples_by_transformers_in_float64(parts: Parts) -> None:
    base, _, _, prompts, centre = parts
    members = Population(2).members(0)
    outcome = evaluator(parts).members(centre, members, NOISE, SIGMA, prompts)
    first, reference = base.load().double(), base.load().double()
    for member in members:
        with torch.no_grad():
            for name, parameter in reference.named_parameters():
                theta = centre.get_parameter(name)
                parameter.copy_(theta + NOISE.sample(member.seed, name, theta.shape) * SIGMA)
        result = outcome.evaluations[member.index]
        for i, (completion, score) in enumerate(zip(result.completions, result.scores, strict=True)):
            prompt = prompts[i // 2]
            ids = torch.tensor([prompt.token_ids + completion.token_ids])
            p, q = (
                m(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
                for m in (reference, first)
            )
            log_r = (q - p)[len(prompt.token_ids) - 1 :]
            expected = float((log_r.exp() - 1 - log_r).sum())
            assert score["kl"] == pytest.approx(expected, rel=1e-3, abs=1e-6)
            assert score["task_reward"] == Letters().reward(prompt, completion.text)["reward"]  # type: ignore[index]
            assert score["reward"] == score["task_reward"] - 0.5 * score["kl"]
    assert outcome.scores["kl"] > 0


def test_the_base_model_scores_each_pair_once_and_is_loaded_once(parts: Parts) -> None:
    _, _, engine, prompts, centre = parts
    evaluate, members = evaluator(parts), Population(3).members(0)
    outcome = evaluate.members(centre, members, NOISE, SIGMA, prompts)
    assert len(engine.calls) == 4, "three members and the base model"
    pairs = {
        (*prompts[i // 2].token_ids, *completion.token_ids)
        for result in outcome.evaluations.values()
        for i, completion in enumerate(result.completions)
    }
    assert sorted(map(tuple, engine.calls[-1])) == sorted(pairs)
    again = evaluate.members(centre, members, NOISE, SIGMA, prompts)
    assert len(engine.calls) == 7, "the base model is not asked again"
    assert torch.equal(again.rewards, outcome.rewards)


def test_the_base_model_against_itself_is_zero(parts: Parts) -> None:
    *_, prompts, centre = parts
    outcome = evaluator(parts).members(centre, Population(2).members(0), NOISE, 1e-30, prompts)
    assert outcome.scores["kl"] == 0.0
    assert outcome.scores["reward"] == outcome.scores["task_reward"]


def test_several_ranks_learn_what_one_does(parts: Parts) -> None:
    *_, prompts, centre = parts
    members, told = Population(3).members(0), [b""] * 2
    alone = evaluator(parts).members(centre, members, NOISE, SIGMA, prompts)
    outcomes: list[Any] = []
    for _ in range(2):  # in the second round both hear what the other has told in the first
        for rank in (0, 1):
            try:
                place = Place(rank, 2, told)
                outcomes.append(evaluator(parts, ranks=place).members(centre, members, NOISE, SIGMA, prompts))
            except ValueError:
                assert not all(told), "the other rank has not told anything yet"
    for outcome in outcomes[-2:]:
        assert torch.equal(outcome.rewards, alone.rewards)
        assert outcome.scores == alone.scores


@pytest.mark.parametrize("failing", [1, 3], ids=["a member's score", "the base model's"])
def test_a_score_that_fails_is_tried_again_if_asked_for(parts: Parts, failing: int) -> None:
    _, rollouts, engine, prompts, centre = parts
    members = Population(2).members(0)
    plain = evaluator(parts).members(centre, members, NOISE, SIGMA, prompts)
    engine.calls, engine.failing = [], {failing}
    with pytest.raises(RolloutError, match="out of memory"):
        evaluator(parts).members(centre, members, NOISE, SIGMA, prompts)
    engine.calls, rollouts.retry_member = [], True
    assert torch.equal(
        evaluator(parts).members(centre, members, NOISE, SIGMA, prompts).rewards, plain.rewards
    )


@pytest.mark.parametrize("log_r", [1e4, 30.0, 20.0])
def test_one_token_counts_for_no_more_than_a_bound(log_r: float) -> None:
    [found] = divergences([torch.tensor([-log_r])], [torch.tensor([0.0])])
    assert found == pytest.approx(math.exp(20) - 21)
    assert divergences([torch.empty(0)], [torch.empty(0)]) == [0.0]
    assert divergences([torch.tensor([0.0])], [torch.tensor([-50.0])]) == pytest.approx([49.0])


def test_a_failed_grade_keeps_its_reward_and_a_taken_name_is_refused() -> None:
    meter = KLMeter(KLPenalty(2.0), BaseModel("tiny"))
    good, bad = meter.charge([{"reward": 1.0}, {"reward": -1.0, "failed_timeout": 1.0}], [0.25, 3.0])
    assert good == {"reward": 0.5, "task_reward": 1.0, "kl": 0.25}
    assert bad == {"reward": -1.0, "failed_timeout": 1.0, "task_reward": -1.0, "kl": 3.0}
    with pytest.raises(RewardError, match="returns a number named kl, which model.kl_penalty logs"):
        meter.charge([{"reward": 1.0, "kl": 0.0}], [0.0])


@pytest.mark.parametrize("weight", [-0.1, math.nan, math.inf, 1e7])
def test_a_weight_outside_its_range_is_refused(weight: float) -> None:
    with pytest.raises(UsageError, match="model.kl_penalty.weight is .*: give the reward that a nat costs"):
        KLPenalty(weight)


def test_completions_without_tokens_and_small_memories(parts: Parts) -> None:
    base, rollouts, engine, prompts, centre = parts
    meter = KLMeter(KLPenalty(1.0), base)
    meter._memory._most = 500  # two short completions
    rollouts.hold_centre(centre)
    texts = [Completion("", ids, "stop") for ids in ((), (5,), (5, 6), (7,))]
    scored = meter.own(rollouts, prompts[:2], texts)
    assert [len(row) for row in scored.logprobs] == [0, 1, 2, 1]
    assert meter.measure(rollouts, centre, {3: scored}) == {3: [0.0] * 4}
    assert len(meter._memory._rows) == 2
    before = len(engine.calls)
    meter.measure(rollouts, centre, {3: scored})
    assert len(engine.calls[before]) == 1, "the one that was forgotten"


class Chosen(Letters):
    """Nothing is sampled."""

    def problems(self, split: str) -> list[Prompt]:
        return [Prompt(f"{split}/0", "x", choices=(Choice("a"), Choice("b")))]


def test_prompts_with_choices_are_refused_before_the_engine_starts(tmp_path: Path) -> None:
    refused = module(kl_penalty=KLPenalty(0.1))
    with pytest.raises(UsageError, match="needs completions, and prompt train/0 has choices"):
        trainer(tmp_path).fit(refused, TaskDataModule(Chosen(), grading=HERE))
    with pytest.raises(RuntimeError, match="not started"):
        refused.rollouts.engine.logprobs([[1, 2]])


@pytest.mark.slow
def test_a_run_logs_its_parts_resumes_and_leaves_validation_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options: dict[str, Any] = {
        "sampling": Sampling(max_tokens=6, temperature=1.0, n=3, pass_k=2),
        "kl_penalty": KLPenalty(0.3),
        "noise": NOISE,
    }
    whole, straight = fit(Letters(), tmp_path / "whole", steps=4, **options)
    header, entries = read_journal(tmp_path / "whole" / "journal.jsonl")
    assert header["identity"]["model.kl_penalty.weight"] == header["settings"]["kl_penalty"] == 0.3
    assert all(entry.scores["kl"] > 0 and "kl" in entry.seconds for entry in entries)
    metrics = whole.trainer.callback_metrics
    assert {"reward/kl", "reward/task_reward"} <= metrics.keys()
    assert not {"val/kl", "val/task_reward"} & metrics.keys()
    assert float(metrics["val/reward"]) == pytest.approx(whole.evaluate("val").reward, rel=1e-6)
    for record in straight.generations:
        for member, result in record.evaluations.items():
            assert result.pass_k == 2
            assert record.rewards[member].tolist() == result.rewards
    assert "temperature 0" not in caplog.text
    checkpoint = ModelCheckpoint(tmp_path / "kept", save_last=True)
    trainer(tmp_path / "cut", 2, [checkpoint], enable_checkpointing=True).fit(
        module(**options), TaskDataModule(Letters(), grading=HERE)
    )
    resumed, records = module(**options), Records()
    trainer(tmp_path / "cut", 4, [records], enable_checkpointing=True).fit(
        resumed, TaskDataModule(Letters(), grading=HERE), ckpt_path=tmp_path / "kept" / "last.ckpt"
    )
    assert resumed.checksum() == whole.checksum()
    other = module(**options | {"kl_penalty": None})
    with pytest.raises(UsageError, match=r"model.kl_penalty.weight was 0.3 in the run and is null now"):
        trainer(tmp_path / "cut", 5, enable_checkpointing=True).fit(
            other, TaskDataModule(Letters(), grading=HERE), ckpt_path=tmp_path / "kept" / "last.ckpt"
        )


def test_greedy_completions_are_warned_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fit(Letters(), tmp_path, steps=2, kl_penalty=KLPenalty(0.3), noise=NOISE)
    assert caplog.text.count("model.kl_penalty is measured on greedy completions") == 1
    line = json.loads((tmp_path / "journal.jsonl").read_text().splitlines()[1])
    assert line["scores"]["kl"] > 0
