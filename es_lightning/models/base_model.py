"""A base model: where it is, what its configuration says, and its weights as the first centre."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from es_lightning.errors import UsageError
from es_lightning.models.embedded import embedded_folder, tiny_folder
from es_lightning.models.weights import BaseWeights

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


def resolve(base: str) -> Path:
    """The local folder of a base model.

    Args:
        base: ``embedded``, ``tiny``, a folder with a config.json, or a hub id such as
            ``Qwen/Qwen2.5-3B-Instruct``.

    Raises:
        UsageError: no such model is to be found; says what was looked for.
    """
    if base == "tiny":
        return tiny_folder()
    folder = embedded_folder() if base == "embedded" else Path(base).expanduser()
    if (folder / "config.json").is_file():
        return folder
    if base == "embedded":
        raise UsageError(
            f"the embedded model is not in {folder} yet: run `es-lightning fetch` once to get it."
        )
    if folder.is_dir() or base.count("/") != 1 or base.startswith((".", "/", "~")):
        raise UsageError(_not_found(base, f"there is no config.json in {folder.absolute()}"))
    return _from_hub(base)


def _from_hub(base: str) -> Path:
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]
    try:
        return Path(snapshot_download(base, allow_patterns=patterns))
    except (
        Exception
    ) as error:  # the hub client raises many kinds; all of them mean that there is no model here
        reason = f"no folder {Path(base).absolute()}, and the hub gave no {base} ({type(error).__name__})"
        raise UsageError(_not_found(base, reason)) from error


def _not_found(base: str, reason: str) -> str:
    return (
        f"no model at {base!r}: {reason}. Give a Hugging Face folder, a hub id, or `embedded`, "
        "the built-in SmolLM2-135M-Instruct (`es-lightning fetch` gets it)."
    )


def load_config(folder: Path, trust_remote_code: bool = False) -> PreTrainedConfig:
    """The model's configuration."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)


def load_tokenizer(folder: Path, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The model's tokenizer."""
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        folder, trust_remote_code=trust_remote_code
    )
    return tokenizer


def load_model(folder: Path, trust_remote_code: bool = False) -> PreTrainedModel:
    """The base model as the first centre: float32 parameters under their Hugging Face names.

    Tensors are copied one at a time, so that the peak is the centre and one tensor; transformers' own loader,
    which keeps the whole file mapped, serves models whose files use other names.
    """
    from transformers import AutoModelForCausalLM

    base, config = BaseWeights(folder), load_config(folder, trust_remote_code)
    options: dict[str, Any] = {"dtype": torch.float32, "trust_remote_code": trust_remote_code}
    with torch.random.fork_rng(devices=[]):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, **options)
    if all(name in base for name, _ in model.named_parameters()):
        for name, parameter in model.named_parameters():
            parameter.data.copy_(base.read(name))
    else:
        model = AutoModelForCausalLM.from_pretrained(folder, **options)
    return model.eval().requires_grad_(False)


def max_length(config: PreTrainedConfig) -> int | None:
    """Longest sequence that the model was made for, in tokens; None where the configuration is silent."""
    length = getattr(config.get_text_config(), "max_position_embeddings", None)
    return None if length is None else int(length)


def check_heads(config: PreTrainedConfig, tensor_parallel_size: int) -> None:
    """Refuse a split of the model that would cut a head in two.

    Raises:
        UsageError: the numbers of heads do not divide by the tensor-parallel size.
    """
    text = config.get_text_config()
    heads = int(getattr(text, "num_attention_heads", tensor_parallel_size))
    shared = int(getattr(text, "num_key_value_heads", None) or heads)
    # Fewer key-value heads than ranks are copied, so that one number must divide the other.
    if heads % tensor_parallel_size or (shared % tensor_parallel_size and tensor_parallel_size % shared):
        raise UsageError(
            f"engine.tensor_parallel_size is {tensor_parallel_size}, but the model has {heads} attention "
            f"heads and {shared} key-value heads: choose a size that divides both."
        )


def file_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of a model's configuration and weights, by file name; what hubs list beside their files."""
    paths = [folder / "config.json", *sorted(folder.glob("*.safetensors"))]
    hashes = {}
    for path in paths:
        with path.open("rb") as file:
            hashes[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes
