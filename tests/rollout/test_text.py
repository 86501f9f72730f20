"""Completions are decoded behind their prompt, token by token, so that all engines give the same text."""

import random
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from es_lightning.errors import UsageError
from es_lightning.models import BaseModel
from es_lightning.records import Completion, Prompt
from es_lightning.rollout import HFEngine, Sampling
from es_lightning.rollout.text import Completing, with_its_end
from tests.helpers.tokenizers import like_llama_2

PROMPT = ["<s>", "[INST]", "▁you", "▁[/INST]"]


def ids(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[str]) -> list[int]:
    found: list[int] = tokenizer.convert_tokens_to_ids(list(tokens))
    return found


def completed(
    tokenizer: PreTrainedTokenizerBase,
    tokens: Sequence[int],
    prompt: Sequence[int],
    stop: Sequence[str] = (),
    end_ids: Sequence[int] = (),
) -> Completing:
    completion = Completing(tokenizer, prompt, end_ids, stop)
    for token in tokens:
        completion.add(token)
    completion.finish()
    return completion


@pytest.mark.parametrize(
    ("tokens", "stop", "text", "count"),
    [
        (["▁Hello", "▁world", "!"], (), " Hello world!", 3),
        (["Hello", "▁world"], (), "Hello world", 2),
        (["▁world"], (" w",), "", 1),
        (["▁Hello", "▁w", "o", "r"], (" w",), " Hello", 2),
        (["Hello", "▁w", "o", "r"], ("rx", "wor", " w"), "Hello", 2),
        (["Hello", "▁w", "orld"], ("ld", "wo"), "Hello ", 3),  # wo is complete first
        (["▁Hello", "</s>", "Hello"], (), " Hello", 2),
        (["▁Hello", "<0xE2>", "<0x82>", "<0xAC>", "!"], (), " Hello€!", 5),
        (["▁Hello", "<0xE2>", "<0x82>"], (), " Hello\ufffd\ufffd", 3),
        (["you"], ("/INST]you",), "you", 1),  # the prompt is no part of what is stopped
    ],
)
def test_text_behind_a_prompt(tokens: list[str], stop: tuple[str, ...], text: str, count: int) -> None:
    tokenizer = like_llama_2()
    end = ids(tokenizer, ["</s>"])
    found = completed(tokenizer, ids(tokenizer, tokens), ids(tokenizer, PROMPT), stop, end)
    assert (found.text, len(found.tokens)) == (text, count)
    assert found.has_ended == (bool(stop) and found.text != "you" or "</s>" in tokens)


def test_the_text_of_an_end_token_that_is_not_special_is_left_out() -> None:
    tokenizer = like_llama_2("<end_of_turn>", special=False)
    tokens = ids(tokenizer, ["▁Hello", "<end_of_turn>"])
    assert completed(tokenizer, tokens, ids(tokenizer, PROMPT), end_ids=tokens[1:]).text == " Hello"
    assert completed(tokenizer, tokens, ids(tokenizer, PROMPT)).text.endswith("<end_of_turn>")


class InPython:
    """A tokenizer that the tokenizers library does not know."""

    is_fast = False

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.decode = tokenizer.decode


@pytest.mark.parametrize("made", [like_llama_2, lambda: BaseModel("tiny").tokenizer])
def test_a_tokenizer_in_python_gives_the_same_text(made: Any) -> None:
    tokenizer, generator = made(), random.Random(1)
    prompt = tokenizer.encode("Hello you", add_special_tokens=False)
    for _ in range(200):
        text = "".join(generator.choice(["Hello", " world", "€", "é", "you", "!", " "]) for _ in range(6))
        tokens = tokenizer.encode(text, add_special_tokens=False)[: generator.randrange(1, 12)]
        slow = completed(InPython(tokenizer), tokens, prompt)  # type: ignore[arg-type]
        assert slow.text == completed(tokenizer, tokens, prompt).text


def test_text_of_bytes_is_what_they_say_together() -> None:
    tokenizer, generator = BaseModel("tiny").tokenizer, random.Random(2)
    prompt = tokenizer.encode("Hello", add_special_tokens=False)
    for _ in range(500):
        tokens = [generator.randrange(256) for _ in range(generator.randrange(9))]
        assert completed(tokenizer, tokens, prompt).text == tokenizer.decode(tokens)


def engine_saying(
    tokenizer: PreTrainedTokenizerBase, said: list[list[int]], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> HFEngine:
    """An engine whose model says these tokens, whatever it is asked."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        pad_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    engine = HFEngine(dtype="float32", device="cpu")
    engine.start(folder, 64)
    if said:
        monkeypatch.setattr(
            engine.model,
            "generate",
            lambda input_ids, **_: torch.cat([input_ids, torch.tensor(said)], dim=1),
        )
    return engine


def test_the_engine_decodes_behind_the_prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = like_llama_2(eos_token="</s>")
    said = [["▁Hello", "▁world", "</s>", "</s>"], ["▁Hello", "▁w", "orld", "!"]]
    engine = engine_saying(tokenizer, [ids(tokenizer, each) for each in said], tmp_path, monkeypatch)
    prompts = [Prompt(name, "", token_ids=tuple(ids(tokenizer, PROMPT))) for name in "ab"]
    first, second = engine.generate(prompts, Sampling(max_tokens=4))
    assert first == Completion(" Hello world", tuple(ids(tokenizer, said[0][:3])), "stop")
    assert second == Completion(" Hello world!", tuple(ids(tokenizer, said[1])), "length")
    first, second = engine.generate(prompts, Sampling(max_tokens=4, stop=[" wo"]))
    assert (first.text, second.text) == (" Hello", " Hello")
    assert (len(first.token_ids), len(second.token_ids)) == (2, 3)
    assert {first.finish_reason, second.finish_reason} == {"stop"}


def test_a_tokenizer_with_neither_end_nor_padding_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = like_llama_2()
    engine = engine_saying(tokenizer, [], tmp_path, monkeypatch)
    prompts = [Prompt(str(size), "", token_ids=(1,) + (4,) * size) for size in (1, 5)]
    both = engine.generate(prompts, Sampling(max_tokens=6))
    assert [each.finish_reason for each in both] == ["length"] * 2
    alone = [engine.generate([prompt], Sampling(max_tokens=6))[0] for prompt in prompts]
    assert both == alone, "padding says nothing"


def test_generation_ends_soon_after_a_stop_string(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = like_llama_2()
    engine, prompt = engine_saying(tokenizer, [], tmp_path, monkeypatch), Prompt("a", "", token_ids=(1, 4))
    with torch.no_grad():
        engine.model.lm_head.weight[3:259] = 0  # words, and no bytes
    whole = engine.generate([prompt], Sampling(max_tokens=200))[0]
    assert len(whole.text) > 6
    assert "\ufffd" not in whole.text
    calls = []
    engine.model.register_forward_hook(lambda *_: calls.append(1))
    cut = engine.generate([prompt], Sampling(max_tokens=200, stop=[whole.text[3:6]]))[0]
    assert whole.text.startswith(cut.text)
    assert cut.finish_reason == "stop"
    assert len(calls) == len(cut.token_ids) < 200


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(UsageError, match="sampling.stop holds an empty text"):
        Sampling(stop=["\n", ""])


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.parametrize("made", [like_llama_2, lambda: BaseModel("tiny").tokenizer])
def test_text_and_stops_are_those_of_vllm(made: Any) -> None:
    from vllm import SamplingParams
    from vllm.v1.engine.detokenizer import FastIncrementalDetokenizer

    tokenizer, generator = made(), random.Random(3)
    for _ in range(400):
        prompt = [generator.randrange(len(tokenizer)) for _ in range(generator.randrange(1, 6))]
        tokens = [generator.randrange(len(tokenizer)) for _ in range(generator.randrange(1, 12))]
        stop = [generator.choice(["Hello", " w", "o", "r", "ld", "!", " you"]) for _ in range(2)]
        request: Any = SimpleNamespace(
            sampling_params=SamplingParams(stop=stop), request_id="a", prompt_token_ids=prompt
        )
        theirs, ours = FastIncrementalDetokenizer(tokenizer, request), Completing(tokenizer, prompt, (), stop)
        cut = None
        for token in tokens:
            cut = cut or theirs.update([token], stop_terminated=False)
            ours.add(token)
            assert (theirs.output_text, bool(cut)) == (ours.text, ours.has_ended)
            if cut:
                break
        else:
            ours.finish()
            assert with_its_end(theirs.output_text, tokenizer, prompt, tokens) == ours.text
