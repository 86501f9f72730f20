"""Chat templates: small programs that come with a model, and are run within limits of time and size."""

from __future__ import annotations

from typing import TYPE_CHECKING

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


def from_template(prompt: Prompt, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a prompt's messages as the model's chat template writes them.

    Raises:
        UsageError: there is no template; or it is too large, fails, does not end, or writes too much.
    """
    if tokenizer.chat_template is None:
        raise UsageError(
            f"prompt {prompt.id} asks for a chat template, but the model's tokenizer has none: "
            "set the task's option chat: false, or use an instruction-tuned model."
        )
    size = len(str(tokenizer.chat_template))
    if size > LARGEST_TEMPLATE:
        raise UsageError(f"{_whose(tokenizer)} has {size:,} characters, and {_ADVICE}")
    messages = [{"role": "user", "content": prompt.text}]
    if prompt.system is not None:
        messages.insert(0, {"role": "system", "content": prompt.system})
    try:
        with time_limit(MOST_SECONDS):
            text = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    except Exception as error:  # a template may raise whatever its author liked
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise UsageError(f"{_whose(tokenizer)} failed on prompt {prompt.id} ({said}): {_ADVICE}") from error
    added = len(text) - sum(len(message["content"]) for message in messages)
    if added > MOST_ADDED:
        raise UsageError(f"{_whose(tokenizer)} adds {added:,} characters to prompt {prompt.id}: {_ADVICE}")
    return text


_ADVICE = "mend it in the model's folder, or set the task's option chat: false."


def _whose(tokenizer: PreTrainedTokenizerBase) -> str:
    return f"the chat template of {tokenizer.name_or_path}"
