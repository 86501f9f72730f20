"""The evaluator without a Trainer, against transformers and the task itself; alone and as one of two."""

from typing import Any

import pytest
import torch
from torch import nn

from es_lightning.algorithm.noise import GaussianNoise
from es_lightning.algorithm.population import Population
from es_lightning.distributed.ranks import Lane, Ranks
from es_lightning.errors import DivergenceError, RankError, RewardError, RolloutError
from es_lightning.evaluation import Evaluator, Progress, Rollouts
from es_lightning.grading.scorer import Grading, Scorer
from es_lightning.models import BaseModel
from es_lightning.records import Prompt
from es_lightning.rollout import HFEngine, Sampling
from es_lightning.system.stopwatch import Stopwatch
from es_lightning.task import Reward
from tests.helpers.letters import Letters

HERE, NOISE, SIGMA = Grading(workers=0), GaussianNoise(compile=False), 0.05


class Place(Ranks):
    """One of several ranks in one process: it tells what it is told to tell, and hears all of it."""

    def __init__(self, rank: int, world: int, told: list[bytes]) -> None:
        super().__init__()
        self.rank, self.world, self.told = rank, world, told

    @property
    def lane(self) -> Lane:
        return Lane(self.rank, self.world)

    def exchange(self, payload: bytes) -> list[bytes]:
        self.told[self.rank] = payload
        return self.told


@pytest.fixture(scope="module")
def parts() -> tuple[BaseModel, Rollouts, list[Prompt], nn.Module]:
    base, rollouts = BaseModel("tiny"), Rollouts(HFEngine("float32", "cpu"), Sampling(max_tokens=6))
    prompts = rollouts.reserve(base, Letters().problems("val"))
    rollouts.start(base)
    return base, rollouts, prompts, base.load()


def test_ten_lines_evaluate_a_member_on_a_task(parts: Any) -> None:
    base, rollouts, prompts, centre = parts
    task, members = Letters(), Population(4, run_seed=3, antithetic=True).members(5)
    outcome = Evaluator(rollouts, Scorer(task, HERE)).members(centre, members, NOISE, SIGMA, prompts)
    reference, tokens = base.load(), 0
    for member in members:
        with torch.no_grad():
            for name, parameter in reference.named_parameters():
                eps = NOISE.sample(member.seed, name, parameter.shape)
                parameter.copy_(centre.get_parameter(name) + eps * (member.sign * SIGMA))
        for place, prompt in enumerate(prompts):
            ids = torch.tensor([prompt.token_ids])
            answer = reference.generate(ids, do_sample=False, max_new_tokens=6)[0, ids.shape[1] :]
            text = base.tokenizer.decode(answer, skip_special_tokens=True)
            earned = task.reward(prompt, text)
            assert isinstance(earned, dict)
            assert float(outcome.rewards[member.index, place]) == earned["reward"]
            tokens += len(answer)
    assert outcome.rewards.dtype == torch.float64
    assert outcome.tokens == tokens
    assert list(outcome.evaluations) == [0, 1, 2, 3]
    assert outcome.scores["reward"] == pytest.approx(float(outcome.rewards.mean()), rel=1e-12)


def test_several_ranks_learn_what_one_does(parts: Any) -> None:
    _, rollouts, prompts, centre = parts
    members = Population(5).members(0)
    alone = Evaluator(rollouts, Scorer(Letters(), HERE)).members(centre, members, NOISE, SIGMA, prompts)
    told = [b""] * 2
    for _ in range(2):  # in the second round both hear what the other has told in the first
        outcomes = []
        for rank in (0, 1):
            evaluator = Evaluator(rollouts, Scorer(Letters(), HERE), Place(rank, 2, told))
            try:
                outcomes.append(evaluator.members(centre, members, NOISE, SIGMA, prompts))
            except ValueError:
                assert not all(told), "the other rank has not told anything yet"
    for rank, outcome in enumerate(outcomes):
        assert torch.equal(outcome.rewards, alone.rewards)
        assert outcome.scores == alone.scores
        assert outcome.tokens == alone.tokens
        assert list(outcome.evaluations) == list(range(rank, 5, 2))


def test_phases_are_timed(parts: Any) -> None:
    _, rollouts, prompts, centre = parts
    watch, evaluator = Stopwatch(), Evaluator(rollouts, Scorer(Letters(), HERE))
    outcome = evaluator.members(centre, Population(2).members(0), NOISE, SIGMA, prompts, watch=watch)
    assert list(watch.seconds) == ["perturb", "load", "generate", "reward", "gather"]
    assert min(watch.seconds.values()) >= 0
    assert outcome.seconds["generate"] == watch.seconds["generate"] > 0
    assert outcome.lane_seconds == (sum(outcome.seconds.values()),)


def test_held_weights_are_scored_sampled_and_read(parts: Any) -> None:
    base, rollouts, prompts, centre = parts
    evaluator = Evaluator(rollouts, Scorer(Letters(), HERE))
    rollouts.hold_base(base, centre)
    evaluation = evaluator.evaluate(prompts, max_tokens=3)
    assert [len(completion.token_ids) for completion in evaluation.completions] == [3] * 4
    rewards = [
        Letters().reward(p, c.text)["reward"] for p, c in zip(prompts, evaluation.completions, strict=True)
    ]  # type: ignore[index]
    assert evaluation.rewards == rewards
    drawn = [evaluator.sample(prompts, 8, 1.0, seed) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    later = Evaluator(rollouts, Scorer(Letters(), HERE), generation=1)
    assert later.sample(prompts, 8, 1.0, 0) == drawn[2], "the generation is added to the seed"
    ids = list(prompts[0].token_ids)
    [logprobs] = evaluator.logprobs([ids])
    logits = centre(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
    torch.testing.assert_close(logprobs, logits[range(len(ids) - 1), ids[1:]], atol=1e-5, rtol=0)


class Infinite(Letters):
    """Earns what no run goes on with."""

    def reward(self, prompt: Prompt, completion: str) -> Reward:
        return float("inf")


def test_a_failure_is_told_to_the_other_ranks_before_this_one_stops(parts: Any) -> None:
    _, rollouts, prompts, centre = parts
    told, members = [b""] * 2, Population(2).members(4)
    failing = Evaluator(rollouts, Scorer(Infinite(), HERE), Place(0, 2, told), generation=4)
    with pytest.raises(RewardError, match="rewards must be finite numbers. It was member 0 of generation 4"):
        failing.members(centre, members, NOISE, SIGMA, prompts)
    other = Evaluator(rollouts, Scorer(Letters(), HERE), Place(1, 2, told), generation=4)
    with pytest.raises(RankError, match="rank 0 failed in generation 4: task Infinite returned"):
        other.members(centre, members, NOISE, SIGMA, prompts)


def test_an_engine_that_fails_leaves_the_centre_alone(parts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, rollouts, prompts, centre = parts
    before = [parameter.clone() for parameter in centre.parameters()]
    monkeypatch.setattr(rollouts.engine, "generate", lambda *_: 1 / 0)
    with pytest.raises(RolloutError, match="ZeroDivisionError"):
        Evaluator(rollouts, Scorer(Letters(), HERE)).members(
            centre, Population(2).members(0), NOISE, SIGMA, prompts
        )
    assert all(torch.equal(a, b) for a, b in zip(before, centre.parameters(), strict=True))


def test_progress_is_told_member_by_member(parts: Any) -> None:
    _, rollouts, prompts, centre = parts
    told, heard = [b""] * 2, []
    rollouts.announcer.listen(heard.append)
    try:
        Evaluator(rollouts, Scorer(Letters(), HERE)).members(
            centre, Population(3).members(0), NOISE, SIGMA, prompts
        )
        alone, heard[:] = list(heard), []
        with pytest.raises(ValueError, match="Expecting value"):  # the other rank tells nothing
            Evaluator(rollouts, Scorer(Letters(), HERE), Place(1, 2, told)).members(
                centre, Population(3).members(0), NOISE, SIGMA, prompts
            )
    finally:
        rollouts.announcer.leave(heard.append)
    # Without workers a member is graded at once, which is noticed when the next one comes.
    members, graded = [0, 1, 2, 3, 3, 3, 3], [0, 0, 4, 8, 12, 12, 12]
    assert alone == [Progress(m, 3, g, 12) for m, g in zip(members, graded, strict=True)]
    assert heard == [Progress(0, 1, 0, 4, 2), Progress(1, 1, 0, 4, 2), Progress(1, 1, 4, 4, 2)]


def test_a_member_that_diverges_is_told_to_the_other_ranks(parts: Any) -> None:
    _, rollouts, prompts, centre = parts
    told, members = [b""] * 2, Population(2).members(4)
    failing = Evaluator(rollouts, Scorer(Letters(), HERE), Place(0, 2, told), generation=4)
    with pytest.raises(DivergenceError, match="member 0 of generation 4"):
        failing.members(centre, members, NOISE, 1e39, prompts)
    other = Evaluator(rollouts, Scorer(Letters(), HERE), Place(1, 2, told), generation=4)
    with pytest.raises(RankError, match="rank 0 failed in generation 4: the log-probabilities of tokens are"):
        other.members(centre, members, NOISE, SIGMA, prompts)
