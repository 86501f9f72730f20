"""A model's size from its configuration, against published counts and against caches that models fill."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from es_lightning.errors import UsageError
from es_lightning.models import BaseModel
from es_lightning.models.size import (
    PUBLISHED,
    elements,
    local_model,
    nearest_published,
    published_name,
    published_size,
    size_of,
)
from tests.helpers.families import FAMILIES

# vLLM caches less than transformers, which keeps every head.
LATENT, GROUPED = ("DeepSeek-V2", "DeepSeek-V3"), "Falcon"
FILLED = ["Llama", "Qwen2", "Qwen3", "Gemma 2", "GPT-2", "OPT", "GPT-BigCode", "BLOOM", "Mixtral"]
STATES = ("Mamba", "Mamba 2")


def _config(name: str) -> Any:
    family = FAMILIES[name]
    return AutoConfig.for_model(family.kind, **{**family.common, **family.options})


def _measured(name: str) -> Any:
    config = _config(name)
    with torch.device("meta"):
        return size_of(config, AutoModelForCausalLM.from_config(config))


def test_published_models_have_the_parameters_of_their_files() -> None:
    # As the hub counts them in their safetensors files; tied heads once.
    published = {
        "Qwen2.5-0.5B": 494_032_768,
        "Qwen2.5-1.5B": 1_543_714_304,
        "Qwen2.5-3B": 3_085_938_688,
        "Qwen2.5-7B": 7_615_616_512,
        "Qwen2.5-14B": 14_770_033_664,
        "Qwen2.5-32B": 32_763_876_352,
        "Qwen2.5-72B": 72_706_203_648,
        "Qwen3-0.6B": 596_049_920,
        "Qwen3-4B": 4_022_468_096,
        "Qwen3-8B": 8_190_735_360,
        "Qwen3-14B": 14_768_307_200,
        "Qwen3-32B": 32_762_123_264,
        "Llama-3.2-1B": 1_235_814_400,
        "Llama-3.2-3B": 3_212_749_824,
        "Llama-3.1-8B": 8_030_261_248,
        "Llama-3.1-70B": 70_553_706_496,
        "SmolLM2-135M": 134_515_008,
        "SmolLM2-360M": 361_821_120,
        "SmolLM2-1.7B": 1_711_376_384,
    }
    assert {key: published_size(key).parameters for key in published} == published
    assert published_size("Qwen2.5-7B").cache_values == 2 * 28 * 4 * 128
    assert published_size("Qwen3-4B").cache_values == 2 * 36 * 8 * 128


@pytest.mark.parametrize("name", FILLED)
def test_the_cache_is_as_large_as_the_one_that_the_model_fills(name: str) -> None:
    model = AutoModelForCausalLM.from_config(_config(name)).eval()
    measured = _measured(name)
    with torch.no_grad():
        caches = [model(torch.ones(1, n, dtype=torch.long), use_cache=True).past_key_values for n in (3, 4)]
    sizes = [sum(layer.keys.numel() + layer.values.numel() for layer in cache.layers) for cache in caches]
    assert measured.cache_values == sizes[1] - sizes[0]
    assert measured.parameters == model.num_parameters()


def test_a_latent_cache_is_small_and_a_state_does_not_grow() -> None:
    assert {name: _measured(name).cache_values for name in LATENT} == dict.fromkeys(LATENT, 2 * (512 + 64))
    assert {name: _measured(name).cache_values for name in STATES} == dict.fromkeys(STATES, 0)
    assert _measured(GROUPED).cache_values == 2 * 2 * 2 * 32  # of 2 layers with 2 of 4 heads of 32


def test_the_tiny_model_is_measured_without_its_weights() -> None:
    base = local_model("tiny")
    assert base is not None
    measured = size_of(base.config, base.blueprint)
    loaded = base.load()
    assert measured.parameters == loaded.num_parameters()
    assert max(map(elements, measured.shapes.values())) == max(each.numel() for each in loaded.parameters())
    assert (measured.heads, measured.shared, measured.dtype) == (4, 2, torch.bfloat16)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Qwen/Qwen2.5-7B-Instruct", "Qwen2.5-7B"),
        ("Qwen/Qwen2.5-Math-7B", "Qwen2.5-7B"),
        ("Qwen/Qwen2.5-Coder-1.5B-Instruct", "Qwen2.5-1.5B"),
        ("Qwen/Qwen3-4B-Instruct-2507", "Qwen3-4B"),
        ("meta-llama/Llama-3.1-8B", "Llama-3.1-8B"),
        ("embedded", "SmolLM2-135M"),
        ("Qwen/Qwen2.5-70B", None),
        ("someone/else", None),
    ],
)
def test_a_hub_id_leads_to_its_published_size(name: str, expected: str | None) -> None:
    assert published_name(name) == expected
    assert expected is None or expected in PUBLISHED


@pytest.mark.parametrize(
    ("parameters", "expected"), [(6.2e9, "Qwen2.5-7B"), (1e8, "SmolLM2-135M"), (2e12, "Qwen2.5-72B")]
)
def test_a_size_leads_to_the_nearest_model(parameters: float, expected: str) -> None:
    assert nearest_published(parameters) == expected


def test_a_base_is_looked_for_here_and_nowhere_else(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ES_LIGHTNING_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("it asks the hub"))
    assert local_model("embedded") is None
    assert local_model("Qwen/Qwen2.5-7B-Instruct") is None
    folder = local_model("no/such/folder")
    assert isinstance(folder, BaseModel)
    with pytest.raises(UsageError, match="no model at"):
        _ = folder.folder
