"""Export of the centre as a Hugging Face folder, written one shard at a time."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from es_lightning.models.reading import check_links, copied
from es_lightning.system.folders import replace_folder

SHARD_BYTES = 2 * 10**9


def export(centre: nn.Module, base: Path, folder: Path, dtype: torch.dtype, card: str) -> None:
    """Write the centre as a Hugging Face folder: safetensors, config, tokenizer and model card.

    Args:
        centre: float32 parameters under Hugging Face names; tied ones are written once.
        base: the base model's folder, from which config and tokenizer are copied.
        folder: where to write; replaced as a whole once everything has been written.
        dtype: precision of the files.
        card: text of the model card, README.md.

    Raises:
        UsageError: a file that would be copied is a link out of the base model's folder.
    """
    scratch = folder.with_name(folder.name + ".part")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        scratch.mkdir(parents=True)
        check_links(base)
        for path in copied(base):
            shutil.copyfile(path, scratch / path.name)
        _write_weights(dict(centre.named_parameters()), scratch, dtype)
        (scratch / "README.md").write_text(card, encoding="utf-8")
        replace_folder(folder, by=scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)  # a half-written model would only help to fill the disk


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
