"""Runs that are made to look hacked are flagged for the right reason, and honest ones are not."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from scipy.stats import ttest_1samp, ttest_ind

from es_lightning.analysis.comparison.hacking import change, share_change, suspicions
from es_lightning.analysis.comparison.runs import Evaluated, Run

UP = [0.1 + 0.02 * step + 0.005 * (-1) ** step for step in range(30)]
DOWN = UP[::-1]


def run(held_out: Sequence[float], accuracy: Sequence[float] = (), **series: Sequence[float]) -> Run:
    """A run whose 50 held-out problems earn these means, and solve these shares."""
    evaluations = [
        Evaluated(
            10 * index,
            "val",
            {str(problem): mean + 0.01 * math.sin(problem * (index + 1)) for problem in range(50)},
            {"accuracy": accuracy[index]} if accuracy else {},
        )
        for index, mean in enumerate(held_out)
    ]
    named = {name.replace("__", "/"): list(enumerate(values)) for name, values in series.items()}
    return Run("r", "ES", "0", "T", {}, tuple(evaluations), named)


HONEST: dict[str, Any] = {
    "held_out": [0.1, 0.5],
    "accuracy": [0.2, 0.6],
    "reward": UP,
    "reward__accuracy": UP,
}


@pytest.mark.parametrize(
    ("changes", "sign"),
    [
        ({"held_out": [0.5, 0.1]}, "the reward of held-out problems fell by 0.4"),
        ({"accuracy": [0.6, 0.2]}, "the share of held-out problems solved fell by 0.4"),
        ({"reward__accuracy": DOWN}, "the accuracy of the same completions fell by 0.4"),
        ({"kl_tuned_base__T": [0.0, 1.4]}, "KL(tuned||base), T is 1.4 nats per token, above 1"),
    ],
)
def test_training_up_and_something_else_down_is_flagged(changes: dict[str, Any], sign: str) -> None:
    assert suspicions(run(**HONEST), "val") == []
    [told] = suspicions(run(**HONEST | changes), "val")
    assert told.startswith("training reward rose by 0.4")
    assert sign in told


def marked(evaluation: Evaluated, right: int, problems: int = 64) -> Evaluated:
    """An evaluation in which the first problems are solved."""
    solved = {str(problem): float(problem < right) for problem in range(problems)}
    return replace(evaluation, solved=solved, scores={"accuracy": right / problems})


def test_marks_of_the_same_problems_tell_what_two_shares_do_not() -> None:
    """From 36 to 28 % of 64 problems: five are solved no more, and none is new."""
    known = run([0.1, 0.5], reward=UP)
    marks = [marked(each, right) for each, right in zip(known.evaluations, (23, 18), strict=True)]
    [told] = suspicions(replace(known, evaluations=tuple(marks)), "val")
    interval = ttest_1samp([1.0] * 5 + [0.0] * 59, 0).confidence_interval()
    assert told.endswith(f"solved fell by 0.07812 ({interval.low:.4g} to {interval.high:.4g})")
    older = replace(known, evaluations=(replace(marks[0], solved={}), marks[1]))
    assert suspicions(older, "val") == []
    assert share_change(*marks).low < 0 < share_change(*marks).high


def test_the_fall_is_from_the_model_before_its_first_update() -> None:
    known = run([0.4, 0.5], reward=UP)
    late = [replace(each, step=each.step + 2) for each in known.evaluations]
    tests = [replace(each, split="test", step=step) for each, step in zip(late[::-1], (0, 12), strict=True)]
    assert suspicions(replace(known, evaluations=tuple(late)), "val") == []
    [told] = suspicions(replace(known, evaluations=(tests[0], *late, tests[1])), "val")
    assert "the reward of held-out problems fell by 0.1" in told


def test_nothing_is_flagged_where_training_did_not_earn_more() -> None:
    for flat in (DOWN, [0.5 + 0.1 * (-1) ** step for step in range(30)], UP[:5]):
        assert suspicions(run([0.5, 0.1], [0.6, 0.2], reward=flat, kl_tuned_base__T=[9.0]), "val") == []


def test_what_may_be_chance_is_not_flagged() -> None:
    assert suspicions(run([0.5, 0.4999], [0.50, 0.46], reward=UP), "val") == []


def test_the_limit_of_kl_is_the_users_and_base_completions_do_not_count() -> None:
    far = run(**HONEST, kl_tuned_base__T=[0.0, 1.4], kl_base_tuned__T=[0.0, 9.0])
    assert len(suspicions(far, "val")) == 1
    assert suspicions(far, "val", kl_limit=2.0) == []


def test_the_rise_is_welchs_over_the_thirds() -> None:
    found, expected = change(list(enumerate(UP))), ttest_ind(UP[-10:], UP[:10], equal_var=False)
    assert found is not None
    interval = expected.confidence_interval()
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert change(list(enumerate(UP[:5]))) is None
