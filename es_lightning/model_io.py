"""Models in and out: find a base model, hold its weights in fp32 as the centre, export the centre."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from es_lightning.embedded import embedded_folder, tiny_folder

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

CHUNK = 2**18  # elements per step of a streamed sum: 1 MiB of fp32, which stays in cache
SHARD_BYTES = 2 * 10**9

log = logging.getLogger(__name__)


def resolve(base: str) -> Path:
    """The local folder of a base model.

    Args:
        base: ``embedded``, ``tiny``, a folder with a config.json, or a hub id such as ``Qwen/Qwen2.5-3B-Instruct``.

    Raises:
        ValueError: no such model is to be found; says what was looked for.
    """
    if base == "tiny":
        return tiny_folder()
    folder = embedded_folder() if base == "embedded" else Path(base).expanduser()
    if (folder / "config.json").is_file():
        return folder
    if base == "embedded":
        raise ValueError(f"the embedded model is not in {folder} yet: run `es-lightning fetch` once to get it.")
    if folder.is_dir() or base.count("/") != 1 or base.startswith((".", "/", "~")):
        raise ValueError(_not_found(base, f"there is no config.json in {folder.absolute()}"))
    return _from_hub(base)


def _from_hub(base: str) -> Path:
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]
    try:
        return Path(snapshot_download(base, allow_patterns=patterns))
    except Exception as error:  # the hub client raises many kinds; all of them mean that there is no model here
        reason = f"no folder {Path(base).absolute()}, and the hub gave no {base} ({type(error).__name__})"
        raise ValueError(_not_found(base, reason)) from error


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

    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    return tokenizer


def load_centre(folder: Path, trust_remote_code: bool = False) -> PreTrainedModel:
    """The base model as the first centre: float32 parameters under their Hugging Face names."""
    from transformers import AutoModelForCausalLM

    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, trust_remote_code=trust_remote_code
    )
    return model.eval().requires_grad_(False)


def max_length(config: PreTrainedConfig) -> int | None:
    """Longest sequence that the model was made for, in tokens; None where the configuration is silent."""
    length = getattr(config.get_text_config(), "max_position_embeddings", None)
    return None if length is None else int(length)


def checksum(named_tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Sixteen hexadecimal digits that change with any bit of any weight.

    Per chunk sum_i bits_i * (2 i + 1), products mod 2^32, the bits read as int32. Integer addition commutes, so threads
    and devices agree; an odd factor is a bijection, so no single change can vanish. The sums are hashed with the names.

    Args:
        named_tensors: names with float32 tensors, in a fixed order.
    """
    digest = hashlib.blake2b(digest_size=8)
    for name, tensor in named_tensors:
        bits = tensor.detach().reshape(-1).view(torch.int32)
        factors = torch.arange(CHUNK, dtype=torch.int32, device=bits.device).mul_(2).add_(1)
        chunks = bits.split(CHUNK)
        sums = torch.stack([(chunk * factors[: chunk.numel()]).sum(dtype=torch.int64) for chunk in chunks])
        digest.update(f"{name} {tuple(tensor.shape)} {sums.tolist()}\n".encode())
    return digest.hexdigest()


class BaseWeights:
    """The base model's weights, read from its safetensors files tensor by tensor and never held.

    Args:
        folder: the base model's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._files = dict(_safetensors_names(folder))

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def read(self, name: str) -> Tensor:
        """The tensor as stored. The file is opened anew, since pages of a kept one would pile up in memory."""
        from safetensors import safe_open

        with safe_open(self._files[name], framework="pt") as file:
            tensor: Tensor = file.get_tensor(name)
            return tensor


def _safetensors_names(folder: Path) -> Iterator[tuple[str, Path]]:
    from safetensors import safe_open

    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            yield from ((name, path) for name in file.keys())  # noqa: SIM118  (not a dict)


def distance_squared(a: Tensor, b: Tensor) -> float:
    """sum_i (a_i - b_i)^2, summed in float64, chunk by chunk: no tensor of full size is made."""
    total = 0.0
    for chunk_a, chunk_b in zip(a.detach().reshape(-1).split(CHUNK), b.detach().reshape(-1).split(CHUNK), strict=True):
        difference = (chunk_a - chunk_b.to(chunk_a.device)).double()
        total += float(difference.dot(difference))
    return total


def export(centre: nn.Module, base: Path, folder: Path, dtype: torch.dtype, card: str) -> None:
    """Write the centre as a Hugging Face folder: safetensors in ``dtype``, the base's config and tokenizer, a card.

    Args:
        centre: float32 parameters under Hugging Face names; tied ones are written once.
        base: the base model's folder.
        folder: where to write; replaced as a whole once everything is on disk.
        dtype: precision of the files.
        card: text of the model card, README.md.
    """
    scratch = folder.with_name(folder.name + ".part")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    for path in base.iterdir():
        if path.suffix in {".json", ".jinja", ".txt", ".model"} and not path.name.endswith(".index.json"):
            shutil.copyfile(path, scratch / path.name)
    _write_weights(dict(centre.named_parameters()), scratch, dtype)
    (scratch / "README.md").write_text(card, encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    scratch.rename(folder)


def _write_weights(parameters: dict[str, nn.Parameter], folder: Path, dtype: torch.dtype) -> None:
    from huggingface_hub import split_torch_state_dict_into_shards
    from safetensors.torch import save_file

    plan = split_torch_state_dict_into_shards(
        {name: torch.empty(p.shape, dtype=dtype, device="meta") for name, p in parameters.items()},
        max_shard_size=SHARD_BYTES,
    )
    for filename, names in plan.filename_to_tensors.items():
        shard = {name: parameters[name].detach().to("cpu", dtype).contiguous() for name in names}
        save_file(shard, folder / filename, metadata={"format": "pt"})
    if plan.is_sharded:
        index: dict[str, Any] = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")
