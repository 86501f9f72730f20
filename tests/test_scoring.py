"""Rewards are finite numbers, or the run stops and names the culprit."""

import numpy as np
import pytest

from es_lightning.errors import RewardError
from es_lightning.generation import Completion, Evaluation, Prompt
from es_lightning.scoring import score
from es_lightning.task import Reward, Task

PROMPTS = [Prompt("a", "first"), Prompt("b", "second")]


class Returns(Task):
    """Earns what it is given."""

    def __init__(self, value: Reward) -> None:
        self.value = value

    def problems(self, split: str) -> list[Prompt]:
        return PROMPTS

    def reward(self, prompt: Prompt, completion: str) -> Reward:
        return self.value


class Length(Returns):
    """Earns the length of the completion."""

    def reward(self, prompt: Prompt, completion: str) -> Reward:
        return float(len(completion))


def completions(*texts: str) -> list[Completion]:
    return [Completion(text, (1,), "stop") for text in texts]


def test_scores_come_in_the_order_of_the_completions() -> None:
    scores = score(Length(0.0), PROMPTS, completions("x", "xxx", "xx", ""))
    assert [row["reward"] for row in scores] == [1, 3, 2, 0]


def test_rewards_average_over_the_samples_of_a_prompt() -> None:
    texts = completions("x", "xxx", "xx", "")
    evaluation = Evaluation(tuple(PROMPTS), tuple(texts), tuple(score(Length(0.0), PROMPTS, texts)))
    assert evaluation.rewards == [2, 1]
    assert evaluation.reward == 1.5
    assert evaluation.tokens == 4


@pytest.mark.parametrize(
    "value", [1, True, 0.5, np.float32(0.5), np.int64(2), {"reward": 1, "accuracy": True}]
)
def test_every_finite_number_is_taken(value: Reward) -> None:
    row = score(Returns(value), PROMPTS[:1], completions("x"))[0]
    assert isinstance(row["reward"], float)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"reward": 1.0, "style": float("-inf")}])
def test_what_is_not_finite_stops_with_task_and_prompt(value: Reward) -> None:
    with pytest.raises(RewardError, match="task Returns .* prompt b"):
        score(_Second(value), PROMPTS, completions("x", "y"))


class _Second(Returns):
    """Misbehaves on the second prompt alone; its name in messages is that of its base."""

    name = "Returns"

    def reward(self, prompt: Prompt, completion: str) -> Reward:
        return self.value if prompt.id == "b" else 1.0


def test_a_mapping_without_reward_is_refused() -> None:
    with pytest.raises(RewardError, match="'reward' is missing"):
        score(Returns({"accuracy": 1.0}), PROMPTS[:1], completions("x"))
