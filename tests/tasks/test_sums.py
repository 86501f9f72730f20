"""Sums: which reply is right, which problems there are, and that no reply earns more than one guess."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from es_lightning.errors import UsageError
from es_lightning.records import Prompt
from es_lightning.tasks import Sums

SPLITS = ("train", "val", "test")
PROMPT = Prompt("sums/7+12", "What is 7 + 12?", reference=19)


@pytest.mark.parametrize(
    ("reply", "right"),
    [
        ("19", 1),
        ("19.", 1),
        ("7 + 12 = 19", 1),
        ("12 + 7 = 19\n\nThis is a classic", 1),
        ("7 + 10 = 17, and 17 + 2 = **19**.", 1),
        ("The answer is $19$!", 1),
        ("19.0", 1),
        ("019", 1),
        ("No, not 18: it is 19", 1),
        ("", 0),
        ("nineteen", 0),
        ("18", 0),
        ("190", 0),
        ("119", 0),
        ("1,019", 0),
        ("19.5", 0),
        ("0.19", 0),
        (".19", 0),
        ("-19", 0),
        (" 19\n3 + 4 = 7", 1),
        ("Let me add.\n\n7 + 12 = 19\nIndeed, 20 is more", 1),
        ("18\n19", 0),
        ("x" * 2000 + "19", 0),
        ("19, 18", 0),
        ("7+12=19", 1),
        ("Answer:19", 1),
        ("x19", 0),
        ("19th", 0),
        ("19/2", 0),
        ("7 + 12", 0),
        ("What is 7 + 12?", 0),
        ("7 + 12 = 19. The next one is 20", 0),
        ("15 16 17 18 19 20 21", 0),
    ],
)
def test_the_last_number_of_the_first_line_with_one_is_the_answer(reply: str, right: float) -> None:
    assert Sums().reward(PROMPT, reply) == {"reward": right, "accuracy": right}


def test_an_answer_above_a_thousand_may_have_a_comma() -> None:
    prompt = Prompt("x", "What is 900 + 312?", reference=1212)
    assert [Sums().reward(prompt, reply)["reward"] for reply in ("1,212", "1212.00", "1,2")] == [1, 1, 0]


@given(st.lists(st.integers(0, 60), max_size=40), st.sampled_from([" ", ", ", "\n", " or ", " = "]))
def test_a_list_of_guesses_is_worth_one_guess(guesses: list[int], between: str) -> None:
    right = Sums().reward(PROMPT, between.join(map(str, guesses)))["reward"]
    counts = guesses[:1] if between == "\n" else guesses[-1:]
    assert right == float(counts == [19])


@pytest.mark.parametrize(("options", "count"), [({}, 19**2), ({"largest": 9, "terms": 3}, 9**3)])
def test_the_splits_divide_all_sums_and_share_none_in_another_order(
    options: dict[str, int], count: int
) -> None:
    task, seen = Sums(**options), dict[tuple[str, ...], str]()
    problems = {split: task.problems(split) for split in SPLITS}
    for split, prompts in problems.items():
        for prompt in prompts:
            addends = sorted(prompt.text.removeprefix("What is ").removesuffix("?").split(" + "))
            assert seen.setdefault(tuple(addends), split) == split
            assert prompt.reference == sum(map(int, addends))
    assert sum(map(len, problems.values())) == count
    shares = [len(problems[split]) / count for split in SPLITS]
    assert shares == pytest.approx([0.5, 0.125, 0.375], abs=0.06)


def test_a_sum_stays_in_its_split_whatever_the_options() -> None:
    more = {split: {prompt.text for prompt in Sums(largest=40).problems(split)} for split in SPLITS}
    assert all({prompt.text for prompt in Sums().problems(split)} < more[split] for split in SPLITS)


def test_the_text_and_the_chat_template_can_be_chosen() -> None:
    raw, chat = Sums(text="{sum} =", chat=False).problems("test"), Sums().problems("test")
    assert [prompt.text for prompt in raw] == [
        prompt.text.removeprefix("What is ").replace("?", " =") for prompt in chat
    ]
    assert {prompt.chat for prompt in raw} == {False}
    assert [prompt.reference for prompt in raw] == [prompt.reference for prompt in chat]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"largest": 2}, "largest must be 3 or more"),
        ({"terms": 1}, "terms 2 or more"),
        ({"largest": 1000}, "over 100,000 sums of 2 terms"),
        ({"terms": 10**9}, "lower one of the two"),
        ({"text": "What is it?"}, r"text must hold \{sum\}"),
    ],
)
def test_options_out_of_range_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Sums(**options)
