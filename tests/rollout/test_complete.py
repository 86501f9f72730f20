"""Open prompts are generated, choices compared by their log-likelihoods; both in the order of the prompts."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from es_lightning.models import BaseModel
from es_lightning.records import Choice, Completion, Prompt
from es_lightning.rollout import RolloutEngine, Sampling, encode
from es_lightning.rollout.complete import complete


class Known(RolloutEngine):
    """A model whose every token has a log-probability of minus a tenth of its id; notes what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[list[Prompt]] = []
        self.sequences: list[list[tuple[int, ...]]] = []

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    def start(self, folder: Path, max_length: int) -> None:
        pass

    def load_weights(self, named_tensors: Iterable[tuple[str, Tensor]]) -> None:
        pass

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
        self.asked.append(list(prompts))
        return [Completion(f"{p.id} sample {i}", (i,), "length") for p in prompts for i in range(sampling.n)]

    def logprobs(self, sequences: Sequence[Sequence[int]]) -> list[Tensor]:
        self.sequences.append([tuple(sequence) for sequence in sequences])
        assert all(len(sequence) >= 2 for sequence in sequences)
        return [torch.tensor([-token / 10 for token in sequence[1:]]) for sequence in sequences]

    def close(self) -> None:
        pass


def choose(name: str, *tails: tuple[int, ...]) -> Prompt:
    """A prompt of the tokens 90, 91 with these choices."""
    choices = (Choice(f"{name}{tail}", "", (90, 91, *tail), len(tail)) for tail in tails)
    return Prompt(name, "?", choices=tuple(choices), token_ids=(90, 91))


GREEDY = Sampling(max_tokens=5)
TWO = Sampling(max_tokens=5, temperature=1.0, n=2)
OPEN = [Prompt(name, "?", token_ids=(1,)) for name in ("open 0", "open 1")]
CHOICES = [choose("x", (5, 6), (3,), (2, 2)), choose("y", (1,), (1, 0))]


def test_a_choice_is_as_likely_as_the_product_of_its_scored_tokens() -> None:
    [x, y] = complete(Known(), CHOICES, GREEDY)
    assert x.choice_logprobs == pytest.approx([-1.1, -0.3, -0.4])
    assert y.choice_logprobs == pytest.approx([-0.1, -0.1])
    assert (x.text, x.token_ids, x.finish_reason) == ("x(3,)", (3,), "choice")
    assert y.text == "y(1,)"  # the first of equals


def test_sums_are_taken_in_double_precision() -> None:
    class Tiny(Known):
        def logprobs(self, sequences: Sequence[Sequence[int]]) -> list[Tensor]:
            return [torch.tensor([-9.0, -(2.0**24)] + [-1.0] * 9) for _ in sequences]

    [completion] = complete(Tiny(), [choose("x", tuple(range(10)))], GREEDY)
    assert completion.choice_logprobs == (-(2.0**24) - 9,)  # float32 would lose every single 1


def test_mixed_prompts_keep_their_order_and_each_kind_is_asked_for_once() -> None:
    engine = Known()
    mixed = [CHOICES[0], OPEN[0], OPEN[1], CHOICES[1]]
    assert [c.text for c in complete(engine, mixed, GREEDY)] == [
        *("x(3,)", "open 0 sample 0", "open 1 sample 0", "y(1,)"),
    ]
    assert engine.asked == [OPEN]
    assert engine.sequences == [[c.token_ids for prompt in CHOICES for c in prompt.choices]]


def test_samples_stand_side_by_side_and_choices_are_repeated() -> None:
    completions = complete(Known(), [OPEN[0], CHOICES[0], OPEN[1]], TWO)
    samples = [f"{prompt.id} sample {i}" for prompt in OPEN for i in range(2)]
    assert [c.text for c in completions] == [*samples[:2], "x(3,)", "x(3,)", *samples[2:]]
    assert completions[2] == completions[3]


@pytest.mark.parametrize("prompts", [[], OPEN, CHOICES])
def test_nothing_is_asked_for_that_no_prompt_needs(prompts: list[Prompt]) -> None:
    engine = Known()
    assert len(complete(engine, prompts, TWO)) == 2 * len(prompts)
    assert len(engine.asked) == (prompts == OPEN)
    assert len(engine.sequences) == (prompts == CHOICES)


tails = st.lists(st.lists(st.integers(0, 50), min_size=1, max_size=4).map(tuple), min_size=1, max_size=4)
pieces = st.lists(st.none() | tails, max_size=6)


@given(pieces, st.integers(1, 3))
def test_any_mix_comes_back_in_order(plan: list[list[tuple[int, ...]] | None], n: int) -> None:
    prompts = [Prompt(f"{i}", "?") if part is None else choose(f"{i}", *part) for i, part in enumerate(plan)]
    completions = complete(Known(), prompts, Sampling(temperature=1.0, n=n))
    assert len(completions) == n * len(prompts)
    for i, (part, prompt) in enumerate(zip(plan, prompts, strict=True)):
        own = completions[i * n : (i + 1) * n]
        if part is None:
            assert [c.text for c in own] == [f"{prompt.id} sample {j}" for j in range(n)]
        else:
            sums = [math.fsum(-token / 10 for token in tail) for tail in part]
            assert own == own[:1] * n
            assert own[0].choice_logprobs == pytest.approx(sums, rel=1e-6, abs=1e-6)
            assert -sum(own[0].token_ids) / 10 == pytest.approx(max(sums))


# Choices become token ids


@pytest.fixture(scope="module")
def tiny() -> PreTrainedTokenizerBase:
    return BaseModel("tiny").tokenizer


@pytest.fixture(scope="module")
def merging() -> PreTrainedTokenizerBase:
    """A tokenizer with a BOS before and an EOS behind every text, and tokens for ``: A`` and ``ab``."""
    letters = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "ĠA", ":ĠA", "ab", "<s>", "</s>"]
    vocabulary = {letter: i for i, letter in enumerate(letters)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[("Ġ", "A"), (":", "ĠA"), ("a", "b")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[(name, vocabulary[name]) for name in ("<s>", "</s>")]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = "{{ bos_token }}{% for m in messages %}[{{ m['content'] }}]{% endfor %}"
    return tokenizer


def encoded(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, *choices: Choice) -> tuple[Choice, ...]:
    return encode([replace(prompt, choices=choices)], tokenizer)[0].choices


RAW, CHAT = Prompt("raw", "Say:", chat=False), Prompt("chat", "Say:", system="Be brief.", prefill="I say")
PAIRS = [Choice(" yes"), Choice(" é€ 数", before=" or")]


def test_a_raw_choice_is_the_whole_text_in_one_go(tiny: PreTrainedTokenizerBase) -> None:
    first, second = encoded(tiny, RAW, *PAIRS)
    assert list(first.token_ids) == tiny("Say: yes")["input_ids"]
    assert list(second.token_ids) == tiny("Say: or é€ 数")["input_ids"]
    assert (first.scored, second.scored) == (len(b" yes"), len(" é€ 数".encode()))  # a token per byte


def test_a_choice_stands_behind_template_and_prefill(tiny: PreTrainedTokenizerBase) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say:"}]
    template = tiny.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    first, second = encoded(tiny, CHAT, *PAIRS)
    assert list(first.token_ids) == template + tiny("I say yes")["input_ids"]
    assert list(second.token_ids) == template + tiny("I say or é€ 数")["input_ids"]
    assert (first.text, second.before) == (" yes", " or")


@pytest.mark.parametrize(
    ("text", "before", "choice", "scored"),
    [
        ("Say:", "", " A", [":ĠA"]),  # the token reaches back over the boundary
        ("Say:", "", " B", ["Ġ", "B"]),
        ("Say", ": ", "A", [":ĠA"]),
        ("Say", ":", " Aab", [":ĠA", "ab"]),
        ("xa", "", "b", ["ab"]),
        ("xa", "", "ab", ["ab"]),
        ("x", "ab", "ab", ["ab"]),
        ("<s>xa", "", "b", ["ab"]),
        ("", "", "b", ["b"]),
        ("x", "", "", ["x"]),  # without a token of its own, it is as likely as the last that is there
    ],
)
def test_what_is_scored_begins_where_the_tokens_differ(
    merging: PreTrainedTokenizerBase, text: str, before: str, choice: str, scored: list[str]
) -> None:
    [one] = encoded(merging, Prompt("p", text, chat=False), Choice(choice, before))
    assert merging.convert_ids_to_tokens(one.token_ids[-one.scored :]) == scored
    whole = merging.decode(one.token_ids)
    assert whole == "<s>" + text.removeprefix("<s>") + before + choice  # one BOS, no EOS


def test_a_chat_has_one_bos_and_no_eos(merging: PreTrainedTokenizerBase) -> None:
    [one] = encoded(merging, Prompt("p", "Say", prefill=":"), Choice(" A"))
    assert merging.convert_ids_to_tokens(one.token_ids) == ["<s>", "[", "S", "a", "y", "]", ":ĠA"]
    assert one.scored == 1


words = st.text("ab: A\né", max_size=6)


@given(words.filter(bool), words, words.filter(bool), st.booleans())
def test_scored_tokens_hold_the_choice_and_as_little_else_as_can_be(
    tiny: PreTrainedTokenizerBase,
    merging: PreTrainedTokenizerBase,
    text: str,
    before: str,
    choice: str,
    chat: bool,
) -> None:
    prompt = Prompt("p", text, chat=chat)
    for tokenizer in (tiny, merging):
        [prefix] = encode([replace(prompt, prefill=before)], tokenizer)
        [one] = encoded(tokenizer, prompt, Choice(choice, before))
        assert 1 <= one.scored < len(one.token_ids)
        assert choice in tokenizer.decode(one.token_ids[-one.scored :])
        given, rest = prefix.token_ids, one.token_ids[: -one.scored]
        assert rest == given[: len(rest)]
        if len(rest) > 1:
            assert (*rest, one.token_ids[len(rest)]) != given[: len(rest) + 1]
