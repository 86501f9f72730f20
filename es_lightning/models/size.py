"""How large a model is, from its configuration alone: no weights are read, and no network is asked."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from es_lightning.errors import UsageError
from es_lightning.models.base_model import BaseModel
from es_lightning.models.embedded import embedded_folder

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class ModelSize:
    """What a configuration says about a model's size.

    Args:
        shapes: of the parameters, tied ones once, by their Hugging Face names.
        cache_values: keys and values of one token, in all layers together.
        heads: attention heads.
        shared: key-value heads.
        dtype: precision of the stored weights.
        linear: names of the weights of linear layers, except the head; the parameters that adapters change.
    """

    shapes: Mapping[str, tuple[int, ...]]
    cache_values: int
    heads: int
    shared: int
    dtype: torch.dtype
    linear: frozenset[str] = frozenset()

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return sum(map(elements, self.shapes.values()))


def elements(shape: tuple[int, ...]) -> int:
    """Return the number of elements of a tensor."""
    return torch.Size(shape).numel()


def size_of(config: PreTrainedConfig, blueprint: PreTrainedModel) -> ModelSize:
    """Measure a model.

    Args:
        config: its configuration.
        blueprint: it without values, on the meta device.
    """
    text = config.get_text_config()
    heads = int(getattr(text, "num_attention_heads", None) or 1)
    shapes = {name: tuple(parameter.shape) for name, parameter in blueprint.named_parameters()}
    shared, head = _shared(text, heads), blueprint.get_output_embeddings()
    linear = frozenset(
        f"{path}.weight"
        for path, module in blueprint.named_modules()
        if type(module) is nn.Linear and module is not head
    )
    dtype = config.dtype or torch.float32
    return ModelSize(shapes, _cache_values(text, heads, shared), heads, shared, dtype, linear)


def _shared(text: Any, heads: int) -> int:
    """Key-value heads; a latent cache is like one head, which every rank holds."""
    if getattr(text, "kv_lora_rank", None):
        return 1
    if getattr(text, "multi_query", False) and not getattr(text, "new_decoder_architecture", False):
        return 1
    names = ("num_key_value_heads", "num_kv_heads")
    return int(next((known for name in names if (known := getattr(text, name, None))), heads))


def _cache_values(text: Any, heads: int, shared: int) -> int:
    """Values per token; a window that slides, or layers that share a cache, may need less."""
    if latent := getattr(text, "kv_lora_rank", None):
        return _attention_layers(text) * int(latent + text.qk_rope_head_dim)
    width = getattr(text, "head_dim", None) or text.hidden_size // heads
    return 2 * _attention_layers(text) * shared * int(width)


def _attention_layers(text: Any) -> int:
    kinds = getattr(text, "layer_types", None) or getattr(text, "layers_block_type", None)
    if kinds:
        return sum("linear" not in kind and ("attention" in kind or "hybrid" in kind) for kind in kinds)
    # A model without attention has a state of one size, whatever the length of the text.
    return int(text.num_hidden_layers) if getattr(text, "num_attention_heads", None) else 0


# Models whose files are not here ----------------------------------------------------------------------

_QWEN2 = "hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads vocab_size"
_ROW = f"model_type {_QWEN2} head_dim tie_word_embeddings".split()
PUBLISHED: Mapping[str, tuple[Any, ...]] = {
    "Qwen2.5-0.5B": ("qwen2", 896, 4864, 24, 14, 2, 151936, 64, True),
    "Qwen2.5-1.5B": ("qwen2", 1536, 8960, 28, 12, 2, 151936, 128, True),
    "Qwen2.5-3B": ("qwen2", 2048, 11008, 36, 16, 2, 151936, 128, True),
    "Qwen2.5-7B": ("qwen2", 3584, 18944, 28, 28, 4, 152064, 128, False),
    "Qwen2.5-14B": ("qwen2", 5120, 13824, 48, 40, 8, 152064, 128, False),
    "Qwen2.5-32B": ("qwen2", 5120, 27648, 64, 40, 8, 152064, 128, False),
    "Qwen2.5-72B": ("qwen2", 8192, 29568, 80, 64, 8, 152064, 128, False),
    "Qwen3-0.6B": ("qwen3", 1024, 3072, 28, 16, 8, 151936, 128, True),
    "Qwen3-1.7B": ("qwen3", 2048, 6144, 28, 16, 8, 151936, 128, True),
    "Qwen3-4B": ("qwen3", 2560, 9728, 36, 32, 8, 151936, 128, True),
    "Qwen3-8B": ("qwen3", 4096, 12288, 36, 32, 8, 151936, 128, False),
    "Qwen3-14B": ("qwen3", 5120, 17408, 40, 40, 8, 151936, 128, False),
    "Qwen3-32B": ("qwen3", 5120, 25600, 64, 64, 8, 151936, 128, False),
    "Llama-3.2-1B": ("llama", 2048, 8192, 16, 32, 8, 128256, 64, True),
    "Llama-3.2-3B": ("llama", 3072, 8192, 28, 24, 8, 128256, 128, True),
    "Llama-3.1-8B": ("llama", 4096, 14336, 32, 32, 8, 128256, 128, False),
    "Llama-3.1-70B": ("llama", 8192, 28672, 80, 64, 8, 128256, 128, False),
    "Llama-3.3-70B": ("llama", 8192, 28672, 80, 64, 8, 128256, 128, False),
    "SmolLM2-135M": ("llama", 576, 1536, 30, 9, 3, 49152, 64, True),
    "SmolLM2-360M": ("llama", 960, 2560, 32, 15, 5, 49152, 64, True),
    "SmolLM2-1.7B": ("llama", 2048, 8192, 24, 32, 32, 49152, 64, True),
}
"""As config.json has them, by the models' names on the hub, without owner and what follows the size."""


def local_model(name: str, trust_remote_code: bool = False) -> BaseModel | None:
    """Return a base model whose config.json is on this machine: a folder, or one in the hub's cache.

    Args:
        name: as ``model.base`` has it.
        trust_remote_code: run Python code that comes with the model.

    Raises:
        UsageError: the folder is no whole model.
    """
    from huggingface_hub import try_to_load_from_cache

    if name == "embedded":
        there = (embedded_folder() / "config.json").is_file()
        return BaseModel(name, trust_remote_code) if there else None
    is_hub_id = re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) is not None
    if name == "tiny" or Path(name).expanduser().exists() or not is_hub_id:
        return BaseModel(name, trust_remote_code)
    cached = try_to_load_from_cache(name, "config.json")
    return BaseModel(Path(cached).parent, trust_remote_code) if isinstance(cached, str) else None


def published_name(name: str) -> str | None:
    """Return the name in ``PUBLISHED`` that a base model's stands for, such as Qwen2.5-7B; None without one.

    Args:
        name: as ``model.base`` has it, such as ``Qwen/Qwen2.5-Math-7B``.
    """
    last = "SmolLM2-135M" if name == "embedded" else re.sub(r"-(Math|Coder)-", "-", name.rpartition("/")[2])
    known = [key for key in PUBLISHED if last == key or last.startswith(f"{key}-")]
    return max(known, key=len, default=None)


def nearest_published(parameters: float) -> str:
    """Return the name in ``PUBLISHED`` of the model whose size is nearest, as a ratio.

    Args:
        parameters: above 0.
    """
    units = {"M": 1e6, "B": 1e9}
    sizes = {key: float(key.rpartition("-")[2][:-1]) * units[key[-1]] for key in PUBLISHED}
    return min(sizes, key=lambda key: abs(math.log(sizes[key] / parameters)))


def published_size(key: str) -> ModelSize:
    """Return the size of a model that is listed in ``PUBLISHED``.

    Args:
        key: its name there.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**dict(zip(_ROW, PUBLISHED[key], strict=True)))
    config.dtype = torch.bfloat16
    with torch.device("meta"):
        blueprint = AutoModelForCausalLM.from_config(config)
    return size_of(config, blueprint)


def unknown(name: str) -> UsageError:
    """Return the refusal of a model of which nothing is known here."""
    return UsageError(
        f"model.base is {name}, whose config.json is not on this machine: give a folder, or its size as in "
        f"--params 7.6e9; the sizes of {', '.join(_families())} are known."
    )


def _families() -> list[str]:
    return list(dict.fromkeys(key.rpartition("-")[0] for key in PUBLISHED))
