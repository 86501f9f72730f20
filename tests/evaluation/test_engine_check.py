"""An engine that computes with other weights than it was given is refused before the first generation."""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from es_lightning.algorithm.noise import CorrelatedNoise, GaussianNoise
from es_lightning.distributed.ranks import Ranks
from es_lightning.errors import UsageError
from es_lightning.evaluation import Rollouts
from es_lightning.evaluation.engine_check import EngineCheck
from es_lightning.evaluation.reference import reference_logprobs
from es_lightning.models import BaseModel
from es_lightning.records import Prompt
from es_lightning.rollout import HFEngine, RolloutEngine, Sampling
from tests.helpers import ranks
from tests.helpers.families import FAMILIES, make
from tests.helpers.fits import Letters, fit
from tests.helpers.stale import (
    Drops,
    NotFinite,
    OneBehind,
    OtherKernels,
    Raises,
    StaleHead,
    SwapsExperts,
)

NOISE = GaussianNoise(compile=False)
TEXTS = ("What is the capital of France?", "Name the largest planet.", "a")


@pytest.fixture(scope="module")
def base() -> BaseModel:
    return BaseModel("tiny")


@pytest.fixture(scope="module")
def centre(base: BaseModel) -> nn.Module:
    return base.load()


def started(base: BaseModel, engine: RolloutEngine, texts: tuple[str, ...] = TEXTS) -> Rollouts:
    rollouts = Rollouts(engine, Sampling(max_tokens=6))
    rollouts.reserve(base, [Prompt(text, text) for text in texts])
    rollouts.start(base)
    return rollouts


def hf(dtype: Any) -> HFEngine:
    return HFEngine(dtype, device="cpu")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("noise", [NOISE, CorrelatedNoise()], ids=["gaussian", "correlated"])
def test_a_right_engine_passes_and_holds_the_centre(
    base: BaseModel, centre: nn.Module, dtype: str, noise: Any
) -> None:
    before = {name: tensor.clone() for name, tensor in centre.state_dict().items()}
    rollouts = started(base, hf(dtype))
    result = EngineCheck(rollouts, noise).run(centre)
    assert result["difference"] <= result["bound"] <= (0.001 if dtype == "float32" else 0.01)
    assert result["tokens"] == sum(map(len, rollouts.sample)) >= 64
    assert json.loads(json.dumps(result)) == result
    for name, tensor in rollouts.engine.model.named_parameters():  # type: ignore[attr-defined]
        assert torch.equal(tensor, before[name].to(tensor.dtype))
    for name, tensor in centre.state_dict().items():
        assert torch.equal(tensor, before[name])
        assert tensor.dtype == torch.float32


LAYER = r"model\.layers\.\*\."
GROUPS = {
    "embed_tokens": r"model\.embed_tokens\.",
    "self_attn": rf"{LAYER}self_attn\.[qkvo]_proj, {LAYER}self_attn",
    "q_proj": rf"{LAYER}self_attn\.q_proj\.",
    "mlp": rf"{LAYER}mlp\.gate_proj, {LAYER}mlp\.up_proj, {LAYER}mlp\.down_proj\.",
    "down_proj": rf"{LAYER}mlp\.down_proj\.",
    "input_layernorm": rf"{LAYER}input_layernorm\.",
    "model.norm": r"model\.norm\.",
    "layers.1.mlp": rf"{LAYER}mlp\.gate_proj, ",
}


@pytest.mark.parametrize(
    "dtype", ["bfloat16", *(pytest.param(each, marks=pytest.mark.slow) for each in ("float32", "float16"))]
)
@pytest.mark.parametrize("word", GROUPS)
def test_what_an_engine_drops_is_named(base: BaseModel, centre: nn.Module, word: str, dtype: str) -> None:
    rollouts = started(base, Drops(word, dtype))
    with pytest.raises(UsageError, match=rf"Drops differs .* of a LlamaForCausalLM .*off: {GROUPS[word]}"):
        EngineCheck(rollouts, NOISE).run(centre)


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], BaseModel]:
    """A tiny model of a family, by its name."""
    folder = tmp_path_factory.mktemp("families")

    def made(name: str) -> BaseModel:
        if not (folder / name).exists():
            make(FAMILIES[name], folder / name)
        return BaseModel(folder / name)

    return made


QWEN, MOE, GPT = "Qwen2", "Qwen3-MoE", "GPT-2"
SMALL_FAULTS = [
    (QWEN, Drops("layers.1.self_attn.v_proj.bias"), "self_attn.v_proj"),
    (QWEN, Drops("layers.0.self_attn.q_proj.bias"), "self_attn.q_proj"),
    (QWEN, Drops("layers.1.post_attention_layernorm"), "post_attention_layernorm"),
    (GPT, Drops("h.1.mlp.c_proj.bias"), "mlp.c_proj"),
    (GPT, Drops("h.1.ln_1.bias"), "ln_1"),
    (MOE, Drops("layers.1.mlp.gate.weight"), "mlp.gate"),
    (MOE, Drops("layers.1.self_attn.q_norm"), "self_attn.q_norm"),
    (MOE, SwapsExperts(), "the whole model, with the base's own weights too"),
]
"""One tensor of one layer, or a part of one; in bfloat16 each was hidden by rounding with smaller noise."""


@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float32", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("name", "engine", "group"), SMALL_FAULTS)
def test_one_tensor_of_one_layer_is_enough(
    family: Callable[[str], BaseModel], name: str, engine: HFEngine, group: str, dtype: Any
) -> None:
    engine.dtype_name, base = dtype, family(name)
    with pytest.raises(UsageError, match=rf"differs .*{re.escape(group)}[.,]"):
        EngineCheck(started(base, engine), NOISE).run(base.load())


@pytest.mark.parametrize("max_tokens", [1, 3, 100])
@pytest.mark.parametrize("name", [QWEN, MOE, GPT, "Gemma 2", "BLOOM"])
def test_other_kernels_are_no_fault_however_short_the_prompts(
    family: Callable[[str], BaseModel], name: str, max_tokens: int
) -> None:
    base = family(name)
    rollouts = Rollouts(OtherKernels("bfloat16", device="cpu"), Sampling(max_tokens=max_tokens))
    rollouts.reserve(base, [Prompt(text, text, chat=False) for text in ("Hi.", "Tell")])
    rollouts.start(base)
    result = EngineCheck(rollouts, NOISE).run(base.load())
    assert 0 < result["difference"] <= result["bound"]


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        (StaleHead, r"StaleHead differs .* nats.*off: model\.embed_tokens\. Take --model.engine HFEngine"),
        (OneBehind, r"OneBehind differs .*off: model\.layers\.\*\.mlp\.gate_proj"),
        (NotFinite, r"NotFinite differs .*by inf nats"),
        (Raises, r"Raises fails on new weights .*\(ValueError: There is no .* named 'layers.0.mlp' in Mix"),
    ],
)
def test_other_ways_to_be_wrong(base: BaseModel, centre: nn.Module, engine: Any, message: str) -> None:
    rollouts = started(base, engine("float32", device="cpu"))
    with pytest.raises(UsageError, match=message) as raised:
        EngineCheck(rollouts, NOISE).run(centre)
    assert "\n" not in str(raised.value)


def test_the_tokens_are_those_of_the_first_prompts_and_no_more_than_there_is_room_for(
    base: BaseModel, centre: nn.Module
) -> None:
    rollouts = Rollouts(hf("float32"), Sampling(max_tokens=6))
    first, second = rollouts.reserve(base, [Prompt(text, text) for text in TEXTS[:2]])
    rollouts.start(base)
    both = [*first.token_ids, *second.token_ids]
    length = len(first.token_ids) + 5  # vLLM generates one token more
    assert rollouts.sample[0] == both[:length]
    assert rollouts.sample[1] == [*both, *both][1 : length + 1]
    assert {len(row) for row in rollouts.sample} == {length}
    assert 64 <= length * len(rollouts.sample) < 64 + length
    rollouts.reserve(base, [Prompt("long", "b" * 200)])
    rollouts.start(base)
    [row] = rollouts.sample
    assert row[: len(both)] == both
    assert len(row) == 64


def test_few_tokens_are_taken_again_and_again(base: BaseModel, centre: nn.Module) -> None:
    one = Rollouts(hf("float32"), Sampling(max_tokens=1))
    [prompt] = one.reserve(base, [Prompt("b", "b", chat=False)])
    one.start(base)
    assert one.sample == [[*prompt.token_ids, *prompt.token_ids]] * 32
    assert EngineCheck(one, NOISE).run(centre)["tokens"] == 64
    long = Rollouts(hf("float32"), Sampling(max_tokens=100))
    [prompt] = long.reserve(base, [Prompt("bc", "bc", chat=False)])
    long.start(base)
    assert long.sample == [[*prompt.token_ids] * 32]


def test_a_model_that_is_broken_itself_is_left_to_those_who_say_so(base: BaseModel) -> None:
    broken = base.load()
    broken.get_parameter("model.norm.weight").data.fill_(torch.nan)
    rollouts = started(base, hf("float32"))
    assert EngineCheck(rollouts, NOISE).run(broken)["difference"] == 0


def test_weights_are_put_back_when_a_layer_fails(centre: nn.Module) -> None:
    before = [parameter.clone() for parameter in centre.parameters()]
    with pytest.raises(IndexError):
        reference_logprobs(centre, [[1, 10**6]], lambda name, theta: theta + 1)
    with pytest.raises(ZeroDivisionError):
        reference_logprobs(
            centre,
            [[1, 2]],
            lambda name, theta: theta + 1 if "layers.1.mlp" not in name else theta / (1 // 0),
        )
    assert all(torch.equal(old, new) for old, new in zip(before, centre.parameters(), strict=True))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in centre.modules())


class TwoRanks(Ranks):
    """Another rank, which says what it is told to."""

    def __init__(self, said: dict[str, Any]) -> None:
        super().__init__()
        self.world, self.said = 2, said

    def exchange(self, payload: bytes) -> list[bytes]:
        """Both ranks' bytes."""
        return [payload, json.dumps(self.said).encode()]


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"difference": 2.5, "bound": 0.001, "error": ""}, "by 2.5 nats per token, and 0.001 is allowed"),
        ({"difference": 0.0, "bound": 0.0, "error": "KeyError: 'w'"}, "HFEngine fails on .*KeyError: 'w'"),
    ],
)
def test_one_wrong_rank_stops_all(
    base: BaseModel, centre: nn.Module, said: dict[str, Any], message: str
) -> None:
    rollouts = started(base, hf("float32"))
    with pytest.raises(UsageError, match=message):
        EngineCheck(rollouts, NOISE, TwoRanks(said)).run(centre)


@pytest.mark.ddp
@pytest.mark.slow
def test_one_wrong_engine_of_two_ranks_stops_both_at_once(tmp_path: Path) -> None:
    begun = time.monotonic()
    run = ranks.Run(tmp_path, options={"engine": Drops("mlp", rank=1)})
    assert ranks.fit(run, world=2) == [1, 1]
    assert time.monotonic() - begun < 30
    for rank in (0, 1):
        assert "UsageError: Drops differs from transformers" in run.log(rank)
        assert "off: model.layers.*.mlp.gate_proj, " in run.log(rank)
    assert not (tmp_path / "journal.jsonl").exists()


def header(folder: Path) -> dict[str, Any]:
    line = (folder / "journal.jsonl").read_text(encoding="utf-8").splitlines()[0]
    found: dict[str, Any] = json.loads(line)
    return found


def test_a_run_begins_with_the_check_and_its_journal_says_so(tmp_path: Path) -> None:
    fit(Letters(), tmp_path, steps=1, noise=NOISE)
    assert header(tmp_path)["engine_check"] == {"tokens": 75, "difference": 0.0, "bound": 0.001}


def test_a_run_with_a_wrong_engine_ends_before_its_first_generation(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="off: model.layers"):
        fit(Letters(), tmp_path, engine=Drops("mlp"), noise=NOISE)
    assert not (tmp_path / "journal.jsonl").exists()


def test_the_check_can_be_left_out(tmp_path: Path) -> None:
    fit(Letters(), tmp_path, steps=1, engine=Drops("mlp"), noise=NOISE, check_engine=False)
    assert header(tmp_path)["engine_check"] == {"skipped": True}


def test_the_check_of_a_tiny_model_takes_no_time(base: BaseModel, centre: nn.Module) -> None:
    rollouts = started(base, hf("float32"))
    times = []
    for _ in range(4):
        begun = time.process_time()
        EngineCheck(rollouts, NOISE).run(centre)
        times.append(time.process_time() - begun)
    assert min(times) < 0.1  # about 0.03 s on an idle core
