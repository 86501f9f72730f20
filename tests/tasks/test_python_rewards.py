"""Functions of yours as rewards: called with a row's columns, summed up, and faults told in time."""

import asyncio
import json
import os
import re
import sys
import time
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from functools import partial, wraps
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import torch
from pyarrow import parquet

from es_lightning.errors import RewardError, UsageError
from es_lightning.grading.grade import Grade, grade
from es_lightning.grading.scorer import Grading, Scorer
from es_lightning.records import Completion, Prompt
from es_lightning.tasks import PythonRewards
from es_lightning.tasks.reward_code import imports_of

ROW = {"prompt": "2 + 2?", "answer": "4", "level": 3, "split": "test"}
PROMPT = Prompt("p", "2 + 2?", {"answer": "4", "level": 3})
USER = {"role": "user", "content": "x"}
HERE = "tests.tasks.test_python_rewards"


def own(folder: Path, row: dict[str, Any] = ROW) -> str:
    path = folder / "own.jsonl"
    path.write_text(json.dumps(row))
    return str(path)


def task(*rewards: Any, **options: Any) -> PythonRewards:
    return PythonRewards("never-read.jsonl", rewards, **options)


def graded(*texts: str, rewards: list[Any], **options: Any) -> list[Grade]:
    return grade(task(*rewards, **options), [PROMPT] * len(texts), texts)


def numbers(*texts: str, rewards: list[Any], **options: Any) -> list[dict[str, float]]:
    grades = graded(*texts, rewards=rewards, **options)
    assert not any(one.failure for one in grades), grades[0].why
    return [dict(one.scores) for one in grades]


# Functions of users


def exact(prompt: str, completion: str, answer: str) -> float:
    if completion == "raise":
        raise KeyError("no such answer")
    return float(completion == answer)


def length(prompt: str, completion: str) -> int:
    return len(completion)


def reward(prompt: str, completion: str, **row: Any) -> dict[str, float]:
    return {"reward": row["level"] * 2, "level": row["level"], "columns": len(row)}


async def slow(prompt: str, completion: str, seconds: float = 0.3) -> float:
    await asyncio.sleep(60 if completion == "hang" else seconds)
    return exact(prompt, completion, "4")


class Judge:
    async def __call__(self, prompt: str, completion: str) -> float:
        return 2.0


def together(prompts: list[str], completions: list[str], answer: list[str]) -> list[float]:
    assert prompts == ["2 + 2?"] * len(completions)
    return [float(text == gold) for text, gold in zip(completions, answer, strict=True)]


async def everything(prompts: list[str], completions: list[str], **columns: list[Any]) -> list[float]:
    return [sum(value is not None for value in values) for values in zip(*columns.values(), strict=True)]


# Calls and sums


def test_a_function_gets_the_columns_that_it_names() -> None:
    assert numbers("4", "5", rewards=[exact]) == [{"exact": n, "reward": n} for n in (1, 0)]


def test_a_function_with_row_gets_all_columns_and_its_components_are_named() -> None:
    own_reward = "test_python_rewards.reward"  # as "reward" is the sum's name
    expected = {f"{own_reward}/level": 3, f"{own_reward}/columns": 2, own_reward: 6, "reward": 6}
    assert numbers("x", rewards=[reward]) == [expected]


def test_rewards_are_summed_by_their_weights() -> None:
    rewards = [exact, length, f"{HERE}.slow", Judge()]
    [scores] = numbers("4", rewards=rewards, weights=[2, -0.25, 10, 100])
    assert scores == {"exact": 1, "length": 1, "slow": 1, "Judge": 2, "reward": 2 - 0.25 + 10 + 200}
    assert numbers("4", rewards=rewards)[0]["reward"] == 1 + 1 + 1 + 2


def test_functions_in_batches_get_lists() -> None:
    assert [row["reward"] for row in numbers("4", "5", "4", rewards=[together], batched=True)] == [1, 0, 1]
    prompts = [Prompt("a", "a", {"x": 1}), Prompt("b", "b", {"x": 1, "y": 2})]
    [one, two] = grade(task(everything, batched=True), prompts, ["", ""])
    assert (one.scores["reward"], two.scores["reward"]) == (1, 2)
    failed = graded("a", "b", rewards=[lambda prompts, completions: [1.0]], batched=True)
    assert all("returned 1 rewards for 2 texts" in one.why for one in failed)


def test_async_calls_wait_at_the_same_time() -> None:
    started = time.monotonic()
    scores = numbers(*["4", "5"] * 10, rewards=[slow])
    assert time.monotonic() - started < 3  # 6 s, one after another
    assert [row["reward"] for row in scores] == [1, 0] * 10


def test_an_async_call_that_takes_too_long_fails_alone() -> None:
    rewards = [partial(slow, seconds=0.01), exact]
    grades = graded("4", "hang", "raise", "5", rewards=rewards, async_seconds=1.0)
    assert [one.failure for one in grades] == [None, "timeout", "exception", None]
    assert [one.scores.get("reward") for one in grades] == [2, None, None, 0]


@pytest.mark.parametrize("rewards", [[exact], [length, exact], [slow], [exact, slow]])
def test_an_exception_fails_its_completion_alone(rewards: list[Any]) -> None:
    failed = graded("4", "raise", "4", rewards=rewards)
    assert [one.failure for one in failed] == [None, "exception", None]
    assert "KeyError: 'no such answer'" in failed[1].why


@pytest.mark.parametrize("value", [None, "much", {"accuracy": 1.0}, float("nan"), [1.0], 10**400])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_what_is_no_number_is_invalid_and_names_the_function(value: Any, asynchronous: bool) -> None:
    def odd(prompt: str, completion: str) -> Any:
        return value if completion == "odd" else 1.0

    async def awaited(prompt: str, completion: str) -> Any:
        return odd(prompt, completion)

    function = awaited if asynchronous else odd
    grades = graded("x", "odd", rewards=[function, length])
    assert [one.failure for one in grades] == [None, "invalid"]
    assert f"returned {function.__name__}" in grades[1].why


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda *texts, answer: float(answer), 4),
        (lambda *texts, **row: len(row), 2),
        (lambda prompt, *rest, answer: float(answer), 4),
        (lambda prompt, completion, level, *more, answer: level + float(answer), 7),
        (lambda prompt, completion, /, answer="0", *, level=0: level + float(answer), 7),
    ],
)
def test_columns_come_by_name_whatever_takes_the_texts(function: Callable[..., Any], expected: float) -> None:
    assert numbers("x", rewards=[function])[0]["reward"] == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(np.float32(0.5), 0.5), (torch.tensor([0.5]), 0.5), (torch.tensor(True), 1), (Decimal("0.5"), 0.5)],
)
def test_numbers_of_libraries_are_summed(value: Any, expected: float) -> None:
    def odd(prompt: str, completion: str) -> Any:
        return value

    assert numbers("x", rewards=[odd, length]) == [{"odd": expected, "length": 1, "reward": expected + 1}]


def test_a_reward_that_is_too_large_is_named_with_its_prompt() -> None:
    def huge(prompt: str, completion: str) -> float:
        return 1e308

    [refused] = graded("x", rewards=[length, huge])
    assert re.search(r"returned huge = 1e\+308 for prompt p: that is too large, as .* 1e\+30", refused.why)


# In grading processes


def test_what_a_function_imports_is_imported_before_the_clock_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slow_library.py").write_text("import time; time.sleep(1.0); VALUE = 0.5\n")
    (tmp_path / "lazy_rewards.py").write_text(
        "READY = []\n"
        "def helper():\n"
        "    import slow_library\n"
        "    from os import path, no_such_name_is_no_error\n"
        "def mine(prompt, completion):\n"
        "    import slow_library as library\n"
        "    try:\n"
        "        import no_such_module\n"
        "    except ImportError:\n"
        "        return library.VALUE\n"
        "class Judge:\n"
        "    def prepare(self):\n"
        "        import time; time.sleep(1.0); self.ready = True\n"
        "    def __call__(self, prompt, completion): return float(self.ready)\n"
        "judge = Judge()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    scorer = Scorer(task("lazy_rewards.mine", "lazy_rewards.judge"), Grading(workers=1, timeout_seconds=0.5))
    try:
        scores = scorer.round(1).add([PROMPT], [Completion("x", (1,), "stop")]).scores()
    finally:
        scorer.close()
    assert scores == ({"mine": 0.5, "Judge": 1.0, "reward": 1.5},)


def test_imports_are_found_in_whatever_is_called() -> None:
    def inner(prompt: str, completion: str) -> float:
        from collections.abc import Callable as _  # noqa: F401

        return 0.0

    @wraps(inner)
    def outer(*texts: str) -> float:
        import csv  # noqa: F401

        return inner(*texts)

    assert {"csv", "collections.abc", "collections.abc.Callable"} <= set(imports_of(partial(outer)))
    assert imports_of(exact) == imports_of(len) == []


def test_a_module_of_the_working_folder_grades_in_other_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_rewards.py").write_text(
        "import os\n"
        "def mine(prompt, completion, answer):\n"
        "    if completion == 'raise': raise ValueError('out of words')\n"
        "    return {'reward': float(completion == answer), 'process': os.getpid()}\n"
        "async def waits(prompt, completion, **row): return 0.5\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_rewards", raising=False)
    texts = [Completion(text, (1,), "stop") for text in ("4", "raise", "5")]
    for names in (["my_rewards.mine"], ["my_rewards.mine", "my_rewards.waits"]):
        mine = task(*names)
        scorer = Scorer(mine, Grading(workers=1, max_failures=0.5))
        try:
            right, failed, wrong = scorer.round(3).add([PROMPT] * 3, texts).scores()
        finally:
            scorer.close()
        assert (right["mine"], wrong["mine"]) == (1, 0)
        assert failed == {"reward": 0.0, "failed_exception": 1.0}
        assert right["mine/process"] != os.getpid()
    with pytest.raises(RewardError, match="1 of 3 .* mend the reward .*out of words"):
        Scorer(mine, Grading(workers=0)).round(3).add([PROMPT] * 3, texts).scores()


# Rows and prompts


def only(path: str, *rewards: Any, **options: Any) -> Prompt:
    mine = PythonRewards(path, rewards or [length], **options)
    [prompt] = [prompt for split in ("train", "val", "test") for prompt in mine.problems(split)]
    return prompt


def test_prompts_are_texts_or_messages(tmp_path: Path) -> None:
    user, system = {"role": "user", "content": "2 + 2?"}, {"role": "system", "content": "Be brief."}
    for prompt, expected in (("2 + 2?", None), ([user], None), ([system, user], "Be brief.")):
        made = only(own(tmp_path, {**ROW, "prompt": prompt}))
        assert made == Prompt("pythonrewards/test/0", "2 + 2?", PROMPT.reference, system=expected)
        assert only(own(tmp_path, {**ROW, "prompt": prompt}), system="S").system == (expected or "S")
    made = only(own(tmp_path, {"q": "2 + 2 =", "prompt": "x"}), prompt_column="q", chat=False)
    assert (made.text, made.chat, made.reference) == ("2 + 2 =", False, {"prompt": "x"})


@pytest.mark.parametrize(
    ("row", "function", "said"),
    [
        ({"prompt": "x", "gold": "4"}, exact, "exact asks for answer, but a row has gold: add the column"),
        ({"prompt": "x", "completion": "4"}, reward, "reward takes all columns .* its own completion"),
        ({"question": "x"}, length, "cannot read the row .*KeyError: 'prompt'"),
        ({"prompt": None}, length, "cannot read the row .*None"),
        ({"prompt": [USER] * 2}, length, "messages of user, user: give one user message"),
        ({"prompt": [{**USER, "content": [{"text": "x"}]}]}, length, "give plain text"),
        ({"prompt": "x"}, lambda completion: 1.0, "takes no two texts"),
        ({"prompt": "x"}, lambda *, prompt, completion: 1.0, "takes no two texts"),
        ({"prompt": "x"}, lambda prompt, completion, answer, /: 1.0, "takes no two texts"),
        ({"prompt": "x", "gold\x1b[2J": "4"}, exact, r"asks for answer, but a row has gold\\x1b\[2J"),
    ],
)
def test_a_row_that_does_not_fit_is_told_before_any_reward(
    tmp_path: Path, row: dict[str, Any], function: Callable[..., Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        only(own(tmp_path, row), function)


def test_a_value_that_json_cannot_keep_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.parquet"
    parquet.write_table(pyarrow.Table.from_pylist([{**ROW, "day": date(2025, 1, 1)}]), path)
    with pytest.raises(UsageError, match=r"cannot read the row .*'day': .*date is not JSON"):
        only(str(path))


@pytest.mark.parametrize(
    ("rewards", "options", "said"),
    [
        ([], {}, "rewards is empty"),
        (["no_such.f"], {}, "no_such.f cannot be imported .*No module named"),
        ([f"{HERE}.missing"], {}, "missing cannot be imported .*Give module.function"),
        ([".relative.f"], {}, ".relative.f cannot be imported"),
        (["exact"], {}, "exact is no function. Give module.function"),
        ([exact, exact], {}, "exact is listed twice"),
        ([exact, length], {"weights": [1]}, "give 2 finite numbers, one for each"),
        ([exact], {"weights": [float("inf")]}, "give 1 finite"),
    ],
)
def test_options_that_do_not_fit(rewards: list[Any], options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        task(*rewards, **options)


def test_functions_of_one_name_are_told_apart() -> None:
    other = partial(exact)
    other.__name__, other.__module__ = "exact", "others.module"  # type: ignore[attr-defined]
    assert set(numbers("4", rewards=[exact, other])[0]) == {"exact", "module.exact", "reward"}


# Functions written for TRL


def trl_bare(completions, **kwargs):
    assert set(kwargs) >= {"prompts", "answer"}
    return [float(text == answer) for text, answer in zip(completions, kwargs["answer"], strict=True)]


def trl_full(prompts, completions, answer, **kwargs):
    assert prompts == ["2 + 2?"] * len(completions)
    return [float(text == right) for text, right in zip(completions, answer, strict=True)]


def trl_closed(completions, answer):
    return [
        None if text == "skip" else float(text == right)
        for text, right in zip(completions, answer, strict=True)
    ]


async def trl_async(completions, **kwargs):
    await asyncio.sleep(0)
    return [float(text == "4") for text in completions]


def trl_chat(prompts, completions, **kwargs):
    assert all(prompt[-1]["role"] == "user" for prompt in prompts)
    return [float(completion[0]["content"] == "4") for completion in completions]


def trl_ids(prompts, completions, completion_ids, **kwargs):
    return [float(len(ids)) for ids in completion_ids]


def trl_few(completions, **kwargs):
    return [1.0]


def trl_by_place(prompts, completions, **columns):
    return [float(isinstance(text, str)) for text in completions]


@pytest.mark.parametrize(
    "function", [trl_bare, trl_full, trl_closed, trl_async], ids=lambda one: one.__name__
)
def test_functions_in_the_signature_of_trl_are_called_as_trl_calls_them(function):
    assert [one["reward"] for one in numbers("4", "5", "4", rewards=[function])] == [1, 0, 1]
    assert numbers("4", rewards=[function, exact])[0]["reward"] == 2


def test_a_none_of_trl_counts_as_nothing():
    assert numbers("skip", rewards=[trl_closed])[0]["reward"] == 0


def test_rows_with_messages_give_messages_to_functions_of_trl(tmp_path):
    row = {"prompt": [{"role": "system", "content": "Be brief."}, USER], "answer": "4", "split": "test"}
    mine = PythonRewards(own(tmp_path, row), [trl_chat, exact])
    [prompt] = mine.problems("test")
    assert (prompt.system, prompt.text) == ("Be brief.", "x")
    assert [one.scores["reward"] for one in grade(mine, [prompt, prompt], ["4", "5"])] == [2, 0]


def test_batched_functions_get_texts_by_place_as_before():
    assert numbers("4", rewards=[trl_by_place], batched=True)[0]["reward"] == 1
    assert numbers("4", rewards=[trl_bare], batched=True)[0]["reward"] == 1


def test_what_only_the_trainer_of_trl_has_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(
        UsageError, match="reward trl_ids asks for completion_ids, which only TRL's trainer has"
    ):
        PythonRewards(own(tmp_path), [trl_ids]).problems("test")
    with pytest.raises(UsageError, match="reward trl_closed asks for answer, but a row has level"):
        PythonRewards(own(tmp_path, {"prompt": "x", "level": 3}), [trl_closed]).problems("train")


def test_too_few_rewards_of_a_function_of_trl_are_a_failure():
    with pytest.raises(ValueError, match="trl_few returned 1 rewards for 2 texts"):
        task(trl_few).rewards([PROMPT] * 2, ["4", "5"])
