"""Prompts become token ids once: templates, prefills, raw texts, and one BOS at the most."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from es_lightning.errors import UsageError
from es_lightning.models import BaseModel
from es_lightning.models.embedded import tiny_folder
from es_lightning.records import Prompt
from es_lightning.rollout import encode

LLAMA_LIKE = (
    "{{ bos_token }}{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}<assistant>"
)


@pytest.fixture
def with_bos() -> PreTrainedTokenizerFast:
    """A tokenizer that puts a BOS before every text and an EOS behind it, as some do."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(
        models.BPE(vocab={letter: i for i, letter in enumerate([*alphabet, "<s>", "</s>"])}, merges=[])
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", len(alphabet)), ("</s>", len(alphabet) + 1)]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = LLAMA_LIKE
    return tokenizer


@pytest.mark.parametrize(
    "prompt",
    [Prompt("chat", "Hi"), Prompt("raw", "Hi", chat=False), Prompt("raw with BOS", "<s>Hi", chat=False)],
    ids=lambda prompt: prompt.id,
)
def test_there_is_exactly_one_bos_and_no_eos(with_bos: PreTrainedTokenizerFast, prompt: Prompt) -> None:
    ids = encode([prompt], with_bos)[0].token_ids
    assert ids.count(with_bos.bos_token_id) == 1
    assert ids[0] == with_bos.bos_token_id
    assert with_bos.eos_token_id not in ids


def test_chat_is_transformers_own_template_and_tokens() -> None:
    tokenizer = BaseModel(tiny_folder()).tokenizer
    prompt = Prompt("p", "Hi there", system="Be brief.")
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi there"}]
    expected = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert list(encode([prompt], tokenizer)[0].token_ids) == expected


@pytest.mark.parametrize("chat", [True, False])
def test_a_prefill_stands_last(chat: bool) -> None:
    tokenizer = BaseModel(tiny_folder()).tokenizer
    ids = encode([Prompt("p", "Count.", prefill="One, ", chat=chat)], tokenizer)[0].token_ids
    assert tokenizer.decode(ids).endswith("<|assistant|>One, " if chat else "Count.One, ")


def test_encoded_prompts_are_left_alone() -> None:
    tokenizer = BaseModel(tiny_folder()).tokenizer
    once = encode([Prompt("p", "Hi"), Prompt("q", "Hi", token_ids=(5, 6))], tokenizer)
    assert once[1].token_ids == (5, 6)
    assert all(a is b for a, b in zip(encode(once, tokenizer), once, strict=True))


def test_a_chat_prompt_without_a_template_says_what_to_do(
    with_bos: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    with_bos.chat_template = None
    with pytest.raises(UsageError, match="set the task's option chat: false"):
        encode([Prompt("p", "Hi")], with_bos)
