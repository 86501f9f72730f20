"""What a report keeps and shows of the held-out problems."""

import json
from itertools import product
from typing import Any

import pytest

from es_lightning.analysis.accuracy import Accuracy
from es_lightning.records import Completion, Evaluation, Prompt
from es_lightning.reports import held_out

OLD = {"prompt": "problem 0", "completion": "as of 0.1.0", "reward": 0.5, "split": "test", "step": 0}


def measured(marks: str, when: str, key: str = "accuracy") -> dict[str, Any]:
    """A result in which problem i has the mark i: 1 or 0."""
    prompts = tuple(Prompt(str(i), f"problem {i}") for i in range(len(marks)))
    completions = tuple(Completion(f"{when} {i}", (1,), "stop") for i in range(len(marks)))
    scores = tuple({"reward": -7.0, key: float(mark)} for mark in marks)
    return held_out.result(Evaluation(prompts, completions, scores))


@pytest.mark.parametrize(
    ("before", "after", "kinds"),
    [
        ("0101", "0011", {"newly right": 2, "still right": 3, "newly wrong": 1}),
        ("0001", "0011", {"newly right": 2, "still right": 3, "still wrong": 0}),
        ("111", "111", {"still right": 0}),
        ("000", "000", {"still wrong": 0}),
        ("11", "00", {"newly wrong": 0}),
    ],
)
def test_a_success_something_kept_and_a_failure_are_shown(
    before: str, after: str, kinds: dict[str, int]
) -> None:
    compared = held_out.comparison(measured(before, "before"), measured(after, "after"))
    expected = [
        {"kind": kind, "prompt": f"problem {i}", "before": f"before {i}", "after": f"after {i}"}
        for kind, i in kinds.items()
    ]
    assert compared["examples"] == expected
    right = compared["held_out_accuracy"]["after"]
    assert (right["right"], right["of"]) == (after.count("1"), len(after))
    assert (right["low"], right["high"]) == Accuracy(after.count("1"), len(after)).interval()
    texts = [text for _, text in held_out.lines(compared)]
    assert texts[0].startswith(f"{before.count('1') / len(before):.3f} (")
    assert all(row[when] in texts for row in expected for when in ("prompt", "before", "after"))


def test_where_nobody_knows_what_is_right_the_first_problem_is_shown() -> None:
    compared = held_out.comparison(measured("01", "before", "length"), measured("11", "after", "length"))
    assert compared["held_out_accuracy"] == {"before": None, "after": None}
    assert [label for label, _ in held_out.lines(compared)] == ["prompt", "  before", "  after"]


def test_rewards_of_0_and_1_by_chance_are_no_accuracy() -> None:
    chance, rest = ({"reward": reward, "solved": None, "replies": []} for reward in (0.0, 0.3))
    chance["solved"] = [0, 4]
    compared = held_out.comparison(chance, rest)
    assert compared["held_out_accuracy"] == {"before": None, "after": None}


@pytest.mark.parametrize(("before", "after"), list(product([None, OLD, measured("1", "before")], repeat=2)))
def test_a_result_may_be_missing_or_of_version_0_1_0(before: Any, after: Any) -> None:
    compared = held_out.comparison(before, after)
    assert bool(compared["examples"]) == (before is not None and after is not None)
    list(held_out.lines(compared))


def test_what_checkpoints_keep_is_bounded_and_json() -> None:
    prompts = tuple(Prompt(str(i), "long " * 1000) for i in range(300))
    completions = tuple(Completion("long " * 1000, (1,), "stop") for _ in prompts)
    kept = held_out.result(Evaluation(prompts, completions, tuple({"reward": 1.0} for _ in prompts)))
    assert kept["solved"] == [300, 300]
    assert len(json.dumps(kept)) < 200_000
    assert json.loads(json.dumps(kept)) == kept
