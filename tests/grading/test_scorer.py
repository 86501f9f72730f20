"""Rewards are finite numbers in the order of the completions, whatever a grader does to its process."""

from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from es_lightning.errors import RewardError, UsageError
from es_lightning.grading.scorer import Grading, Scorer
from es_lightning.records import Completion, Evaluation
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
    ("value", "expected"),
    [
        (1, 1),
        (True, 1),
        (0.5, 0.5),
        (-1e30, -1e30),
        (Fraction(1, 4), 0.25),
        (Decimal("0.25"), 0.25),
        (np.float32(0.5), 0.5),
        (np.int64(2), 2),
        (np.bool_(True), 1),
        (np.array(0.5), 0.5),
        (np.array([[2]]), 2),
        (torch.tensor(0.5), 0.5),
        (torch.tensor([[True]]), 1),
        (torch.tensor([0.5], dtype=torch.bfloat16, requires_grad=True), 0.5),
        ({"reward": 1, "accuracy": True}, 1),
    ],
)
def test_every_finite_number_is_taken(value: Any, expected: float) -> None:
    [row, _] = score(Returns(value), completions("x", "y"))
    assert isinstance(row["reward"], float)
    assert row["reward"] == expected


def test_numbers_of_libraries_are_taken_in_other_processes() -> None:
    value = {"reward": np.float32(0.5), "accuracy": torch.tensor([1])}
    assert score(Returns(value), completions("x", "y"), Grading())[0] == {"reward": 0.5, "accuracy": 1}  # type: ignore[arg-type]


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
        ("1.5", "reward = '1.5' .* that is no number"),
        (b"1", "that is no number"),
        (np.array("1"), "that is no number"),
        (np.array([1, 2]), "that is no number"),
        (torch.tensor([1.0, 2.0]), "that is no number"),
        (torch.tensor(float("nan")), "finite numbers"),
        (Decimal("NaN"), "finite numbers"),
        (1 + 0j, "that is no number"),
        ([1.0], "that is no number"),
        (1e308, r"reward = 1e\+308 .* too large, as rewards go up to 1e\+30 in size: scale it down"),
        ({"reward": 1.0, "style": -1e31}, r"style = -1e\+31 .* too large"),
        ("\x1b[2J" * 1000, r"reward = '\\x1b\[2J.{0,200}\.\.\. "),
        ({"reward": 1.0, "\x1b]0;x\x07": None}, r"\\x1b\]0;x\\x07 = None"),
    ],
)
def test_what_is_no_finite_number_stops_the_run_with_task_and_prompt(value: Any, said: str) -> None:
    gradings = [HERE] if "torch" in type(value).__module__ else [HERE, Grading(workers=1, **TOLERANT)]
    for grading in gradings:
        with pytest.raises(RewardError, match=f"task Returns .*{said}") as caught:
            score(Returns(value), completions("x", "y"), grading)
        assert "for prompt a" in str(caught.value)
        assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "options",
    [
        {"workers": -1},
        {"timeout_seconds": 0},
        {"timeout_seconds": float("nan")},
        {"max_failures": 1.5},
        {"max_failures": -0.1},
        {"failure_reward": float("nan")},
        {"failure_reward": -1e31},
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=f"data.grading.{next(iter(options))} is .*: give"):
        Grading(**options)  # type: ignore[arg-type]


# Without grading processes


class Prepared(Length):
    """Counts how often it is prepared, or cannot be."""

    def __init__(self, error: BaseException | None = None) -> None:
        super().__init__(0.0)
        self.error, self.times = error, 0

    def prepare(self) -> None:
        self.times += 1
        if self.error is not None:
            raise self.error


def test_a_task_is_prepared_once_in_the_runs_own_process() -> None:
    task = Prepared()
    scorer = Scorer(task, HERE)
    scorer.start()
    for _ in range(2):
        scorer.round(2).add(PROMPTS, completions("x", "y")).scores()
    assert task.times == 1


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("error", [OSError("no \x1b[31mdictionary"), SystemExit("no \x1b[31mdictionary")])
@pytest.mark.slow
def test_a_task_that_cannot_be_prepared_says_so(workers: int, error: BaseException) -> None:
    with pytest.raises(RewardError, match=r"the task|task Prepared cannot be prepared") as caught:
        score(Prepared(error), completions("x", "y"), Grading(workers=workers))
    assert f"{type(error).__name__}: no \\x1b[31mdictionary" in str(caught.value)
