"""Every engine against the same contract, and vLLM against transformers, in float32."""

import copy
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from es_lightning.errors import DivergenceError, UsageError
from es_lightning.models import BaseModel
from es_lightning.models.base_model import resolve
from es_lightning.models.export import export
from es_lightning.records import Prompt
from es_lightning.rollout import (
    HFEngine,
    RolloutEngine,
    Sampling,
    VLLMAdapterEngine,
    VLLMEngine,
    complete,
    encode,
)
from es_lightning.tasks import Conciseness, MultipleChoice

TEXTS = (
    "What is the capital of France?",
    "Name the largest planet.",
    "What is 3 + 5?",
    "Give the opposite of hot.",
)
KINDS = {
    "embedding with tied head": "embed_tokens",
    "q": "q_proj",
    "k": "k_proj",
    "v": "v_proj",
    "o": "o_proj",
    "gate": "gate_proj",
    "up": "up_proj",
    "down": "down_proj",
    "norms": "norm",
    "all together": "",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every fifth layer of the embedded model: real weights, tied head, grouped-query attention."""
    whole, cut = resolve("embedded"), tmp_path_factory.mktemp("cut")
    shutil.copytree(whole, cut, ignore=shutil.ignore_patterns("*.safetensors"), dirs_exist_ok=True)
    config = json.loads((cut / "config.json").read_text())
    layers = {f".layers.{i}.": f".layers.{i // 5}." for i in range(0, config["num_hidden_layers"], 5)}
    (cut / "config.json").write_text(json.dumps(config | {"num_hidden_layers": len(layers)}))
    tensors = load_file(whole / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if ".layers." not in name}
    for old, new in layers.items():
        kept |= {name.replace(old, new): tensor for name, tensor in tensors.items() if old in name}
    save_file(kept, cut / "model.safetensors", metadata={"format": "pt"})
    return cut


@pytest.fixture(scope="module")
def centre(folder: Path) -> PreTrainedModel:
    return BaseModel(folder).load()


@pytest.fixture(scope="module")
def prompts(folder: Path) -> list[Prompt]:
    return encode([Prompt(text, text) for text in TEXTS], BaseModel(folder).tokenizer)


@pytest.fixture(scope="module")
def hf(folder: Path) -> Iterator[RolloutEngine]:
    engine = HFEngine(dtype="float32", device="cpu")
    engine.start(folder, 128)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def vllm(folder: Path) -> Iterator[RolloutEngine]:
    engine = VLLMEngine(dtype="float32", enforce_eager=True, kv_cache_gib=0.25)
    engine.start(folder, 512)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def in_bfloat16() -> Iterator[list[RolloutEngine]]:
    """The whole model: transformers in bfloat16 and, for comparison, float32; vLLM in bfloat16."""
    vllm = VLLMEngine(dtype="bfloat16", enforce_eager=True, kv_cache_gib=0.25)
    engines = [HFEngine(dtype="bfloat16", device="cpu"), HFEngine(dtype="float32", device="cpu"), vllm]
    for engine in engines:
        engine.start(resolve("embedded"), 512)
    yield engines
    for engine in engines:
        engine.close()


@pytest.fixture(scope="module")
def adapters(folder: Path) -> Iterator[RolloutEngine]:
    """With room for adapters, and none of them."""
    engine = VLLMAdapterEngine(dtype="float32", enforce_eager=True, kv_cache_gib=0.25)
    engine.expect(engine.reached(folder), 1, 2)
    engine.start(folder, 512)
    yield engine
    engine.close()


@pytest.fixture(
    scope="module",
    params=[
        "hf",
        pytest.param("vllm", marks=[pytest.mark.vllm, pytest.mark.slow]),
        pytest.param("adapters", marks=[pytest.mark.vllm, pytest.mark.slow, pytest.mark.long]),
    ],
)
def engine(request: pytest.FixtureRequest) -> RolloutEngine:
    started: RolloutEngine = request.getfixturevalue(request.param)
    return started


def perturbed(centre: PreTrainedModel, part: str, scale: float = 0.01) -> Iterator[tuple[str, Tensor]]:
    """The centre with normal noise on the tensors whose name holds a word, streamed."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in centre.named_parameters():
        if part in name:
            noise = torch.randn(parameter.shape, generator=generator)
            yield name, parameter.detach() + scale * noise
        else:
            yield name, parameter.detach()


def logits_of(engine: RolloutEngine, prompts: list[Prompt]) -> Tensor:
    return torch.cat(engine.logprobs([prompt.token_ids for prompt in prompts]))


def test_loading_the_centre_again_gives_back_the_first_answers(
    engine: RolloutEngine, centre: PreTrainedModel, prompts: list[Prompt]
) -> None:
    sampling, prompts = Sampling(max_tokens=8), prompts[:3]
    engine.load_weights(perturbed(centre, "nothing of this name"))
    first, first_logprobs = engine.generate(prompts, sampling), logits_of(engine, prompts)
    for part in ("embed", "q_proj", ""):
        engine.load_weights(perturbed(centre, part, scale=0.05))
        assert engine.generate(prompts, sampling) != first
    engine.load_weights(perturbed(centre, "nothing of this name"))
    assert engine.generate(prompts, sampling) == first
    assert torch.equal(logits_of(engine, prompts), first_logprobs)


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.parametrize("part", [pytest.param(part, id=name) for name, part in KINDS.items()])
def test_both_engines_agree_whichever_tensor_is_perturbed(
    hf: RolloutEngine, vllm: RolloutEngine, centre: PreTrainedModel, prompts: list[Prompt], part: str
) -> None:
    for started in (hf, vllm):
        started.load_weights(perturbed(centre, "nothing of this name"))
    unperturbed = logits_of(hf, prompts)
    for started in (hf, vllm):
        started.load_weights(perturbed(centre, part))
    expected = logits_of(hf, prompts)
    assert (expected - unperturbed).abs().max() > 0.01  # the perturbation is one that can be seen
    torch.testing.assert_close(logits_of(vllm, prompts), expected, atol=1e-3, rtol=0)


def test_logprobs_are_those_of_transformers(
    hf: RolloutEngine, centre: PreTrainedModel, prompts: list[Prompt]
) -> None:
    hf.load_weights(perturbed(centre, "nothing of this name"))
    ids = torch.tensor([prompts[0].token_ids])
    with torch.no_grad():
        expected = -torch.nn.functional.cross_entropy(
            centre(ids).logits[0, :-1], ids[0, 1:], reduction="none"
        )
    torch.testing.assert_close(hf.logprobs(ids.tolist())[0], expected, atol=1e-5, rtol=0)


def test_an_engine_tells_the_whole_distributions_that_its_logprobs_are_of_or_says_that_it_does_not(
    engine: RolloutEngine, centre: PreTrainedModel, prompts: list[Prompt]
) -> None:
    sequences = [prompt.token_ids for prompt in prompts]
    positions = [[1, len(ids) - 1] for ids in sequences]
    if not engine.gives_distributions:
        with pytest.raises(UsageError, match="does not tell the log-probabilities of the whole vocabulary"):
            engine.distributions(sequences, positions)
        return
    engine.load_weights(perturbed(centre, "nothing of this name"))
    found = list(engine.distributions(sequences, positions))
    for rows, logprobs, ids in zip(found, engine.logprobs(sequences), sequences, strict=True):
        assert rows.shape == (2, centre.config.vocab_size)
        torch.testing.assert_close(rows.logsumexp(-1), torch.zeros(2), atol=1e-5, rtol=0)
        told = [float(rows[0, ids[1]]), float(rows[1, ids[-1]])]
        assert told == pytest.approx([float(logprobs[0]), float(logprobs[-1])], abs=1e-5)


@pytest.mark.vllm
@pytest.mark.slow
def test_a_prefix_in_common_is_computed_once_per_member_and_never_taken_from_another_one(
    hf: RolloutEngine,
    vllm: VLLMEngine,
    centre: PreTrainedModel,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    beginning = "Here are some numbers: " + " ".join(str(number) for number in range(100))
    texts = [Prompt(text, f"{beginning}\n{text}") for text in TEXTS]
    prompts, sampling = encode(texts, BaseModel(folder).tokenizer), Sampling(max_tokens=12)
    assert min(len(prompt.token_ids) for prompt in prompts) > 256  # two blocks of the cache on CPUs
    assert vllm.llm.llm_engine.vllm_config.cache_config.enable_prefix_caching
    for part in ("", "nothing of this name"):
        hf.load_weights(perturbed(centre, part))
        vllm.load_weights(perturbed(centre, part))
        answers = vllm.generate(prompts, sampling)
        assert answers == hf.generate(prompts, sampling)
        assert vllm.generate(prompts, sampling) == answers  # the second time from the cache
    monkeypatch.setattr(vllm.llm, "reset_prefix_cache", lambda: True)  # the wrong way
    vllm.load_weights(perturbed(centre, ""))
    stale = vllm.generate(prompts, sampling)
    monkeypatch.undo()
    vllm.load_weights(perturbed(centre, ""))
    assert stale != vllm.generate(prompts, sampling)


@pytest.mark.vllm
@pytest.mark.slow
def test_both_engines_find_the_choices_alike(
    hf: RolloutEngine, vllm: RolloutEngine, centre: PreTrainedModel, folder: Path
) -> None:
    task = MultipleChoice("hellaswag", "sample", mode="loglikelihood")
    choices = encode(task.problems("test")[:3], BaseModel(folder).tokenizer)
    answers = []
    for started in (hf, vllm):
        started.load_weights(perturbed(centre, "nothing of this name"))
        answers.append(complete(started, choices, Sampling()))
    for prompt, ours, theirs in zip(choices, *answers, strict=True):
        tokens = max(choice.scored for choice in prompt.choices)
        assert theirs.choice_logprobs == pytest.approx(ours.choice_logprobs, abs=1e-3 * tokens)
        assert (theirs.text, theirs.finish_reason) == (ours.text, "choice")


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.long
@pytest.mark.tasks
def test_in_bfloat16_both_engines_agree_to_a_hundredth_of_a_nat_per_token(
    in_bfloat16: list[RolloutEngine],
) -> None:
    """On average: a single token differs by as much as bfloat16 does from float32 within transformers."""
    tokenizer = BaseModel(resolve("embedded")).tokenizer
    asked = encode(Conciseness().problems("train")[:24], tokenizer)
    said = in_bfloat16[-1].generate(asked, Sampling(max_tokens=64))
    texts = [(p.token_ids + c.token_ids, len(c.token_ids)) for p, c in zip(asked, said, strict=True)]
    for name in ("hellaswag", "piqa", "winogrande"):
        task = MultipleChoice(name, "sample", mode="loglikelihood")
        choices = [c for p in encode(task.problems("test"), tokenizer) for c in p.choices]
        texts += [(choice.token_ids, choice.scored) for choice in choices]
    found = [
        torch.cat(
            [row[-n:] for row, (_, n) in zip(engine.logprobs([t for t, _ in texts]), texts, strict=True)]
        )
        for engine in in_bfloat16
    ]
    bf16, exact, other = (logprobs.double() for logprobs in found)
    difference = other - bf16
    # The mean, and the mean of exp(x) - 1 - x, which estimates the divergence from samples (Schulman's k3).
    assert len(difference) > 1000
    assert abs(difference.mean()) < 1e-2
    assert (difference.exp() - 1 - difference).mean() < 1e-2
    assert (other - exact).square().mean() < 2 * (bf16 - exact).square().mean()


def test_weights_that_give_logprobs_which_are_not_finite_are_reported(
    engine: RolloutEngine, centre: PreTrainedModel, prompts: list[Prompt]
) -> None:
    weights, sampling = dict(centre.named_parameters()), Sampling(max_tokens=2)
    engine.load_weights((name, torch.full_like(weight, torch.nan)) for name, weight in weights.items())
    for _ in "ab":
        with pytest.raises(DivergenceError, match="log-probabilities of tokens are not finite"):
            engine.generate(prompts[:1], sampling)
    engine.load_weights((name, weight.detach()) for name, weight in weights.items())
    assert len(engine.generate(prompts[:1], sampling)) == 1


def test_completions_come_in_the_order_of_the_prompts(
    engine: RolloutEngine, centre: PreTrainedModel, prompts: list[Prompt]
) -> None:
    engine.load_weights(perturbed(centre, "nothing of this name"))
    forward = engine.generate(prompts, Sampling(max_tokens=8))
    backward = engine.generate(prompts[::-1], Sampling(max_tokens=8))
    assert [c.text for c in forward] == [c.text for c in backward[::-1]]
    assert len({c.text for c in forward}) == len(prompts)


def test_a_stop_string_ends_the_completion_and_is_not_in_it(
    engine: RolloutEngine, centre: PreTrainedModel, prompts: list[Prompt]
) -> None:
    engine.load_weights(perturbed(centre, "nothing of this name"))
    whole = engine.generate(prompts[:1], Sampling(max_tokens=24))[0]
    cut = engine.generate(prompts[:1], Sampling(max_tokens=24, stop=[" of"]))[0]
    assert " of" in whole.text
    assert cut.text == whole.text[: whole.text.index(" of")]
    assert cut.finish_reason == "stop"


def test_length_is_the_reason_when_max_tokens_end_a_completion(
    engine: RolloutEngine, centre: PreTrainedModel, prompts: list[Prompt]
) -> None:
    engine.load_weights(perturbed(centre, "nothing of this name"))
    completion = engine.generate(prompts[:1], Sampling(max_tokens=2))[0]
    assert completion.finish_reason == "length"
    assert len(completion.token_ids) == 2


def test_samples_differ_from_one_another_and_repeat_with_their_seed(
    engine: RolloutEngine, centre: PreTrainedModel, prompts: list[Prompt]
) -> None:
    engine.load_weights(perturbed(centre, "nothing of this name"))
    sampling = Sampling(max_tokens=12, temperature=1.0, n=3, seed=7)
    first = engine.generate(prompts[:2], sampling)
    assert len(first) == 6
    assert len({c.text for c in first[:3]}) > 1
    assert [c.text for c in engine.generate(prompts[:2], sampling)] == [c.text for c in first]


def test_more_samples_than_an_engine_takes_at_once(engine: RolloutEngine, centre: PreTrainedModel) -> None:
    """A batch of vLLM's that is full could cut a prompt in two, which no sample with a seed survived."""
    engine.load_weights(perturbed(centre, "nothing of this name"))
    long = Prompt("long", "", token_ids=tuple(range(4, 104)))
    found = engine.generate([long], Sampling(max_tokens=3, temperature=1.0, n=64, seed=7))
    assert len(found) == 64
    assert len({each.token_ids for each in found}) > 32


def test_a_failure_in_the_middle_leaves_nothing_behind(
    engine: RolloutEngine, centre: PreTrainedModel, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.load_weights(perturbed(centre, "", 0.0))
    sampling = Sampling(max_tokens=8)
    expected = engine.generate(prompts, sampling)
    owner: Any = engine.model if isinstance(engine, HFEngine) else engine.llm.llm_engine  # type: ignore[attr-defined]
    name = "forward"
    if not isinstance(engine, HFEngine):
        owner, name = owner.engine_core.engine_core.model_executor, "execute_model"
    original, calls = getattr(owner, name), 0

    def fail(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise RuntimeError("injected")
        return original(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, fail)
        with pytest.raises(RuntimeError, match="injected"):
            engine.generate(prompts, sampling)
    assert calls == 3
    assert engine.generate(prompts[:2], sampling) == expected[:2]
    assert engine.generate(prompts, sampling) == expected


def test_generating_leaves_the_global_random_state_alone(
    engine: RolloutEngine, prompts: list[Prompt]
) -> None:
    before = torch.get_rng_state()
    engine.generate(prompts[:1], Sampling(max_tokens=2, temperature=1.0))
    assert torch.equal(torch.get_rng_state(), before)


def test_hf_engine_refuses_incomplete_and_foreign_weights(hf: RolloutEngine, centre: PreTrainedModel) -> None:
    weights = list(perturbed(centre, "nothing of this name"))
    with pytest.raises(KeyError, match="got no weights"):
        hf.load_weights(weights[:-1])
    with pytest.raises(KeyError, match="qkv_proj is no parameter"):
        hf.load_weights([("qkv_proj", weights[0][1])])


def test_an_engine_that_is_not_started_says_so() -> None:
    with pytest.raises(RuntimeError, match="not started"):
        HFEngine().logprobs([[1, 2]])


def test_missing_vllm_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"es-lightning\[cpu\]"):
        VLLMEngine()


@pytest.mark.vllm
@pytest.mark.parametrize(
    ("stored", "device"), [("float32", "cuda"), ("bfloat16", "cuda"), ("float32", "cpu")]
)
def test_vllm_is_told_the_precision_of_the_base(
    stored: str, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own ``auto`` turns float32 into bfloat16 on accelerators."""
    from vllm.platforms import current_platform

    config = json.loads((resolve("tiny") / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"dtype": stored}))
    monkeypatch.setattr(current_platform, "device_type", device)
    assert VLLMEngine()._model_options(tmp_path)["dtype"] == getattr(torch, stored)


@pytest.mark.vllm
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"architectures": ["NobodyForCausalLM"]}, "NobodyForCausalLM"),
        ({"architectures": ["MptForCausalLM"], "model_type": "mpt"}, "MptForCausalLM was supported in vLLM"),
    ],
)
def test_a_family_that_vllm_does_not_know_is_refused_before_anything_is_loaded(
    change: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    config = json.loads((resolve("tiny") / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(UsageError, match=f"vLLM cannot run the model in .*{reason}.*HFEngine") as raised:
        VLLMEngine().check(tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": -1.0}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"n": 0}, "sampling.n"),
        ({"n": 2}, "greedy"),
    ],
)
def test_impossible_sampling_is_refused(options: dict[str, float], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        Sampling(**options)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.vllm
def test_vllm_loads_the_export_of_the_whole_model_and_answers_as_the_centre(
    vllm: RolloutEngine, prompts: list[Prompt], tmp_path: Path
) -> None:
    whole, hf = resolve("embedded"), HFEngine(dtype="float32", device="cpu")
    centre = BaseModel(whole).load()
    moved = copy.deepcopy(centre)
    for name, tensor in perturbed(centre, ""):
        moved.get_parameter(name).data.copy_(tensor)
    export(moved, whole, tmp_path / "model", torch.float32, "")
    hf.start(whole, 128)
    hf.load_weights((name, parameter.detach()) for name, parameter in moved.named_parameters())
    vllm.close()
    vllm.start(tmp_path / "model", 128)
    torch.testing.assert_close(logits_of(vllm, prompts), logits_of(hf, prompts), atol=1e-3, rtol=0)
    for started in (hf, vllm):
        started.load_weights(perturbed(centre, "embed_tokens"))
    torch.testing.assert_close(logits_of(vllm, prompts), logits_of(hf, prompts), atol=1e-3, rtol=0)


FIT = ["-m", "es_lightning", "fit", "-c", str(Path(__file__).parents[2] / "configs" / "smoke_cpu.yaml")]
WITH_VLLM = [
    "--model.engine",
    "VLLMEngine",
    "--model.engine.enforce_eager",
    "true",
    "--trainer.logger",
    "false",
]
WITH_VLLM += ["--model.engine.kv_cache_gib", "0.1"]


def fit_with_vllm(where: Path) -> dict[str, object]:
    """A whole fit in a process of its own; its summary."""
    command = [sys.executable, *FIT, *WITH_VLLM, "--trainer.default_root_dir", str(where)]
    subprocess.run(command, cwd=where.parent, check=True, capture_output=True, timeout=300)
    summary: dict[str, object] = json.loads((where / "summary.json").read_text())
    return summary


@pytest.mark.vllm
@pytest.mark.slow
def test_a_fit_with_vllm_runs_through(tmp_path: Path) -> None:
    summary = fit_with_vllm(tmp_path / "run")
    assert summary["generations"] == 3
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.long
def test_two_fits_with_vllm_end_with_the_same_bits(tmp_path: Path) -> None:
    one, two = (fit_with_vllm(tmp_path / name) for name in ("one", "two"))
    assert one["centre_checksum"] == two["centre_checksum"]
    assert one["held_out_after"] == two["held_out_after"]
