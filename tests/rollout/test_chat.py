"""Chat templates: their options, and what they refuse."""

import pytest
from transformers import PreTrainedTokenizerBase

from es_lightning.errors import UsageError
from es_lightning.models import BaseModel
from es_lightning.records import Prompt
from es_lightning.rollout import encode

# As Qwen3's and Gemma's do.
THINKING = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}<assistant>"
    "{% if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}"
)
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "<user>{{ messages[0]['content'] }}<model>"
)


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerBase:
    return BaseModel("tiny").tokenizer


def text(prompt: Prompt, tokenizer: PreTrainedTokenizerBase, **options: object) -> str:
    return str(tokenizer.decode(encode([prompt], tokenizer, options)[0].token_ids))


def test_options_reach_the_template(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = THINKING
    prompt = Prompt("p", "Hi", prefill=" Yes")
    assert text(prompt, tokenizer) == "<user>Hi<assistant> Yes"
    assert text(prompt, tokenizer, enable_thinking=True) == "<user>Hi<assistant> Yes"
    assert text(prompt, tokenizer, enable_thinking=False) == "<user>Hi<assistant><think></think> Yes"
    assert text(Prompt("p", "Hi", chat=False), tokenizer, enable_thinking=False) == "Hi"


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("enable_thinkin", "enable_thinkin, which is not in the chat template of"),
        ("tokenize", "tokenize, which is the run's own to give"),
        ("messages", "messages, which is the run's own to give"),
        ("padding", "padding, which is not in the chat template"),
    ],
)
def test_options_that_say_nothing_are_refused(
    tokenizer: PreTrainedTokenizerBase, option: str, words: str
) -> None:
    tokenizer.chat_template = THINKING
    with pytest.raises(UsageError, match=f"model.chat_template_kwargs has {words}"):
        encode([Prompt("p", "Hi")], tokenizer, {option: False})


def test_a_refused_system_message_says_what_to_do(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = NO_SYSTEM
    words = r"failed on prompt row/7 \(System role not supported\): it takes no system message"
    with pytest.raises(UsageError, match=words):
        encode([Prompt("row/6", "Hi"), Prompt("row/7", "Hi", system="Be brief.")], tokenizer)


def test_a_template_that_fails_on_all_is_not_blamed_on_the_system_message(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    tokenizer.chat_template = "{{ raise_exception('never') }}"
    with pytest.raises(UsageError, match=r"failed on prompt p \(never\): mend it"):
        encode([Prompt("p", "Hi", system="Be brief.")], tokenizer)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (
            "{{ messages[-1]['content'] }}",
            "leaves the system message of prompt p out: it takes no system mess",
        ),
        (
            "{% for m in messages if m.role != 'system' %}[{{ m.content }}]{% endfor %}",
            "leaves the system message",
        ),
        ("{{ messages[0]['content'] }}", "leaves the user message of prompt p out: mend it in the model's"),
        ("hello", "leaves the system message"),
    ],
)
def test_a_message_that_a_template_leaves_out_is_told(
    tokenizer: PreTrainedTokenizerBase, template: str, words: str
) -> None:
    tokenizer.chat_template = template
    with pytest.raises(UsageError, match=words):
        encode([Prompt("p", "What is it?", system="Be very brief.")], tokenizer)


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m['content'] | trim | tojson }}{% endfor %}",
        "{% for m in messages %}user{{ m['content'] | upper | lower }}{% endfor %}",
        "{% for m in messages %}{{ m['content'] | e }}{% endfor %}",
    ],
)
def test_a_template_may_trim_and_escape(tokenizer: PreTrainedTokenizerBase, template: str) -> None:
    tokenizer.chat_template = template
    for content in ("\n what\nis <it>?\n", "1 + 2", "???", "", "日本語は\n難しい"):
        [prompt] = encode([Prompt("p", content, system=' be "brief"\n')], tokenizer)
        assert prompt.token_ids
