"""A base model: where its files are, and what a run reads from them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from copy import deepcopy
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils import swap_tensors

from es_lightning.errors import UsageError
from es_lightning.models.embedded import embedded_folder, tiny_folder
from es_lightning.models.export import export
from es_lightning.models.files import weight_files
from es_lightning.models.kinds import check_whole
from es_lightning.models.layout import tensors_of
from es_lightning.models.matching import check_tied
from es_lightning.models.reading import check_config, check_links, reading
from es_lightning.models.weights import BaseWeights

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

NOT_THE_MODEL = ["consolidated*.safetensors", "*/*.safetensors"]
"""Weights in other forms, which some models on the hub have beside those that transformers takes."""


class BaseModel:
    """The model that a run starts from; its files are located and read when they are first needed.

    Args:
        name: ``embedded``, ``tiny``, a Hugging Face folder, or a hub id such as ``Qwen/Qwen2.5-3B-Instruct``.
        trust_remote_code: run Python code that comes with the model.
    """

    def __init__(self, name: str | Path, trust_remote_code: bool = False) -> None:
        self.name, self.trust_remote_code = str(name), trust_remote_code

    @cached_property
    def folder(self) -> Path:
        """The folder of the model's files.

        Raises:
            UsageError: there is no such model.
        """
        return resolve(self.name, self.trust_remote_code)

    @cached_property
    def config(self) -> PreTrainedConfig:
        """The model's configuration.

        Raises:
            UsageError: config.json is damaged, or describes a model that transformers does not know.
        """
        from transformers import AutoConfig

        check_config(self.folder)
        with reading("config.json", self.folder):
            return AutoConfig.from_pretrained(self.folder, trust_remote_code=self.trust_remote_code)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer.

        Raises:
            UsageError: its files are missing or damaged.
        """
        from transformers import AutoTokenizer

        with reading("the tokenizer", self.folder):
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
                self.folder, trust_remote_code=self.trust_remote_code
            )
            if not tokenizer.encode("a", add_special_tokens=False):  # what transformers makes without files
                raise ValueError("it has no vocabulary: its files are missing")
        return tokenizer

    @cached_property
    def blueprint(self) -> PreTrainedModel:
        """The model without values: names and shapes, on the meta device.

        Raises:
            UsageError: transformers has no model that writes text for this config.json.
        """
        from transformers import AutoModelForCausalLM

        config = deepcopy(self.config)
        with reading("config.json", self.folder), torch.device("meta"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(
                config, trust_remote_code=self.trust_remote_code
            )
        return model

    @cached_property
    def weights(self) -> BaseWeights:
        """The weights as stored, read tensor by tensor.

        Raises:
            UsageError: a file is damaged or missing, or the files do not hold all of the model.
        """
        return BaseWeights(self.folder, self.blueprint)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the stored weights; tuned models are exported in it as well."""
        return self.config.dtype or torch.float32

    @property
    def max_length(self) -> int | None:
        """Longest sequence that the model was made for, in tokens; None if the configuration names none."""
        length = getattr(self.config.get_text_config(), "max_position_embeddings", None)
        return None if length is None else int(length)

    @property
    def vocabulary(self) -> int | None:
        """Number of token ids that the model knows; None if the configuration does not say."""
        size = getattr(self.config.get_text_config(), "vocab_size", None)
        return None if size is None else int(size)

    def load(self, held: Callable[[str], bool] | None = None) -> PreTrainedModel:
        """Load the model as the first centre: float32 parameters under their Hugging Face names.

        Tensors are copied one at a time, so the peak memory is that of the centre and one tensor.
        transformers' own loader keeps the whole file mapped, and draws what is missing at random.

        Args:
            held: whether a parameter's values are wanted; the others stay on the meta device, and take no
                memory. None wants all.

        Raises:
            UsageError: the files do not have all of the model's weights, or have them in other shapes.
        """
        from accelerate import init_empty_weights
        from transformers import AutoModelForCausalLM

        weights = self.weights  # refuses what does not fit, before anything is built
        check_tied(self.blueprint, weights)
        config = deepcopy(self.config)  # transformers writes the new dtype into it
        blank = nullcontext() if held is None else init_empty_weights(include_buffers=False)
        # from_config draws random weights first, unless there is nothing to draw them into.
        with torch.random.fork_rng(devices=[]), blank:
            model: PreTrainedModel = AutoModelForCausalLM.from_config(
                config, dtype=torch.float32, trust_remote_code=self.trust_remote_code
            )
        if held is not None:
            model.tie_weights()  # without values, no two parameters are the same one
            for name, parameter in model.named_parameters():
                if held(name):
                    here = nn.Parameter(torch.empty_like(parameter, device="cpu"), requires_grad=False)
                    swap_tensors(parameter, here)
        for name, tensor in tensors_of(model).items():
            if name in weights and not tensor.is_meta:
                with reading(name, self.folder):
                    tensor.data.copy_(weights.read(name))
        return model.eval().requires_grad_(False)

    def check(self) -> None:
        """Refuse files that are damaged, do not belong together, or lead out of the model's folder.

        No weights are read: it takes a moment for a model of any size.

        Raises:
            UsageError: the message says which file is wrong, and how.
        """
        check_links(self.folder)
        _ = self.weights

    def check_heads(self, tensor_parallel_size: int) -> None:
        """Refuse a split of the model that would cut a head in two.

        Raises:
            UsageError: a number of heads does not fit the tensor-parallel size.
        """
        text = self.config.get_text_config()
        heads = int(getattr(text, "num_attention_heads", tensor_parallel_size))
        shared = int(getattr(text, "num_key_value_heads", None) or heads)
        # Key-value heads are replicated if there are fewer of them than ranks, so either number may divide
        # the other.
        if heads % tensor_parallel_size or (shared % tensor_parallel_size and tensor_parallel_size % shared):
            raise UsageError(
                f"engine.tensor_parallel_size is {tensor_parallel_size}, but the model has {heads} attention "
                f"heads and {shared} key-value heads: choose a size that divides both."
            )

    def hashes(self) -> dict[str, str]:
        """Return the SHA-256 of configuration and weights by path in the folder, as hubs list them."""
        paths = [self.folder / "config.json", *weight_files(self.folder)]
        hashes = {}
        for path in paths:
            with path.open("rb") as file:
                hashes[path.relative_to(self.folder).as_posix()] = hashlib.file_digest(
                    file, "sha256"
                ).hexdigest()
        return hashes

    def export(
        self,
        centre: nn.Module,
        folder: Path,
        card: str,
        values: Mapping[str, Tensor] | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Write a centre as a Hugging Face folder, with this model's config and tokenizer.

        Args:
            centre: float32 parameters under this model's names.
            folder: where to write; replaced as a whole.
            card: text of the model card, README.md.
            values: of the parameters, by name, if the centre does not hold all of them itself.
            dtype: precision of the parameters in the files; None takes that of this model's own.
        """
        export(centre, self.folder, folder, dtype or self.dtype, card, values)


def resolve(base: str, trust_remote_code: bool = False) -> Path:
    """Return the local folder of a base model.

    Args:
        base: ``embedded``, ``tiny``, a folder with a config.json, or a hub id such as
            ``Qwen/Qwen2.5-3B-Instruct``.
        trust_remote_code: get Python code that comes with a model on the hub, too.

    Raises:
        UsageError: there is no such model; the message says where it was looked for.
    """
    if base == "tiny":
        return tiny_folder()
    folder = embedded_folder() if base == "embedded" else Path(base).expanduser()
    check_whole(folder)
    if (folder / "config.json").is_file():
        return folder
    if base == "embedded":
        raise UsageError(
            f"the embedded model is not in {folder} yet: run `es-lightning fetch` once to get it."
        )
    if folder.is_dir() or base.count("/") != 1 or base.startswith((".", "/", "~")):
        place = folder.absolute()
        reason = f"{place} is a file" if folder.is_file() else f"there is no config.json in {place}"
        raise UsageError(_not_found(base, reason))
    folder = _from_hub(base, trust_remote_code)
    check_whole(folder)
    return folder


def _from_hub(base: str, trust_remote_code: bool) -> Path:
    from huggingface_hub import snapshot_download

    wanted = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", "*.tiktoken"]
    if trust_remote_code:
        wanted.append("*.py")
    try:
        return Path(snapshot_download(base, allow_patterns=wanted, ignore_patterns=NOT_THE_MODEL))
    except Exception as error:  # the hub client raises many kinds; after any of them there is no model
        reason = f"no folder {Path(base).absolute()}, and the hub gave no {base} ({type(error).__name__})"
        raise UsageError(_not_found(base, reason)) from error


def _not_found(base: str, reason: str) -> str:
    return (
        f"no model at {base!r}: {reason}. Give a Hugging Face folder, a hub id, or `embedded`, "
        "the built-in SmolLM2-135M-Instruct (`es-lightning fetch` gets it)."
    )
