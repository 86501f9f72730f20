"""Tiny random models of many families: right in transformers, and right or refused in vLLM.

``make families`` runs all of this and writes the table in docs/models.md.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from es_lightning.algorithm.noise import GaussianNoise, LowRankNoise
from es_lightning.algorithm.tensors import checksum
from es_lightning.errors import UsageError
from es_lightning.evaluation import Rollouts
from es_lightning.evaluation.engine_check import EngineCheck
from es_lightning.journal.replay import replay
from es_lightning.models import BaseModel
from es_lightning.rollout import HFEngine, RolloutEngine, Sampling, VLLMAdapterEngine, VLLMEngine
from tests.helpers import family_table
from tests.helpers.families import FAMILIES, make, sequences, streamed
from tests.helpers.fits import Letters, fit

NOISE = GaussianNoise(compile=False)
DIFFERENCES: dict[str, float] = {}
SELDOM = [pytest.mark.slow, pytest.mark.long, pytest.mark.families]
IN_CI = [pytest.mark.slow, pytest.mark.tasks, pytest.mark.families]
# A buffer every day. Split experts and another name are in tests/models/test_layout.py every day.
MARKS = {"DeepSeek-V3": [], "Mixtral": IN_CI, "GPT-NeoX": IN_CI}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield tmp_path_factory.mktemp("families")
    if os.environ.get("FAMILIES_WRITE_TABLE"):
        family_table.write(DIFFERENCES)


def made(name: str, folders: Path) -> Path:
    folder = folders / name.replace(" ", "-")
    if not folder.exists():
        make(FAMILIES[name], folder)
    return folder


def logprobs(engine: RolloutEngine) -> Tensor:
    return torch.cat(engine.logprobs(sequences()))


def of_transformers(folder: Path) -> list[Tensor]:
    """Log-probabilities after the start, with the base loaded again, and with a perturbed member."""
    engine, centre = HFEngine("float32", device="cpu"), BaseModel(folder).load()
    engine.start(folder, 128)
    found = [logprobs(engine)]
    for scale in (0.0, 0.3):
        engine.load_weights(streamed(centre, scale))
        found.append(logprobs(engine))
    torch.testing.assert_close(found[0], found[1], atol=1e-6, rtol=0)
    assert (found[2] - found[1]).abs().max() > 0.05  # the perturbation is one that can be seen
    return found


@pytest.mark.parametrize("name", [pytest.param(name, marks=MARKS.get(name, SELDOM)) for name in FAMILIES])
def test_transformers_fits_exports_reloads_and_replays(name: str, folders: Path, tmp_path: Path) -> None:
    folder = made(name, folders)
    sampling = Sampling(max_tokens=6, temperature=1.0)  # greedy completions may all be alike
    tuned, records = fit(
        Letters(), tmp_path / "run", steps=2, base=str(folder), noise=NOISE, sampling=sampling
    )
    assert 0 < records.generations[-1].drift < float("inf")
    tuned.base_model.export(tuned.centre, tmp_path / "export", "")
    again = BaseModel(tmp_path / "export").load()
    assert checksum(again.named_parameters()) == tuned.centre_checksum
    ids = torch.tensor([sequences()[1]])
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "export", dtype=torch.float32).eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, tuned.centre(ids).logits, atol=1e-5, rtol=0)
    entry = replay(tmp_path / "run" / "journal.jsonl", tmp_path / "replayed")
    assert entry.checksum == tuned.centre_checksum


@pytest.mark.parametrize("name", [pytest.param(name, marks=MARKS.get(name, SELDOM)) for name in FAMILIES])
def test_a_beginning_in_common_changes_no_score(name: str, folders: Path) -> None:
    engine = HFEngine("float32", device="cpu")
    engine.start(made(name, folders), 128)
    rows = [[*sequences()[1], end, 3] for end in range(20, 24)]
    alone = torch.cat([engine.logprobs([row])[0] for row in rows])
    torch.testing.assert_close(torch.cat(engine.choice_logprobs(rows)), alone, atol=1e-5, rtol=0)


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.long
@pytest.mark.families
@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("name", FAMILIES)
def test_vllm_is_right_or_refuses(name: str, folders: Path) -> None:
    family, folder = FAMILIES[name], made(name, folders)
    engine, centre = VLLMEngine("float32", enforce_eager=True, kv_cache_gib=0.05), BaseModel(folder).load()
    if family.refused == "at once":
        with pytest.raises(
            UsageError, match="vLLM cannot run the model in .*or take --model.engine HFEngine"
        ):
            engine.check(folder)
        return
    engine.check(folder)
    started, base, perturbed = of_transformers(folder)
    engine.start(folder, 128)
    rollouts = Rollouts(engine)
    rollouts._seen, rollouts._room = sequences()[1], 128
    try:
        if family.refused:
            with pytest.raises(UsageError, match=r"VLLMEngine (differs|fails) .*on new weights of a"):
                EngineCheck(rollouts, NOISE).run(centre)
            return
        differences = [logprobs(engine) - started]
        for scale, expected in ((0.0, base), (0.3, perturbed), (0.0, base)):
            engine.load_weights(streamed(centre, scale))
            differences.append(logprobs(engine) - expected)
        DIFFERENCES[name] = max(float(each.abs().max()) for each in differences)
        assert DIFFERENCES[name] < family.bound
        EngineCheck(rollouts, NOISE).run(centre)
    finally:
        engine.close()


EXPERTS = ("Mixtral", "Qwen2-MoE", "Qwen3-MoE", "OLMoE", "GraniteMoE", "GLM-4-MoE", "gpt-oss")
RELOADED = {*EXPERTS, "DeepSeek-V2", "DeepSeek-V3"}
"""Families into which weights are not written in place."""


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.long
@pytest.mark.families
@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if not family.refused])
def test_vllm_writes_in_place_rightly_or_reloads(
    name: str, folders: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With weights that are not packed, as on GPUs; on a CPU they are where oneDNN seems to be missing."""
    monkeypatch.setattr("vllm._custom_ops._supports_onednn", False)
    family, folder = FAMILIES[name], made(name, folders)
    engine, centre = VLLMEngine("float32", enforce_eager=True, kv_cache_gib=0.05), BaseModel(folder).load()
    _, base, perturbed = of_transformers(folder)
    engine.start(folder, 128)
    rollouts = Rollouts(engine)
    rollouts._seen, rollouts._room = sequences()[1], 128
    try:
        EngineCheck(rollouts, NOISE).run(centre)
        for scale, expected in ((0.0, base), (0.3, perturbed), (0.0, base)):
            engine.load_weights(streamed(centre, scale))
            assert (logprobs(engine) - expected).abs().max() < family.bound
    finally:
        engine.close()
    assert engine.in_place == (name not in RELOADED)
    assert ("own reload" in caplog.text) == (engine.may_write_in_place and not engine.in_place)


ADAPTERS = {
    **dict.fromkeys(
        (
            *("Llama", "Qwen2", "Qwen3", "Phi-3", "Gemma 2", "Gemma 3", "Mistral", "OLMo 2", "GPT-NeoX"),
            *("SmolLM3", "Granite", "OPT", "Phi", "Cohere"),
        ),
        "",
    ),
    **dict.fromkeys(("GPT-2", "Falcon", "StableLM"), "vLLM has no adapters for"),
    **dict.fromkeys(("Mixtral", "Qwen3-MoE"), "VLLMAdapterEngine fails on new weights"),  # on CPUs
    "GLM-4": "vLLM's adapters do not reach model.layers.0.mlp.gate_up_proj.weight",
}
"""Families that have been tried with members as adapters, and what refuses them."""


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.long
@pytest.mark.families
@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("name", ADAPTERS)
def test_vllms_adapters_are_right_or_refused(name: str, folders: Path) -> None:
    folder = made(name, folders)
    base = BaseModel(folder)
    engine = VLLMAdapterEngine(dtype="float32", enforce_eager=True, kv_cache_gib=0.05)
    rollouts, centre = Rollouts(engine), base.load()
    rollouts._seen = sequences()[1]

    def checked() -> None:
        engine.check(folder)
        noise = rollouts.limited(LowRankNoise(2, "frozen"), base, centre, 2)
        engine.start(folder, 128)
        rollouts._room = 128
        EngineCheck(rollouts, noise).run(centre)

    try:
        if ADAPTERS[name]:
            with pytest.raises(UsageError, match=ADAPTERS[name]):
                checked()
        else:
            checked()
    finally:
        engine.close()


def test_the_table_of_families_says_what_these_tests_expect() -> None:
    found = family_table.rows()
    assert list(found) == list(FAMILIES)
    for name, family in FAMILIES.items():
        kind, transformers, vllm, nats = found[name]
        assert (kind, transformers, vllm) == (family.kind, "right", family.vllm)
        assert bool(nats) == (not family.refused)
        assert not nats or float(nats) < family.bound
