"""Your own rows, scored by your own functions."""

import asyncio
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import fsum, isfinite, nan
from typing import Any

from es_lightning.errors import UsageError
from es_lightning.grading.numbers import number
from es_lightning.grading.output import speak_as
from es_lightning.records import Prompt
from es_lightning.task import Reward
from es_lightning.tasks.datasets.rows import RowTask
from es_lightning.tasks.datasets.sources import Row, Source
from es_lightning.tasks.reward_code import prepare
from es_lightning.tasks.reward_functions import (
    MESSAGES,
    attempt,
    check_columns,
    find,
    is_async,
    name_of,
    names_of,
    wanted,
)
from es_lightning.tasks.trl_rewards import call_trl, check_trl_columns, is_trl

_SAMPLE = Source(hub="", splits={}, sample="prompts")
_ROW = '{"prompt": "Name a prime number above 10.", "answer": "11"}'


class PythonRewards(RowTask):
    """Rewards from your own functions, ``(prompt, completion, **row) -> float or dict``.

    ``prompt`` and ``completion`` are texts. The row's other columns are passed by name: all of them to a
    function with ``**row``, otherwise those that the function names. A function may be ``async``; its calls
    for all completions of a member then run concurrently. A dict has the key ``reward``, and components that
    are logged with it. With ``batched`` a function is called once per member with lists: ``(prompts,
    completions, **columns)``, with None where a row lacks a column.

    A function that was written for TRL is known by its parameter ``completions``, and is called as TRL calls
    it: once per member, by name, with ``prompts``, ``completions`` and the columns as lists. Where the rows
    have chat messages, completions are messages, too. It returns a list; None in it counts as 0.

    Before the clock starts, the functions' modules are imported, and whatever the functions import when they
    are called. What else takes long is done in ``prepare()``, if a function or a callable object has that
    attribute: it is called once, in the process from which those that grade are forked.

    Reward per completion: the weighted sum of the functions' rewards; higher is better. Each function's own
    reward is logged under its name.

    Row format: ``{"prompt": "Name a prime number above 10.", "answer": "11"}``. The prompt may also be a list
    of chat messages: one user message, optionally after a system message.

    Args:
        data: a JSONL or parquet file, a folder, or a hub id; ``sample`` reads 20 example rows.
        rewards: dotted paths of the functions, such as ``my_rewards.exact``; the working folder is searched.
            From Python, the functions themselves.
        weights: one factor per function; None takes 1 for each.
        prompt_column: the column that holds the prompt.
        system: system message for rows that have none.
        batched: whether the functions take lists.
        async_seconds: seconds that an async function may take for one completion; must be less than
            ``data.grading.timeout_seconds``, which is for the whole batch.
        chat: whether the model's chat template is applied; otherwise the model continues the raw text.
        n_train: training problems used; None takes all.
        n_val: the same for validation.
        n_test: the same for the test.
        answer_column: the column with a right answer, a text or a number; only training on the
            log-likelihood of right answers reads it.

    Raises:
        UsageError: a function cannot be found, or the weights do not fit.
    """

    def __init__(
        self,
        data: str,
        rewards: Sequence[str | Callable[..., Any]],
        weights: Sequence[float] | None = None,
        prompt_column: str = "prompt",
        system: str | None = None,
        batched: bool = False,
        async_seconds: float = 5.0,
        chat: bool = True,
        n_train: int | None = None,
        n_val: int | None = None,
        n_test: int | None = None,
        answer_column: str = "answer",
    ) -> None:
        super().__init__(data, _SAMPLE, n_train, n_val, n_test)
        if not rewards:
            raise UsageError("rewards is empty: give at least one function, such as my_rewards.exact.")
        functions = [find(reward) if isinstance(reward, str) else reward for reward in rewards]
        self.functions = dict(zip(names_of(functions), functions, strict=True))
        self.weights = list(weights) if weights is not None else [1.0] * len(functions)
        if len(self.weights) != len(functions) or not all(map(isfinite, self.weights)):
            raise UsageError(
                f"weights are {self.weights}: give {len(functions)} finite numbers, one for each of rewards."
            )
        if system is not None and not chat:
            raise UsageError("system needs the chat template: set chat to true, or leave system out.")
        self.takes_lists = batched
        self.of_trl = {name for name, function in self.functions.items() if is_trl(function, batched)}
        self.batched = batched or bool(self.of_trl) or any(map(is_async, functions))
        self.prompt_column, self.system, self.chat = prompt_column, system, chat
        self.answer_column = answer_column
        self.async_seconds = async_seconds

    def key(self, row: Row) -> str:
        """Return the prompt."""
        return json.dumps(row[self.prompt_column])

    def prompt(self, row: Row, name: str) -> Prompt:
        """Make the prompt of a row; its reference holds the other columns."""
        system, text = _messages(row[self.prompt_column])
        columns = {key: value for key, value in row.items() if key not in {self.prompt_column, "split"}}
        for called, function in self.functions.items():
            (check_trl_columns if called in self.of_trl else check_columns)(function, columns)
        if self.of_trl and not isinstance(row[self.prompt_column], str):
            columns[MESSAGES] = row[self.prompt_column]
        # Grading processes get the reference as JSON: what JSON cannot hold fails here already.
        reference = json.loads(json.dumps(columns))
        return Prompt(name, text, reference, system=system or self.system, chat=self.chat)

    def answer(self, prompt: Prompt) -> str | None:
        """Return the text or the number in ``answer_column``; None if the row has neither there."""
        return super().answer(replace(prompt, reference=prompt.reference.get(self.answer_column)))

    def reward(self, prompt: Prompt, completion: str) -> Reward:
        """Return the weighted sum, and each function's own reward."""
        [reward] = self.rewards([prompt], [completion])
        if isinstance(reward, Exception):
            raise reward
        return reward

    def rewards(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[Reward | Exception]:
        """Grade a batch; if a function raises for one completion, that completion alone fails."""
        columns = []
        for name, function in self.functions.items():
            speak_as(name)  # what it prints goes to the log under its name
            call = call_trl if name in self.of_trl else self._call
            columns.append(call(function, prompts, completions))
        return [self._sum(values) for values in zip(*columns, strict=True)]

    def prepare(self) -> None:
        """Import what the functions import when they are called, and call their own ``prepare``."""
        for name, function in self.functions.items():
            speak_as(name)
            prepare(function)

    def _call(
        self, function: Callable[..., Any], prompts: Sequence[Prompt], texts: Sequence[str]
    ) -> list[Any]:
        if self.takes_lists:
            keys = dict.fromkeys(key for prompt in prompts for key in prompt.reference)
            rows = {key: [prompt.reference.get(key) for prompt in prompts] for key in keys}
            asked = [prompt.text for prompt in prompts]
            returned = function(asked, list(texts), **wanted(function, rows))
            values = list(asyncio.run(returned) if inspect.iscoroutine(returned) else returned)
            if len(values) != len(texts):
                raise ValueError(
                    f"{name_of(function)} returned {len(values)} rewards for {len(texts)} texts."
                )
            return values
        if is_async(function):
            return asyncio.run(self._together(function, prompts, texts))
        return [attempt(function, *pair) for pair in zip(prompts, texts, strict=True)]

    async def _together(
        self, function: Callable[..., Any], prompts: Sequence[Prompt], texts: Sequence[str]
    ) -> list[Any]:
        """Call an async function once per completion, concurrently, each call with its own time-out."""
        calls = [
            asyncio.wait_for(
                function(prompt.text, text, **wanted(function, prompt.reference)), self.async_seconds
            )
            for prompt, text in zip(prompts, texts, strict=True)
        ]
        return list(await asyncio.gather(*calls, return_exceptions=True))

    def _sum(self, values: Sequence[Any]) -> Reward | Exception:
        """Return R = sum of w_i * r_i, after all r_i.

        The grader names the first value that is no usable number; so it names a function, not the sum.
        """
        failed = next((value for value in values if isinstance(value, Exception)), None)
        if failed is not None:
            return failed
        parts: dict[str, Any] = {}
        for name, value in zip(self.functions, values, strict=True):
            if isinstance(value, Mapping):
                parts |= {f"{name}/{key}": part for key, part in value.items() if key != "reward"}
                value = value.get("reward")
            parts[name] = value
        try:
            total = fsum(
                w * number(parts[name]) for name, w in zip(self.functions, self.weights, strict=True)
            )
        except Exception:  # the conversion of another library's number may raise anything
            total = nan
        return {**parts, "reward": total}


def _messages(prompt: Any) -> tuple[str | None, str]:
    """Return the system message and the user text of a prompt column."""
    if isinstance(prompt, str):
        return None, prompt
    roles = [message["role"] for message in prompt]
    if roles not in (["user"], ["system", "user"]):
        raise UsageError(
            f"a prompt has messages of {', '.join(roles)}: give one user message, optionally after a "
            f"system message, or plain text as in {_ROW}."
        )
    texts = [message["content"] for message in prompt]
    if not all(isinstance(text, str) for text in texts):
        raise UsageError(f"a message has the content {texts}: give plain text as in {_ROW}.")
    return (texts[0] if len(texts) == 2 else None), texts[-1]
