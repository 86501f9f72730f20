"""Rewards are finite numbers in the order of the completions, whatever a grader does to its process."""

import numpy as np
import pytest

from es_lightning.errors import RewardError, UsageError
from es_lightning.grading.scorer import Grading
from es_lightning.records import Completion, Evaluation
from es_lightning.task import Reward
from tests.helpers.graders import HERE, PROMPTS, TOLERANT, Length, Returns, completions, score


@pytest.mark.parametrize("grading", [HERE, Grading()], ids=["here", "pool"])
def test_scores_come_in_the_order_of_the_completions(grading: Grading) -> None:
    scores = score(Length(0.0), completions("x", "xxx", "xx", ""), grading)
    assert [row["reward"] for row in scores] == [1, 3, 2, 0]
    assert [row["prompt"] for row in scores] == [0, 0, 1, 1]


def test_choices_are_graded_by_their_log_probabilities() -> None:
    chosen = [Completion("b", (1,), "choice", (-2.0, -1.5)), Completion("c", (1,), "choice", (-3.0,))]
    for grading in (HERE, Grading()):
        assert [row["reward"] for row in score(Length(0.0), chosen, grading)] == [-1.5, -3.0]


def test_rewards_average_over_the_samples_of_a_prompt() -> None:
    texts = completions("x", "xxx", "xx", "")
    evaluation = Evaluation(tuple(PROMPTS), tuple(texts), score(Length(0.0), texts))
    assert evaluation.rewards == [2, 1]
    assert evaluation.reward == 1.5
    assert evaluation.tokens == 4


@pytest.mark.parametrize(
    "value", [1, True, 0.5, np.float32(0.5), np.int64(2), {"reward": 1, "accuracy": True}]
)
def test_every_finite_number_is_taken(value: Reward) -> None:
    for grading in (HERE, Grading()):
        row = score(Returns(value), completions("x", "y"), grading)[0]
        assert isinstance(row["reward"], float)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (float("nan"), "reward = nan"),
        (float("inf"), "reward = inf"),
        ({"reward": 1.0, "style": float("-inf")}, "style = -inf"),
        ({"accuracy": 1.0}, "'reward' is missing"),
        ("one", "reward = 'one'"),
        (None, "reward = None"),
        (10**400, "that is no number"),
    ],
)
def test_what_is_no_finite_number_stops_the_run_with_task_and_prompt(value: Reward, said: str) -> None:
    for grading in (HERE, Grading(**TOLERANT)):
        with pytest.raises(RewardError, match=f"task Returns .*{said}.* prompt a|prompt a.*{said}"):
            score(Returns(value), completions("x", "y"), grading)


@pytest.mark.parametrize(
    "options",
    [
        {"workers": -1},
        {"timeout_seconds": 0},
        {"timeout_seconds": float("nan")},
        {"max_failures": 1.5},
        {"max_failures": -0.1},
        {"failure_reward": float("nan")},
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=f"data.grading.{next(iter(options))} is .*: give"):
        Grading(**options)  # type: ignore[arg-type]
