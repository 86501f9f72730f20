"""Conciseness: the reward against hand counts, and the quality of the questions."""

import re
from collections import Counter
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from es_lightning.errors import UsageError
from es_lightning.records import Prompt
from es_lightning.tasks import Conciseness

SPLITS = ("train", "val", "test")
TASK = Conciseness()
CAPITAL = Prompt(id="x", text="What is the capital of France?", reference="Paris")


def all_rows() -> list[tuple[str, Prompt]]:
    return [(split, prompt) for split in SPLITS for prompt in TASK.problems(split)]


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.casefold())


# Words that say nothing about what is asked for.
FILLERS = frozenset(
    words(
        "a an and are called city do does give have how in into is it many mean much name of on put say that "
        "the there they to translate what when which whole word you"
    )
)


def kind(prompt: Prompt) -> str:
    return prompt.id.split("/")[-1].split("-")[0]


@pytest.mark.parametrize(
    ("completion", "reward", "accuracy"),
    [
        ("Paris", 0, 1),
        ("  Paris\n", 0, 1),  # white space around is not counted
        ("Paris.", -1, 1),
        ("The capital of France is Paris.", -26, 1),
        ("", -5, 0),
        ("Rome", -1, 0),
        ("Hello", 0, 0),  # the reward looks at the length alone
        ("paris", 0, 1),
        ("Parisian", -3, 0),
        ("**Paris**", -4, 1),
        ("Pa ris", -1, 0),
    ],
)
def test_hand_counts(completion, reward, accuracy):
    assert TASK.reward(CAPITAL, completion) == {"reward": reward, "accuracy": accuracy}


@pytest.mark.parametrize(
    ("reference", "completion", "accuracy"),
    [
        ("8", "3 + 5 = 8.", 1),
        ("8", "It is 18", 0),
        ("8", "It is 8.5", 0),
        ("8", "It is 3.8", 0),
        ("8", "It is 1,8", 0),
        ("8", "It is 8, of course", 1),
        ("No", "I do not know", 0),
        ("No", "No, it cannot.", 1),
        ("H2O", "h2o", 1),
        ("blue whale", "A Blue\n  Whale.", 1),
        ("c++", "c++ (a language)", 1),
        ("c.a", "A cxa is no c.b", 0),  # a reference is no pattern
    ],
)
def test_accuracy_wants_the_whole_word(reference, completion, accuracy):
    prompt = Prompt(id="x", text="?", reference=reference)
    assert TASK.reward(prompt, completion)["accuracy"] == accuracy


@given(st.text())
def test_reward_is_the_difference_in_characters_and_ignores_the_prompt(completion):
    first = TASK.reward(CAPITAL, completion)
    longer = Prompt(id="y", text=CAPITAL.text * 50, reference="Paris", prefill="Well: ")
    assert first["reward"] == -abs(len(completion.strip()) - 5)
    assert first["accuracy"] in (0.0, 1.0)
    assert first == TASK.reward(longer, completion)


def test_sizes_and_every_kind_in_every_split():
    counts = Counter((split, kind(prompt)) for split, prompt in all_rows())
    kinds = {name for _, name in counts}
    assert len(kinds) == 16
    for split, each in {"train": 6, "val": 2, "test": 4}.items():
        assert {name: counts[split, name] for name in kinds} == dict.fromkeys(kinds, each)


def test_yes_and_no_are_balanced_in_every_split():
    for split in SPLITS:
        answers = Counter(p.reference for p in TASK.problems(split) if kind(p) == "yesno")
        assert answers["Yes"] == answers["No"] > 0


def test_no_question_is_asked_twice_in_other_words():
    bags = [frozenset(words(prompt.text)) - FILLERS for _, prompt in all_rows()]
    assert all(bags)
    assert len(set(bags)) == len(bags)


def test_no_question_with_the_same_answer_is_nearly_the_same():
    for (_, first), (_, second) in combinations(all_rows(), 2):
        if first.reference == second.reference:
            one, two = (frozenset(words(prompt.text)) - FILLERS for prompt in (first, second))
            assert len(one & two) / len(one | two) < 0.7, (first.text, second.text)


def test_questions_are_short_plain_and_do_not_tell_the_answer():
    for _, prompt in all_rows():
        assert prompt.text.isascii()
        assert prompt.text.endswith(("?", "."))
        assert 1 <= len(prompt.reference) <= 10
        assert prompt.reference == prompt.reference.strip()
        assert TASK.reward(prompt, prompt.text)["accuracy"] == 0, prompt.text


def test_sums_and_products_are_right():
    signs = {"plus": "+", "minus": "-", "times": "*", "x": "*", "divided": "/"}
    compute = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__, "/": int.__floordiv__}
    checked = 0
    for _, prompt in all_rows():
        found = re.search(r"(\d+) (plus|minus|times|x|divided|\+|-)(?: by)? (\d+)\?$", prompt.text)
        if found:
            left, sign, right = found.groups()
            value = compute[signs.get(sign, sign)](int(left), int(right))
            assert prompt.reference == str(value), prompt.text
            checked += 1
    assert checked >= 12


def test_paper_variant_holds_the_prompts_of_the_paper():
    task = Conciseness("paper")
    assert [p.reference for p in task.problems("train")] == ["8", "No"]
    assert task.problems("val") == []
    expected = ["Paris", "84", "True", "10", "Hola", "30", "Red", "7"]
    assert [p.reference for p in task.problems("test")] == expected


def test_the_variants_share_no_question():
    paper = {tuple(words(p.text)) for split in SPLITS for p in Conciseness("paper").problems(split)}
    assert not paper & {tuple(words(prompt.text)) for _, prompt in all_rows()}


@pytest.mark.parametrize(
    ("completion", "reward"),
    [("Paris", 0), ("The capital of France is Paris.", -26), ("Rome", -101), ("", -105), ("Hello", -100)],
)
def test_a_wrong_reply_costs_as_much_as_so_many_characters(completion, reward):
    accuracy = TASK.reward(CAPITAL, completion)["accuracy"]
    assert Conciseness(wrong_costs=100).reward(CAPITAL, completion) == {
        "reward": reward,
        "accuracy": accuracy,
    }


def test_with_costs_a_right_reply_is_worth_more_than_a_shorter_wrong_one():
    task, hacked = Conciseness(wrong_costs=200), Conciseness()
    wrong, right = "The capital of Canada is Toronto.", "The capital of Canada is Ottawa, Canada."
    prompt = Prompt(id="x", text="What is the capital of Canada?", reference="Ottawa")
    assert hacked.reward(prompt, wrong)["reward"] > hacked.reward(prompt, right)["reward"]
    assert task.reward(prompt, wrong)["reward"] < task.reward(prompt, right)["reward"]


@pytest.mark.parametrize("costs", [-1, float("inf"), float("nan")])
def test_costs_out_of_range(costs):
    with pytest.raises(UsageError, match="wrong_costs must be a number of characters, 0 or more"):
        Conciseness(wrong_costs=costs)


def test_unknown_variant():
    with pytest.raises(UsageError, match="variant must be questions or paper, not 'short'"):
        Conciseness("short")
