"""Accuracy against hand counts, its interval against Wilson's formula."""

import math
from typing import Any

import pytest
import torch

from es_lightning.analysis.accuracy import Accuracy, marks, population_accuracy
from es_lightning.records import Completion, Evaluation, Generation, Prompt


def evaluation(scores: list[dict[str, float]], problems: int | None = None) -> Evaluation:
    prompts = tuple(Prompt(str(i), f"problem {i}") for i in range(problems or len(scores)))
    completions = tuple(Completion(f"reply {i}", (1,), "stop") for i in range(len(scores)))
    return Evaluation(prompts, completions, tuple(scores))


@pytest.mark.parametrize(("right", "of"), [(0, 1), (1, 1), (0, 160), (55, 160), (160, 160), (3, 7)])
def test_the_interval_is_wilsons(right: int, of: int) -> None:
    z, rate = 1.959963984540054, right / of
    middle = (rate + z * z / (2 * of)) / (1 + z * z / of)
    half = z / (1 + z * z / of) * math.sqrt(rate * (1 - rate) / of + z * z / (4 * of * of))
    low, high = Accuracy(right, of).interval()
    assert (low, high) == pytest.approx((middle - half, middle + half), abs=1e-9)
    assert 0 <= low <= rate <= high <= 1


@pytest.mark.parametrize(
    ("scores", "problems", "expected"),
    [
        ([{"reward": 1.0}, {"reward": 0.0}], 2, [1, 0]),
        ([{"reward": 1.1, "accuracy": 1.0}, {"reward": 0.1, "accuracy": 0.0}], 2, [1, 0]),
        ([{"reward": -3.0, "accuracy": 1.0}, {"reward": -9.0, "failed_timeout": 1.0}], 2, [1, 0]),
        ([{"reward": 1.0}, {"reward": 0.0}, {"reward": 1.0}, {"reward": 1.0}], 2, [0.5, 1]),
        ([{"reward": 0.5}, {"reward": 0.0}], 2, None),
        ([{"reward": -3.0}], 1, None),
        ([{"reward": 1.0, "accuracy": 0.5}], 1, None),
    ],
)
def test_a_problem_is_solved_as_its_task_says(
    scores: list[dict[str, float]], problems: int, expected: list[float] | None
) -> None:
    assert marks(evaluation(scores, problems)) == expected


def generation(rewards: list[list[float]], **scores: float) -> Generation:
    rest: dict[str, Any] = dict.fromkeys(Generation.__dataclass_fields__)
    return Generation(**rest | {"rewards": torch.tensor(rewards, dtype=torch.float64), "scores": scores})


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (generation([[1, 0], [1, 1]], reward=0.75), {"accuracy": 0.75, "accuracy_best": 1.0}),
        (generation([[1, 0], [0, 0]], accuracy=0.25), {"accuracy": 0.25, "accuracy_best": 0.5}),
        (generation([[0.5, 0], [1, 1]], accuracy=0.625), {"accuracy": 0.625, "accuracy_best": 1.0}),
        (generation([[-3, -2], [-9, -9]], accuracy=0.25), {"accuracy": 0.25}),
        (generation([[-3, -2], [-9, -9]], reward=-5.75), {}),
        (generation([[1, 1], [1, 0]], reward=0.5), {}),  # pass@k: the samples' own mean is lower
        (generation([[1, 1], [1, 0]], reward=0.5, accuracy=0.5), {"accuracy": 0.5}),
    ],
)
def test_the_best_member_is_known_where_the_reward_is_the_accuracy(
    record: Generation, expected: dict[str, float]
) -> None:
    assert population_accuracy(record) == pytest.approx(expected)
