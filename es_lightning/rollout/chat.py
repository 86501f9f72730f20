"""Chat templates: small programs that come with a model, and are run within limits of time and size."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from es_lightning.errors import UsageError
from es_lightning.records import Prompt
from es_lightning.system.time_limit import time_limit

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LARGEST_TEMPLATE = 10**6
"""Characters; templates of well-known models have up to about 30 thousand."""
MOST_ADDED = 10**5
"""Characters that a template may put around the messages."""
MOST_SECONDS = 10.0
OURS = ("messages", "add_generation_prompt", "tokenize", "bos_token", "eos_token", "pad_token", "unk_token")
"""What a template gets from the run or from the tokenizer, and not from ``chat_template_kwargs``."""


def from_template(
    prompt: Prompt, tokenizer: PreTrainedTokenizerBase, options: Mapping[str, Any] | None = None
) -> str:
    """Return a prompt's messages as the model's chat template writes them.

    Args:
        prompt: of one user message, with a system message before it if it has one.
        tokenizer: the model's tokenizer, which has the template.
        options: of the template, such as ``enable_thinking``.

    Raises:
        UsageError: there is no template; or it is too large, fails, does not end, writes too much, leaves a
            message out, or knows no such option.
    """
    if tokenizer.chat_template is None:
        raise UsageError(
            f"prompt {prompt.id} asks for a chat template, but the model's tokenizer has none: "
            "set the task's option chat: false, or use an instruction-tuned model."
        )
    size = len(str(tokenizer.chat_template))
    if size > LARGEST_TEMPLATE:
        raise UsageError(f"{_whose(tokenizer)} has {size:,} characters, and {_ADVICE}")
    _check_options(options or {}, tokenizer)
    messages = [{"role": "user", "content": prompt.text}]
    if prompt.system is not None:
        messages.insert(0, {"role": "system", "content": prompt.system})
    try:
        text = _written(messages, tokenizer, options)
    except Exception as error:  # a template may raise whatever its author liked
        said = " ".join(str(error).split())[:200] or type(error).__name__
        advice = _SYSTEM if _refuses_the_system(messages, tokenizer, options) else _ADVICE
        raise UsageError(f"{_whose(tokenizer)} failed on prompt {prompt.id} ({said}): {advice}") from error
    added = len(text) - sum(len(message["content"]) for message in messages)
    if added > MOST_ADDED:
        raise UsageError(f"{_whose(tokenizer)} adds {added:,} characters to prompt {prompt.id}: {_ADVICE}")
    for message in messages:
        if not _is_within(message["content"], text):
            advice = _SYSTEM if message["role"] == "system" else _ADVICE
            raise UsageError(
                f"{_whose(tokenizer)} leaves the {message['role']} message of prompt {prompt.id} out: "
                f"{advice}"
            )
    return text


_ADVICE = "mend it in the model's folder, or set the task's option chat: false."


_SYSTEM = (
    "it takes no system message, so put that text into the user's message and leave the task's option system "
    "out, or set the task's option chat: false."
)


def _written(
    messages: list[dict[str, str]], tokenizer: PreTrainedTokenizerBase, options: Mapping[str, Any] | None
) -> str:
    with time_limit(MOST_SECONDS):
        text = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, **(options or {})
        )
    return str(text)


def _is_within(content: str, text: str) -> bool:
    """Whether a template has written a message, by its longest word: templates trim and escape."""
    longest = max(re.findall(r"[^\W_]+", content), key=len, default="")
    return longest in text


def _refuses_the_system(
    messages: list[dict[str, str]], tokenizer: PreTrainedTokenizerBase, options: Mapping[str, Any] | None
) -> bool:
    if len(messages) == 1:
        return False
    try:
        return bool(_written(messages[1:], tokenizer, options))
    except Exception:
        return False


def _check_options(options: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> None:
    template = str(tokenizer.chat_template)
    for name in options:
        if name in OURS or not re.search(rf"\b{re.escape(name)}\b", template):
            known = "is the run's own to give" if name in OURS else f"is not in {_whose(tokenizer)}"
            raise UsageError(
                f"model.chat_template_kwargs has {name}, which {known}: remove it, or mend its spelling."
            )


def _whose(tokenizer: PreTrainedTokenizerBase) -> str:
    return f"the chat template of {tokenizer.name_or_path}"
