"""Encoding of prompts as token ids, with the chat template or raw, and never with a second BOS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from es_lightning.records import Choice, Prompt
from es_lightning.rollout.chat import from_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def encode(
    prompts: Sequence[Prompt],
    tokenizer: PreTrainedTokenizerBase,
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> list[Prompt]:
    """Return the prompts with their ``token_ids`` filled in.

    Template, user text and prefill are rendered to one text and encoded together. Encoded separately, they
    would have token boundaries where the model never saw any.

    Args:
        prompts: P prompts; those that already have token ids are kept as they are.
        tokenizer: the model's tokenizer.
        chat_template_kwargs: options of the chat template, such as ``enable_thinking``.

    Raises:
        UsageError: a prompt asks for a chat template, and the tokenizer has none, or one that fails.
    """
    options = chat_template_kwargs
    return [prompt if prompt.token_ids else _encoded(prompt, tokenizer, options) for prompt in prompts]


def _encoded(prompt: Prompt, tokenizer: PreTrainedTokenizerBase, options: Mapping[str, Any] | None) -> Prompt:
    text = render(prompt, tokenizer, options)
    ids = _token_ids(text, prompt.chat, tokenizer)
    choices = tuple(_encoded_choice(choice, text, prompt.chat, tokenizer) for choice in prompt.choices)
    return replace(prompt, token_ids=tuple(ids), choices=choices)


def _encoded_choice(choice: Choice, text: str, chat: bool, tokenizer: PreTrainedTokenizerBase) -> Choice:
    """Return a choice with the token ids of the whole text; a token across the boundary is scored."""
    given = _token_ids(text + choice.before, chat, tokenizer)
    whole = _token_ids(text + choice.before + choice.text, chat, tokenizer)
    if choice.ends and tokenizer.eos_token_id is not None:
        whole.append(tokenizer.eos_token_id)
    common = 0
    while common < min(len(given), len(whole)) and given[common] == whole[common]:
        common += 1
    # The very first token has no context, so it is not scored. At least one token is scored: a choice without
    # any token of its own would have no likelihood.
    scored = min(len(whole) - 1, max(1, len(whole) - common))
    return replace(choice, token_ids=tuple(whole), scored=scored)


def render(
    prompt: Prompt,
    tokenizer: PreTrainedTokenizerBase,
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> str:
    """Return the exact text that the model continues, with the special tokens of the chat template.

    Raises:
        UsageError: the prompt asks for a chat template, and the tokenizer has none, or one that fails.
    """
    if not prompt.chat:
        return prompt.text + prompt.prefill
    return from_template(prompt, tokenizer, chat_template_kwargs) + prompt.prefill


def _token_ids(text: str, chat: bool, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    # A chat template writes its own BOS, and a raw text may start with one: the tokenizer must not add
    # another.
    has_bos = bool(tokenizer.bos_token) and text.startswith(str(tokenizer.bos_token))
    ids: list[int] = tokenizer.encode(text, add_special_tokens=not chat and not has_bos)
    # Some tokenizers end every text with EOS, but the model has to continue a prompt.
    while len(ids) > 1 and ids[-1] == tokenizer.eos_token_id and not text.endswith(str(tokenizer.eos_token)):
        ids.pop()
    return ids
