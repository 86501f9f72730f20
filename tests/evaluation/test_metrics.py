"""Metrics that come from the completions alone."""

import pytest
import torch

from es_lightning.evaluation.gather import Shard, join, sums
from es_lightning.evaluation.metrics import straggling
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
