"""Export of the centre as a Hugging Face folder, written one shard at a time."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from es_lightning.errors import UsageError
from es_lightning.models.layout import Layout, persistent_buffers, tensors_of
from es_lightning.models.reading import check_links, copied
from es_lightning.models.weights import StoredTensors
from es_lightning.system.folders import replace_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SHARD_BYTES = 2 * 10**9
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Floating-point types by the names of safetensors."""


def export(
    centre: PreTrainedModel,
    base: Path,
    folder: Path,
    dtype: torch.dtype,
    card: str,
    values: Mapping[str, Tensor] | None = None,
) -> None:
    """Write the centre as a Hugging Face folder: safetensors, config, tokenizer and model card.

    Args:
        centre: float32 parameters under Hugging Face names; tied ones are written once.
        base: the base model's folder, from which config and tokenizer are copied. Weights get the names that
            they have there, in as many parts.
        folder: where to write; replaced as a whole once everything has been written.
        dtype: precision of the parameters in the files; buffers keep that of the base model's files.
        card: text of the model card, README.md.
        values: of the parameters, by name, if the centre does not hold all of them itself.

    Raises:
        UsageError: a file that would be copied is a link out of the base model's folder, or transformers'
            mapping of names does not lead back to those of the base model.
    """
    scratch = folder.with_name(folder.name + ".part")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        scratch.mkdir(parents=True)
        check_links(base)
        for path in copied(base):
            shutil.copyfile(path, scratch / path.name)
        _adapt_config(scratch / "config.json", dtype)
        _write_weights(_Files(centre, base, dtype, values or {}), scratch)
        (scratch / "README.md").write_text(card, encoding="utf-8")
        replace_folder(folder, by=scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)  # a half-written model would only help to fill the disk


def _adapt_config(path: Path, dtype: torch.dtype) -> None:
    """Take the name of the base model's own file of weights out of a configuration, and put the precision in.

    transformers and vLLM load weights in the precision of the configuration, whatever that of the files is.
    """
    config = json.loads(path.read_text(encoding="utf-8"))
    named = config.pop("transformers_weights", None) is not None
    precision = str(dtype).removeprefix("torch.")
    keys = [key for key in ("dtype", "torch_dtype") if key in config] or ["dtype"]
    if named or any(config.get(key, "float32") != precision for key in keys):
        config.update(dict.fromkeys(keys, precision))
        path.write_text(json.dumps(config, indent=2), encoding="utf-8")


class _Files:
    """The tensors of the files to write, made of the centre's, those that belong together at a time."""

    def __init__(
        self, centre: PreTrainedModel, base: Path, dtype: torch.dtype, values: Mapping[str, Tensor]
    ) -> None:
        entries = StoredTensors(base).entries
        self._layout = Layout(centre, entries)
        tensors = {**tensors_of(centre), **values}
        self._centre = {name: held for name, held in tensors.items() if name in self._layout}
        self._dtypes = dict.fromkeys(self._centre, dtype)
        for name in persistent_buffers(centre).keys() & self._centre.keys():
            kind = entries[self._layout.piece(name).stored[0]].dtype
            self._dtypes[name] = DTYPES.get(kind, self._centre[name].dtype)
        self._names: dict[str, list[str]] = {}  # of the tensors that belong together, by the mapping's name
        for name in self._centre:
            self._names.setdefault(self._layout.piece(name).target, []).append(name)
        self.plan: dict[str, Tensor] = {}
        """Every tensor to write on the meta device, by its name in the files."""
        self._target: dict[str, str] = {}
        for target in self._names:
            empty = self._made(target, "meta")
            self.plan |= empty
            self._target |= dict.fromkeys(empty, target)
        self._present: tuple[str, dict[str, Tensor]] = ("", {})

    def read(self, stored: str) -> Tensor:
        """Return the tensor to write under a name; neighbours that are made with it are kept for a while."""
        target = self._target[stored]
        if self._present[0] != target:
            self._present = target, self._made(target, "cpu")
        return self._present[1][stored].contiguous()

    def _made(self, target: str, device: str) -> dict[str, Tensor]:
        names = self._names[target]
        tensors = {name: self._centre[name].detach().to(device, self._dtypes[name]) for name in names}
        try:
            return self._layout.stored(self._layout.piece(names[0]), tensors)
        except Exception as error:  # of transformers' operations, some of which have no way back
            raise UsageError(
                f"{names[0]} cannot be written as the base model's files hold it ({error}): save the base "
                "model once with transformers' save_pretrained, and begin from that folder."
            ) from error


def _write_weights(files: _Files, folder: Path) -> None:
    from huggingface_hub import split_torch_state_dict_into_shards
    from safetensors.torch import save_file

    plan = split_torch_state_dict_into_shards(files.plan, max_shard_size=SHARD_BYTES)
    for filename, names in plan.filename_to_tensors.items():
        save_file({name: files.read(name) for name in names}, folder / filename, metadata={"format": "pt"})
    if plan.is_sharded:
        index: dict[str, Any] = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")
