"""Rows of a data set are divided once and for all: no problem is in two splits, whatever comes and goes."""

import json
import pickle
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from es_lightning.errors import UsageError
from es_lightning.records import Prompt
from es_lightning.tasks.datasets import rows as rows_module
from es_lightning.tasks.datasets.rows import RowTask
from es_lightning.tasks.datasets.sources import SPLITS, UNKNOWN, Row

MANY = 3000
ALPHA = 1e-6
"""Of so many fair runs of this suite one would fail for a share of rows that is out of bounds."""


class Quiz(RowTask):
    """Problems are the same if their questions are; a family is what stands before the colon."""

    def key(self, row: Row) -> str:
        return row["question"]

    def family(self, row: Row) -> str:
        return row["question"].partition(":")[0]

    def prompt(self, row: Row, name: str) -> Prompt:
        return Prompt(name, row["question"], row["answer"].strip())

    def keep(self, row: Row, split: str) -> bool:
        return not (split == "train" and row["answer"] == "too easy")

    def reward(self, prompt: Prompt, completion: str) -> float:
        return float(completion == prompt.reference)


def quiz(found: dict[str, list[Row]], **limits: int | None) -> Quiz:
    """A task whose rows are read already."""
    task = Quiz("own.jsonl", **limits)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_module, "read_rows", lambda data, source: found)
        task.problems("train")
    return task


def texts(found: dict[str, list[Row]], **limits: int | None) -> dict[str, list[str]]:
    task = quiz(found, **limits)
    return {split: [prompt.text for prompt in task.problems(split)] for split in SPLITS}


def rows(*questions: str) -> list[Row]:
    return [{"question": question, "answer": "a"} for question in questions]


def numbered(count: int) -> list[Row]:
    return rows(*(f"{i}: what?" for i in range(count)))


def normal(text: str) -> str:
    return " ".join(text.lower().split())


questions = st.lists(st.text("aAb: \n", max_size=4), max_size=12).map(lambda words: rows(*words))
mixes = st.dictionaries(st.sampled_from([*SPLITS, UNKNOWN]), questions)


@given(mixes)
def test_every_problem_is_in_one_split_and_there_once(found: dict[str, list[Row]]) -> None:
    divided = [normal(text) for part in texts(found).values() for text in part]
    assert len(divided) == len(set(divided))
    assert set(divided) == {normal(row["question"]) for part in found.values() for row in part}


@given(mixes)
def test_named_splits_come_first_and_only_train_may_give(found: dict[str, list[Row]]) -> None:
    divided = {split: {normal(text) for text in part} for split, part in texts(found).items()}
    named = {split: {normal(row["question"]) for row in found.get(split, [])} for split in SPLITS}
    assert named["test"] <= divided["test"]
    assert named["val"] - named["test"] <= divided["val"]
    assert named["train"] - named["val"] - named["test"] <= divided["train"] | divided["val"]
    if "val" in found:
        assert named["train"] - named["val"] - named["test"] <= divided["train"]


@given(mixes, st.randoms(use_true_random=False))
def test_the_division_is_the_same_in_any_order(found: dict[str, list[Row]], rng: random.Random) -> None:
    shuffled = {split: rng.sample(part, len(part)) for split, part in found.items()}
    before, after = texts(found), texts(dict(reversed(shuffled.items())))
    for split in SPLITS:
        assert {normal(text) for text in before[split]} == {normal(text) for text in after[split]}


@given(questions, questions)
def test_rows_stay_where_they_are_when_others_come(old: list[Row], new: list[Row]) -> None:
    for name in (UNKNOWN, "train"):
        before, after = texts({name: old}), texts({name: new + old})
        for split in SPLITS:
            assert {normal(text) for text in before[split]} <= {normal(text) for text in after[split]}


def test_a_problem_is_kept_in_test_rather_than_val_rather_than_train() -> None:
    found = {
        "train": rows("a", "b", "c", "Only  train"),
        "val": rows("B", "c", "only val", "only\nval"),
        "test": rows(" C "),
        UNKNOWN: rows("a", "c"),
    }
    assert texts(found) == {"train": ["a", "Only  train"], "val": ["B", "only val"], "test": [" C "]}


@pytest.mark.parametrize(
    ("name", "shares"),
    [
        (UNKNOWN, {"train": 0.8, "val": 0.1, "test": 0.1}),
        ("train", {"train": 0.9, "val": 0.1, "test": 0.0}),
    ],
)
def test_a_tenth_of_what_could_be_train_is_val(name: str, shares: dict[str, float]) -> None:
    for split, part in texts({name: numbered(MANY)}).items():
        low, high = binom.interval(1 - ALPHA, MANY, shares[split])
        assert low <= len(part) <= high


def test_a_val_split_that_is_there_gets_nothing_from_train() -> None:
    divided = texts({"train": numbered(300), "val": rows("mine")})
    assert [len(part) for part in divided.values()] == [300, 1, 0]


def test_splits_that_are_not_there_stay_empty() -> None:
    assert texts({"test": numbered(50)})["train"] == []
    assert texts({}) == {split: [] for split in SPLITS}


@pytest.mark.parametrize("name", [UNKNOWN, "train"])
def test_families_stay_together(name: str) -> None:
    found = rows(*(f"family {i // 3}: {i}" for i in range(900)))
    families = [{text.partition(":")[0] for text in part} for part in texts({name: found}).values()]
    assert sum(map(len, families)) == 300
    assert len(families[1]) > 5


# Limits


@given(st.integers(0, 120), st.integers(0, 120), st.randoms(use_true_random=False))
def test_a_limit_takes_a_part_in_order_and_a_larger_one_the_same_and_more(
    small: int, large: int, rng: random.Random
) -> None:
    small, large = sorted((small, large))
    found = {"train": (train := numbered(100)), "val": rows("x"), "test": rows("y", "z")}
    everything = [row["question"] for row in train]
    few, more = texts(found, n_train=small)["train"], texts(found, n_train=large)["train"]
    assert (len(few), len(more)) == (min(small, 100), min(large, 100))
    assert [text for text in more if text in few] == few
    assert [text for text in everything if text in more] == more
    mixed = texts({**found, "train": rng.sample(train, 100)}, n_train=small)["train"]
    assert set(mixed) == set(few)


def test_a_limit_takes_rows_from_all_over_the_data() -> None:
    taken = texts({"train": numbered(1000), "val": rows("x")}, n_train=100)["train"]
    first_half = sum(int(text.partition(":")[0]) < 500 for text in taken)
    low, high = binom.interval(1 - ALPHA, 100, 0.5)
    assert low <= first_half <= high


def test_limits_are_of_their_own_split() -> None:
    found = {"train": numbered(20), "val": rows("a", "b", "c"), "test": rows("x", "y", "z")}
    sizes = {split: len(part) for split, part in texts(found, n_train=5, n_val=0, n_test=2).items()}
    assert sizes == {"train": 5, "val": 0, "test": 2}


@pytest.mark.parametrize("split", SPLITS)
def test_a_limit_below_0_is_refused(split: str) -> None:
    with pytest.raises(UsageError, match=f"n_{split} is -1: give 0 or more, or null for all"):
        Quiz("own.jsonl", **{f"n_{split}": -1})


# Prompts


def test_prompts_are_made_of_rows_and_numbered_by_split() -> None:
    found = {"train": rows("a"), "val": rows("b", "c"), "test": []}
    assert quiz(found).problems("val") == [
        Prompt("quiz/val/0", "b", "a"),
        Prompt("quiz/val/1", "c", "a"),
    ]


def test_rows_that_a_task_leaves_out_are_left_out_of_their_split_alone() -> None:
    easy = [{"question": "q", "answer": "too easy"}]
    assert texts({"train": easy, "val": []}) == {"train": [], "val": [], "test": []}
    assert texts({"test": easy})["test"] == ["q"]
    assert texts({"train": easy + rows("r"), "val": []}, n_train=1)["train"] == ["r"]  # before the limit


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"quest": "mine"}, "KeyError: 'question'"),
        ({"question": "mine"}, "KeyError: 'answer'"),
        ({"question": "mine", "answer": 4}, "AttributeError"),
        ({"question": "mine", "other": "x" * 10_000}, "KeyError: 'answer'"),
    ],
)
@pytest.mark.parametrize("split", [*SPLITS, UNKNOWN])
def test_a_row_that_cannot_be_read_is_shown_with_the_reason(row: Row, reason: str, split: str) -> None:
    with pytest.raises(UsageError, match="task Quiz cannot read the row .*'mine'") as error:
        quiz({split: [*rows("fine"), row]})
    assert reason in str(error.value)
    assert str(error.value).endswith("compare it with the row format in the task's docstring.")
    assert len(str(error.value)) < 500
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("split", ["validation", "", "Train"])
def test_an_unknown_split_is_refused(split: str) -> None:
    with pytest.raises(UsageError, match=f"must be train, val or test, not {split!r}"):
        quiz({}).problems(split)


def test_rows_are_read_once_and_stay_here_when_a_task_is_pickled(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps({"question": "a" * 100_000, "answer": "b", "split": "test"}))
    task = Quiz(str(path))
    problems = task.problems("test")
    pickled = pickle.dumps(task)
    assert len(pickled) < 1000
    copy = pickle.loads(pickled)
    assert copy.problems("test") == problems
    assert copy.reward(problems[0], "b") == 1
    path.unlink()
    assert task.problems("test") == problems
