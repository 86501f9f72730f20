"""Families whose files name or divide tensors in another way than transformers does in memory."""

import json
from collections.abc import Iterator
from math import isfinite
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from es_lightning.algorithm.tensors import checksum, drift
from es_lightning.journal.entry import read_journal
from es_lightning.journal.replay import replay
from es_lightning.journal.restore import read_base_
from es_lightning.models import BaseModel
from es_lightning.models.layout import persistent_buffers
from es_lightning.models.weights import StoredTensors
from es_lightning.rollout import HFEngine
from tests.helpers.families import FAMILIES, make, sequences
from tests.helpers.fits import Letters, fit

OTHERWISE = ["Mixtral", "Qwen3-MoE", "GPT-NeoX", "OLMoE", "GLM-4-MoE", "DeepSeek-V3", "gpt-oss"]
ROUTED = "model.layers.1.mlp.gate.e_score_correction_bias"


@pytest.fixture(scope="module", params=OTHERWISE)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("family")
    make(FAMILIES[request.param], path)
    return path


def of_transformers(folder: Path) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model


def state(model: PreTrainedModel) -> Iterator[tuple[str, torch.Tensor]]:
    """All that a model's files hold of it."""
    return iter(model.state_dict().items())


def logprobs(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([sequences()[1]])).logits.log_softmax(-1)


def moved(folder: Path) -> PreTrainedModel:
    """The first centre after a step."""
    centre = BaseModel(folder).load()
    generator = torch.Generator().manual_seed(3)
    for parameter in centre.parameters():
        parameter.data += 1e-2 * torch.randn(parameter.shape, generator=generator)
    return centre


def test_the_centre_is_the_model_that_transformers_loads(folder: Path) -> None:
    assert checksum(state(BaseModel(folder).load())) == checksum(state(of_transformers(folder)))


REFUSED = {"Qwen2-VL", "Gemma 3 with images"}  # they take images


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in REFUSED])
def test_every_family_comes_and_goes_as_with_transformers(name: str, tmp_path: Path) -> None:
    base = tmp_path / "base"
    make(FAMILIES[name], base)
    centre = moved(base)
    assert checksum(state(BaseModel(base).load())) == checksum(state(of_transformers(base)))
    assert isfinite(drift(BaseModel(base).weights, centre))
    BaseModel(base).export(centre, tmp_path / "model", "")
    assert StoredTensors(tmp_path / "model").entries.keys() == StoredTensors(base).entries.keys()
    assert checksum(state(of_transformers(tmp_path / "model"))) == checksum(state(centre))


def test_its_distance_from_the_base_is_measured_and_it_can_be_put_back(folder: Path) -> None:
    base, centre = BaseModel(folder), moved(folder)
    differences = [
        (one - other).double().square().sum()
        for one, other in zip(centre.parameters(), of_transformers(folder).parameters(), strict=True)
    ]
    assert drift(base.weights, centre) == pytest.approx(float(sum(differences)) ** 0.5, rel=1e-6)
    with torch.no_grad():
        read_base_(centre, base.weights)
    assert drift(base.weights, centre) == 0.0


def test_an_export_has_the_names_of_the_base_and_loads_as_the_centre(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("es_lightning.models.export.SHARD_BYTES", 500_000)
    centre = moved(folder)
    BaseModel(folder).export(centre, tmp_path / "model", "")
    exported, base = StoredTensors(tmp_path / "model").entries, StoredTensors(folder).entries
    assert {name: held.shape for name, held in exported.items()} == {
        name: held.shape for name, held in base.items()
    }
    assert len({held.file for held in exported.values()}) > 1
    again = of_transformers(tmp_path / "model")
    assert checksum(state(again)) == checksum(state(centre))
    assert torch.equal(logprobs(again), logprobs(centre))


@pytest.mark.parametrize(
    "name", ["Mixtral", *(pytest.param(name, marks=pytest.mark.slow) for name in ("GPT-NeoX", "DeepSeek-V3"))]
)
def test_a_run_is_measured_exported_and_replayed(name: str, tmp_path: Path) -> None:
    make(FAMILIES[name], tmp_path / "base")
    tuned, records = fit(Letters(), tmp_path / "run", steps=2, base=str(tmp_path / "base"))
    assert all(isfinite(each.drift) and each.drift > 0 for each in records.generations)
    tuned.base_model.export(tuned.centre, tmp_path / "model", "")
    journal = tmp_path / "run" / "journal.jsonl"
    assert replay(journal, tmp_path / "replayed").checksum == tuned.checksum()
    for folder in (tmp_path / "model", tmp_path / "replayed"):
        assert torch.equal(logprobs(of_transformers(folder)), logprobs(tuned.centre))
    assert read_journal(journal)[1][-1].checksum == tuned.checksum()


@pytest.mark.parametrize("name", ["GLM-4-MoE", "DeepSeek-V3"])
def test_buffers_of_the_files_go_everywhere_as_they_are(name: str, tmp_path: Path) -> None:
    make(FAMILIES[name], tmp_path / "base")
    [bias] = persistent_buffers(of_transformers(tmp_path / "base")).values()
    assert bias.abs().sum() > 0
    tuned, _ = fit(Letters(), tmp_path / "run", steps=1, base=str(tmp_path / "base"))
    engine = tuned.rollouts.engine
    assert isinstance(engine, HFEngine)
    tuned.base_model.export(tuned.centre, tmp_path / "model", "")
    exported = BaseModel(tmp_path / "model")
    for found in (
        tuned.centre.get_buffer(ROUTED),
        engine.model.get_buffer(ROUTED),
        exported.load().get_buffer(ROUTED),
        exported.weights.read(ROUTED),
    ):
        assert torch.equal(found, bias)


def test_an_engine_takes_the_buffers_of_the_stream(tmp_path: Path) -> None:
    make(FAMILIES["DeepSeek-V3"], tmp_path / "base")
    centre = BaseModel(tmp_path / "base").load()
    engine = HFEngine(dtype="float32", device="cpu")
    engine.start(tmp_path / "base", 16)
    changed = {**centre.state_dict(), ROUTED: torch.full((4,), 0.5)}
    engine.load_weights(changed.items())
    assert torch.equal(engine.model.get_buffer(ROUTED), changed[ROUTED])


def test_a_checkpoint_without_the_prefix_of_the_base_model_keeps_its_names(tmp_path: Path) -> None:
    """As those of GPT-2 on the hub are."""
    base = tmp_path / "base"
    make(FAMILIES["GPT-2"], base)
    held = load_file(base / "model.safetensors")
    short = {name.removeprefix("transformer."): tensor for name, tensor in held.items()}
    save_file(short, base / "model.safetensors", metadata={"format": "pt"})
    centre = moved(base)
    BaseModel(base).export(centre, tmp_path / "model", "")
    assert StoredTensors(tmp_path / "model").entries.keys() == short.keys()
    assert checksum(state(of_transformers(tmp_path / "model"))) == checksum(state(centre))


def test_a_tied_head_may_be_stored_under_either_name(tmp_path: Path) -> None:
    base = tmp_path / "base"
    make(FAMILIES["SmolLM3"], base)
    held = load_file(base / "model.safetensors")
    held["lm_head.weight"] = held.pop("model.embed_tokens.weight")
    save_file(held, base / "model.safetensors", metadata={"format": "pt"})
    centre = BaseModel(base).load()
    assert checksum(centre.named_parameters()) == checksum(of_transformers(base).named_parameters())
    assert drift(BaseModel(base).weights, centre) == 0.0
    config = json.loads((base / "config.json").read_text())
    assert config.get("tie_word_embeddings", True)
