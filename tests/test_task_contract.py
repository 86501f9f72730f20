"""What every task must keep to. A new task adds one row per variant to ``CASES``."""

import json
import math
import operator
import random
import string
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from es_lightning.generation import Prompt
from es_lightning.task import Reward, Task
from es_lightning.tasks import Conciseness, Countdown

SPLITS = ("train", "val", "test")
SIGNS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}


@dataclass(frozen=True)
class Case:
    """One task variant.

    Args:
        make: builds the task; called again where a test needs a second, fresh one.
        best: from a problem to a completion that earns ``maximum``.
        maximum: the largest reward there is.
        empty: splits that hold no problem, as the task's docstring says.
    """

    make: Callable[[], Task]
    best: Callable[[Prompt], str]
    maximum: float
    empty: tuple[str, ...] = ()


def solved_countdown(prompt: Prompt) -> str:
    """A reply with a solution of a countdown problem, found by trying everything."""
    parts = [(Fraction(number), str(number)) for number in prompt.reference["numbers"]]
    return f" So it is.</think>\n<answer>{solution(parts, prompt.reference['target'])}</answer>"


def solution(parts: list[tuple[Fraction, str]], target: int) -> str | None:
    """Text of an expression that joins all parts (value, text) into the target; None if there is none."""
    if len(parts) == 1:
        return parts[0][1] if parts[0][0] == target else None
    for first, second in permutations(parts, 2):
        rest = [part for part in parts if part is not first and part is not second]
        for sign, operate in SIGNS.items():
            if sign != "/" or second[0] != 0:
                joined = (operate(first[0], second[0]), f"({first[1]} {sign} {second[1]})")
                found = solution([*rest, joined], target)
                if found is not None:
                    return found
    return None


CASES = {
    "conciseness": Case(Conciseness, lambda prompt: prompt.reference, 0.0),
    "conciseness-paper": Case(lambda: Conciseness("paper"), lambda prompt: prompt.reference, 0.0, ("val",)),
    "countdown": Case(lambda: Countdown(n_train=12, n_val=8, n_test=12), solved_countdown, 1.1),
    "countdown-raw": Case(lambda: Countdown(4, 4, 4, numbers=[3], seed=5, chat=False), solved_countdown, 1.1),
}


@pytest.fixture(params=CASES.values(), ids=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


def everything(task: Task) -> list[Prompt]:
    return [prompt for split in SPLITS for prompt in task.problems(split)]


@cache
def built(name: str) -> tuple[Task, list[Prompt]]:
    """The task of a row and its problems, made once for all generated examples."""
    task = CASES[name].make()
    return task, everything(task)


def numbers_of(reward: Reward) -> dict[str, float]:
    return reward if isinstance(reward, dict) else {"reward": reward}


def worth(task: Task, prompt: Prompt, completion: str) -> float:
    return numbers_of(task.reward(prompt, completion))["reward"]


def noise(rng: random.Random) -> str:
    """Printable characters without meaning, longer than any short answer."""
    return "".join(rng.choices(string.printable, k=rng.randint(40, 300)))


def test_splits_hold_prompts_with_text(case):
    task = case.make()
    for split in SPLITS:
        prompts = task.problems(split)
        assert (not prompts) == (split in case.empty)
        assert all(isinstance(p, Prompt) and p.text.strip() and not p.token_ids for p in prompts)


def test_ids_are_unique(case):
    ids = [prompt.id for prompt in everything(case.make())]
    assert len(set(ids)) == len(ids)


def test_splits_do_not_overlap_by_text(case):
    texts = [" ".join(prompt.text.casefold().split()) for prompt in everything(case.make())]
    assert len(set(texts)) == len(texts)


def test_references_are_json(case):
    for prompt in everything(case.make()):
        assert json.loads(json.dumps(prompt.reference)) == prompt.reference


def test_problems_are_the_same_every_time(case):
    task = case.make()
    first = everything(task)
    assert everything(task) == first
    assert everything(case.make()) == first
    fresh = case.make()
    backwards = {split: fresh.problems(split) for split in reversed(SPLITS)}
    assert [prompt for split in SPLITS for prompt in backwards[split]] == first


@pytest.mark.parametrize("split", ["dev", "", "Train", "training"])
def test_unknown_split_names_the_three(case, split):
    with pytest.raises(ValueError, match="train, val or test") as error:
        case.make().problems(split)
    assert repr(split) in str(error.value)


def test_the_best_completion_earns_the_maximum_and_is_accurate(case):
    task = case.make()
    for prompt in everything(task):
        numbers = numbers_of(task.reward(prompt, case.best(prompt)))
        assert numbers["reward"] == pytest.approx(case.maximum)
        assert numbers.get("accuracy", 1.0) == 1.0


def test_empty_and_random_text_earn_less(case):
    task, rng = case.make(), random.Random(0)
    for prompt in everything(task):
        for completion in ("", " ", "\n", noise(rng), noise(rng)):
            numbers = numbers_of(task.reward(prompt, completion))
            assert numbers["reward"] < case.maximum
            assert completion.strip() or numbers.get("accuracy", 0.0) == 0.0


@pytest.mark.parametrize("name", CASES)
@given(text=st.text(), pick=st.integers(0, 10**6))
def test_any_text_earns_finite_numbers_of_at_most_the_maximum(name, text, pick):
    task, prompts = built(name)
    numbers = numbers_of(task.reward(prompts[pick % len(prompts)], text))
    assert all(isinstance(value, float) and math.isfinite(value) for value in numbers.values())
    assert numbers["reward"] <= CASES[name].maximum
    assert numbers.get("accuracy", 0.0) in (0.0, 1.0)


def test_rewards_depend_neither_on_order_nor_on_what_came_before(case):
    task, rng = case.make(), random.Random(1)
    pairs = [(prompt, text) for prompt in everything(task) for text in ("", noise(rng), case.best(prompt))]
    expected = [task.reward(*pair) for pair in pairs]
    order = rng.sample(range(len(pairs)), len(pairs))
    fresh = case.make()
    assert {i: fresh.reward(*pairs[i]) for i in order} == dict(enumerate(expected))


def test_the_same_numbers_come_for_every_completion(case):
    task = case.make()
    prompt = everything(task)[0]
    names = set(numbers_of(task.reward(prompt, case.best(prompt))))
    assert "reward" in names
    assert set(numbers_of(task.reward(prompt, ""))) == names


def test_name_is_a_plain_word(case):
    assert case.make().name.isidentifier()
