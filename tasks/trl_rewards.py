"""Reward functions written for TRL, called by name: ``(prompts, completions, **columns) -> list[float]``."""

import asyncio
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from es_lightning.errors import UsageError
from es_lightning.records import Prompt
from es_lightning.system.text import printable
from es_lightning.tasks.reward_functions import MESSAGES, name_of

_GIVEN = ("prompts", "completions")
_NOT_HERE = ("completion_ids", "trainer_state", "log_extra", "log_metric", "environments")


def is_trl(function: Callable[..., Any], batched: bool) -> bool:
    """Whether a function is one of TRL's: it names ``completions``, which it takes as a list.

    Args:
        function: the reward function.
        batched: whether functions take lists of texts by place, ``(prompts, completions)``.
    """
    named = inspect.signature(function).parameters
    return "completions" in named and not (batched and list(named)[1:2] == ["completions"])


def check_trl_columns(function: Callable[..., Any], columns: Mapping[str, Any]) -> None:
    """Check that a row has all columns that a function of TRL's requires.

    Raises:
        UsageError: a column is missing, or only TRL's trainer has what the function asks for.
    """
    name = name_of(function)
    for parameter in inspect.signature(function).parameters.values():
        required = parameter.default is parameter.empty and parameter.kind in (
            parameter.POSITIONAL_OR_KEYWORD,
            parameter.KEYWORD_ONLY,
        )
        if not required or parameter.name in {*_GIVEN, *columns}:
            continue
        if parameter.name in _NOT_HERE:
            raise UsageError(
                f"reward {name} asks for {parameter.name}, which only TRL's trainer has: take the texts from "
                "completions, or give the parameter a default."
            )
        raise UsageError(
            f"reward {name} asks for {parameter.name}, but a row has {printable(', '.join(columns))}: add "
            "the column to the data, or give the parameter a default."
        )


def call_trl(function: Callable[..., Any], prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Any]:
    """Return what a function of TRL's gives for a batch; None, which TRL leaves out of the sum, counts as 0.

    As in TRL, rows with chat messages give messages, and rows with plain prompts give texts.

    Raises:
        ValueError: it does not return one reward per completion.
    """
    named = inspect.signature(function).parameters
    keys = dict.fromkeys(key for prompt in prompts for key in prompt.reference if key != MESSAGES)
    given: dict[str, Any] = {key: [prompt.reference.get(key) for prompt in prompts] for key in keys}
    given["prompts"] = [prompt.reference.get(MESSAGES, prompt.text) for prompt in prompts]
    given["completions"] = [
        [{"role": "assistant", "content": text}] if MESSAGES in prompt.reference else text
        for prompt, text in zip(prompts, texts, strict=True)
    ]
    takes_all = any(parameter.kind == parameter.VAR_KEYWORD for parameter in named.values())
    returned = function(**{key: value for key, value in given.items() if takes_all or key in named})
    values = list(asyncio.run(returned) if inspect.iscoroutine(returned) else returned)
    if len(values) != len(texts):
        raise ValueError(f"{name_of(function)} returned {len(values)} rewards for {len(texts)} texts.")
    return [0.0 if value is None else value for value in values]
