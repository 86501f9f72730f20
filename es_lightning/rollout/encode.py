"""From prompts to token ids: once, with the chat template or raw, and never with a doubled BOS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from es_lightning.errors import UsageError
from es_lightning.generation import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def encode(prompts: Sequence[Prompt], tokenizer: PreTrainedTokenizerBase) -> list[Prompt]:
    """Prompts with their ``token_ids`` filled in.

    Template, user text and prefill are rendered to one text and encoded in one go, because encoding them
    apart would put a token boundary where the model never saw one.

    Args:
        prompts: P prompts; those that already have token ids are kept as they are.
        tokenizer: the model's tokenizer.

    Raises:
        UsageError: a chat prompt meets a tokenizer without a chat template.
    """
    return [
        prompt if prompt.token_ids else replace(prompt, token_ids=tuple(_token_ids(prompt, tokenizer)))
        for prompt in prompts
    ]


def render(prompt: Prompt, tokenizer: PreTrainedTokenizerBase) -> str:
    """The exact text that the model continues, special tokens of the chat template included."""
    if not prompt.chat:
        return prompt.text + prompt.prefill
    if tokenizer.chat_template is None:
        raise UsageError(
            f"prompt {prompt.id} asks for a chat template, but the model's tokenizer has none: "
            "set the task's option chat: false, or use an instruction-tuned model."
        )
    messages = [{"role": "user", "content": prompt.text}]
    if prompt.system is not None:
        messages.insert(0, {"role": "system", "content": prompt.system})
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return str(rendered) + prompt.prefill


def _token_ids(prompt: Prompt, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    text = render(prompt, tokenizer)
    # A chat template writes its own BOS; a raw text may carry one. The tokenizer must not add a second.
    has_bos = bool(tokenizer.bos_token) and text.startswith(str(tokenizer.bos_token))
    ids: list[int] = tokenizer.encode(text, add_special_tokens=not prompt.chat and not has_bos)
    # Some tokenizers close every text with EOS; a prompt is to be continued, not ended.
    while len(ids) > 1 and ids[-1] == tokenizer.eos_token_id and not text.endswith(str(tokenizer.eos_token)):
        ids.pop()
    return ids
