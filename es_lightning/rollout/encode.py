"""From prompts to token ids: once, with the chat template or raw, and never with a doubled BOS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from es_lightning.errors import UsageError
from es_lightning.records import Choice, Prompt

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
    return [prompt if prompt.token_ids else _encoded(prompt, tokenizer) for prompt in prompts]


def _encoded(prompt: Prompt, tokenizer: PreTrainedTokenizerBase) -> Prompt:
    text = render(prompt, tokenizer)
    ids = _token_ids(text, prompt.chat, tokenizer)
    choices = tuple(_encoded_choice(choice, text, prompt.chat, tokenizer) for choice in prompt.choices)
    return replace(prompt, token_ids=tuple(ids), choices=choices)


def _encoded_choice(choice: Choice, text: str, chat: bool, tokenizer: PreTrainedTokenizerBase) -> Choice:
    """A choice with the ids of the whole text; a token that spans the boundary belongs to what is scored."""
    given = _token_ids(text + choice.before, chat, tokenizer)
    whole = _token_ids(text + choice.before + choice.text, chat, tokenizer)
    common = 0
    while common < min(len(given), len(whole)) and given[common] == whole[common]:
        common += 1
    # The first token of all has no context, and a choice without any token of its own has no likelihood.
    scored = min(len(whole) - 1, max(1, len(whole) - common))
    return replace(choice, token_ids=tuple(whole), scored=scored)


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


def _token_ids(text: str, chat: bool, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    # A chat template writes its own BOS; a raw text may carry one. The tokenizer must not add a second.
    has_bos = bool(tokenizer.bos_token) and text.startswith(str(tokenizer.bos_token))
    ids: list[int] = tokenizer.encode(text, add_special_tokens=not chat and not has_bos)
    # Some tokenizers close every text with EOS; a prompt is to be continued, not ended.
    while len(ids) > 1 and ids[-1] == tokenizer.eos_token_id and not text.endswith(str(tokenizer.eos_token)):
        ids.pop()
    return ids
