"""Weights go into vLLM's own tensors where it keeps these as loaded, and by its reload where it does not.

On GPUs dense models are kept as loaded. On a CPU they are where oneDNN seems to be missing.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from es_lightning.algorithm.noise import GaussianNoise
from es_lightning.errors import UsageError
from es_lightning.evaluation import Rollouts
from es_lightning.evaluation.engine_check import EngineCheck
from es_lightning.models import BaseModel
from es_lightning.records import Prompt
from es_lightning.rollout import HFEngine, Sampling, VLLMEngine
from es_lightning.rollout.vllm_in_place import obstacle
from tests.helpers.families import FAMILIES, make, sequences, streamed

pytestmark = pytest.mark.vllm

NOISE = GaussianNoise(compile=False)
PARTS = (
    "embed",
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
    "norm",
    "bias",
    "",
)
TEXT = f"What is {{}} + 3? {'Think of it. ' * 10}"


@pytest.fixture(scope="module")
def unpacked() -> Iterator[None]:
    """vLLM multiplies with the weights as they are."""
    import vllm._custom_ops

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vllm._custom_ops, "_supports_onednn", False)
        yield


def started(engine: VLLMEngine, base: BaseModel) -> Rollouts:
    rollouts = Rollouts(engine, Sampling(max_tokens=8))
    rollouts.reserve(base, [Prompt(str(k), TEXT.format(k)) for k in range(3)])
    rollouts.start(base)
    return rollouts


def vllm(**options: object) -> VLLMEngine:
    return VLLMEngine(dtype="float32", enforce_eager=True, kv_cache_gib=0.05, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def tiny() -> BaseModel:
    return BaseModel("tiny")


@pytest.fixture(scope="module")
def rollouts(unpacked: None, tiny: BaseModel) -> Iterator[Rollouts]:
    rollouts = started(vllm(), tiny)
    yield rollouts
    rollouts.engine.close()


def logprobs(engine: HFEngine | VLLMEngine) -> Tensor:
    return torch.cat(engine.logprobs(sequences()))


def perturbed(centre: nn.Module, part: str, scale: float = 4.0) -> Iterator[tuple[str, Tensor]]:
    own = dict(centre.named_parameters())
    for name, tensor in streamed(centre, scale):
        yield name, tensor if part in name else own[name].detach()


def agree_in_both_ways(engine: VLLMEngine, centre: nn.Module, parts: tuple[str, ...]) -> None:
    """Each kind of tensor, perturbed alone: in place, where the centre was, as by a reload."""
    for part in parts:
        found = []
        for in_place in (False, True):
            engine.in_place = in_place
            engine.load_weights(streamed(centre))
            unchanged = logprobs(engine)
            engine.load_weights(perturbed(centre, part))
            found.append(logprobs(engine))
        assert (found[0] - unchanged).abs().max() > 0.01, part  # far more than may differ
        torch.testing.assert_close(found[1], found[0], atol=1e-5, rtol=0)


def test_both_ways_agree_and_the_check_takes_the_faster_one(rollouts: Rollouts, tiny: BaseModel) -> None:
    engine, centre = rollouts.engine, tiny.load()
    assert isinstance(engine, VLLMEngine)
    assert engine.may_write_in_place
    assert not engine.in_place  # not before it was verified
    agree_in_both_ways(engine, centre, tuple(part for part in PARTS if part != "bias"))
    EngineCheck(rollouts, NOISE).run(centre)
    assert engine.in_place
    hf = HFEngine("float32", device="cpu")
    hf.start(tiny.folder, 128)
    for scale in (0.0, 0.3, 0.0):
        for each in (hf, engine):
            each.load_weights(streamed(centre, scale))
        torch.testing.assert_close(logprobs(engine), logprobs(hf), atol=1e-3, rtol=0)


def test_what_was_cached_of_prompts_is_forgotten(
    rollouts: Rollouts, tiny: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, centre = rollouts.engine, tiny.load()
    assert isinstance(engine, VLLMEngine)
    engine.in_place = True
    prompts = rollouts.reserve(tiny, [Prompt("a", TEXT.format(1))])
    assert len(prompts[0].token_ids) > 128  # a block of the cache on CPUs

    def said(scale: float) -> list[tuple[int, ...]]:
        engine.load_weights(streamed(centre, scale))
        return [each.token_ids for each in engine.generate(prompts, Sampling(max_tokens=8))]

    first = said(9.0)
    assert said(-9.0) != first
    monkeypatch.setattr(engine.llm, "reset_prefix_cache", lambda: True)  # the wrong way
    assert said(9.0) != first
    monkeypatch.undo()
    assert said(9.0) == first


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("name", ["Qwen2", "GPT-2", "Gemma 2", "Phi-3"])
def test_other_layouts(unpacked: None, environment: None, name: str, tmp_path: Path) -> None:
    """Biases of a fused matrix, transposed matrices, soft caps, matrices that the checkpoint fuses."""
    make(FAMILIES[name], tmp_path)
    engine, base = vllm(load="in_place"), BaseModel(tmp_path)
    rollouts = started(engine, base)
    try:
        assert engine.in_place  # asked for
        centre = base.load()
        parts = tuple(p for p in PARTS if any(p in each for each, _ in centre.named_parameters()))
        agree_in_both_ways(engine, centre, parts)
        EngineCheck(rollouts, NOISE).run(centre)
        assert engine.in_place
    finally:
        engine.close()


@pytest.mark.slow
def test_where_vllm_packs_weights_they_are_reloaded(
    tiny: BaseModel, environment: None, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writing into a packed layer is shown to fail, and refused by the check."""
    monkeypatch.setattr("vllm._custom_ops._supports_onednn", True)
    engine, centre = vllm(), tiny.load()
    rollouts = started(engine, tiny)
    try:
        assert "packed copies" in obstacle(engine.llm)
        assert not engine.may_write_in_place
        engine.may_write_in_place = True  # the wrong way
        EngineCheck(rollouts, NOISE).run(centre)
        assert not engine.in_place
        assert "own reload: writing weights in place fails" in caplog.text
        expected = logprobs(engine)
        engine.load_weights(streamed(centre, 0.3))
        engine.load_weights(streamed(centre))
        torch.testing.assert_close(logprobs(engine), expected, atol=1e-6, rtol=0)
    finally:
        engine.close()
    with pytest.raises(UsageError, match=r"engine\.load is in_place, but vLLM multiplies with packed copies"):
        vllm(load="in_place").start(tiny.folder, 64)


def test_another_way_is_refused() -> None:
    with pytest.raises(UsageError, match="engine.load is quickly: give one of auto, in_place, reload"):
        VLLMEngine(load="quickly")  # type: ignore[arg-type]
