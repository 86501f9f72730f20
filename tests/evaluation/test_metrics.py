"""Metrics that come from the completions alone."""

import pytest
import torch

from es_lightning.evaluation.gather import Shard, join, sums
from es_lightning.evaluation.metrics import evaluation_means, prompt_means, straggling
from es_lightning.records import Completion, Evaluation, Prompt


def evaluation(*lengths: int, reason: str = "stop") -> Evaluation:
    """A member's completions of these lengths."""
    prompts = tuple(Prompt(str(index), "") for index in range(len(lengths)))
    done = tuple(Completion("", tuple(range(length)), reason) for length in lengths)
    return Evaluation(prompts, done, tuple({"reward": 0.0} for _ in lengths))


@pytest.mark.parametrize(
    ("members", "share"),
    [
        ([(8, 8), (8, 8)], 0.0),
        ([(2, 4), (1, 8)], 1 - 15 / 24),  # 2 + 4 + 1 + 8 tokens in 2 * 4 + 2 * 8 places
        ([(0, 0)], None),  # nothing was said at all
    ],
)
def test_places_are_empty_while_the_longest_completion_goes_on(
    members: list[tuple[int, ...]], share: float | None
) -> None:
    whole = [evaluation(*lengths) for lengths in members]
    rewards = torch.zeros(len(members), 2, dtype=torch.float64)
    shard = Shard(0, "", "", rewards, sums(whole), 0, {"generate": 1.0})
    found = straggling(join([shard], len(members), 0).scores)
    assert found.get("time/straggling_fraction") == (None if share is None else pytest.approx(share))


def test_scored_choices_wait_for_nothing() -> None:
    assert "completion_longest" not in sums([evaluation(1, 5, reason="choice")])
    assert straggling({"completion_tokens": 3.0}) == {}


def sampled(pass_k: int = 1) -> Evaluation:
    """Two prompts with three samples each; only some completions have a second number."""
    scores = [{"reward": float(reward), "exact": reward / 2} for reward in (0, 1, 0, 1, 1, 1)]
    scores[0]["seldom"] = 1.0
    prompts = (Prompt("a", ""), Prompt("b", ""))
    done = tuple(Completion("", tuple(range(length)), "stop") for length in (1, 2, 3, 4, 5, 6))
    return Evaluation(prompts, done, tuple(scores), pass_k)


def test_numbers_are_averaged_over_each_prompts_completions() -> None:
    assert prompt_means(sampled(), "reward") == pytest.approx([1 / 3, 1])
    assert prompt_means(sampled(2), "reward") == pytest.approx([2 / 3, 1])  # two of three pairs hold the 1
    assert prompt_means(sampled(2), "exact") == pytest.approx([1 / 6, 1 / 2])
    assert prompt_means(sampled(), "completion_tokens") == [2, 5]
    assert prompt_means(sampled(), "seldom") == prompt_means(sampled(), "unknown") == []


@pytest.mark.parametrize("pass_k", [1, 2])
def test_the_mean_over_prompts_is_the_metric(pass_k: int) -> None:
    metrics = evaluation_means(sampled(pass_k), "val")
    for key in ("reward", "exact", "completion_chars"):
        assert sum(prompt_means(sampled(pass_k), key)) / 2 == pytest.approx(metrics[f"val/{key}"])
