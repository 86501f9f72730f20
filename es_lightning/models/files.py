"""Which files of a folder are the model: the same ones that transformers takes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from es_lightning.errors import UsageError
from es_lightning.models.reading import reading

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
OTHER_FORMATS = ("*.bin", "*.bin.index.json", "*.gguf")
"""Those that transformers converts."""
UNREADABLE = ("*.pth", "*.pt", "*.ckpt", "*.h5", "*.msgpack", "*.npz", "*.onnx")


def weight_files(folder: Path) -> list[Path]:
    """Return the files of weights that transformers would load; others in the folder are not the model.

    That is the file that config.json names as ``transformers_weights``, or model.safetensors, or the files
    that model.safetensors.index.json names. Files of a variant, such as model.fp16.safetensors, are not.

    Args:
        folder: with a config.json.

    Raises:
        UsageError: there are none, or one of several is missing.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    named = config.get("transformers_weights") if isinstance(config, Mapping) else None
    first = str(named or (SINGLE if (folder / SINGLE).is_file() else INDEX))
    is_one = first.endswith((".safetensors", ".safetensors.index.json")) and _is_inside(first)
    if not is_one or not (folder / first).is_file():
        raise UsageError(_nothing_to_read(folder, named))
    if (folder / INDEX).is_file():
        with reading(INDEX, folder):
            json.loads(
                (folder / INDEX).read_text(encoding="utf-8")
            )  # damage is refused even if it is not used
    return _shards(folder, first) if first.endswith(".index.json") else [folder / first]


def _shards(folder: Path, index: str) -> list[Path]:
    with reading(index, folder):
        content: Any = json.loads((folder / index).read_text(encoding="utf-8"))
        shards = sorted(set(content["weight_map"].values()))
        outside = [shard for shard in shards if not _is_inside(shard)]
        if outside:
            raise ValueError(f"it names {outside[0]}, which is not in the folder")
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if missing:
        raise UsageError(
            f"{folder} lacks {missing[0]}, one of {len(shards)} files of weights that its index names: get "
            "the model's files anew, or give another model.base."
        )
    return [folder / shard for shard in shards]


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def _nothing_to_read(folder: Path, named: object) -> str:
    if named:
        return (
            f"config.json in {folder} names {named} as its weights (transformers_weights), and there is no "
            "file of safetensors with that name: get the model's files anew, or give another model.base."
        )
    others = [path.name for pattern in OTHER_FORMATS for path in sorted(folder.glob(pattern))]
    if others:
        more = f', gguf_file="{others[0]}"' if others[0].endswith(".gguf") else ""
        return (
            f"the weights in {folder} are {others[0]}, and only safetensors are read: convert them once with "
            f'transformers, AutoModelForCausalLM.from_pretrained(FOLDER, dtype="auto"{more})'
            ".save_pretrained(NEW_FOLDER), copy the tokenizer's files there, and give the new folder."
        )
    parts = sorted(path.name for path in folder.glob("model-*-of-*.safetensors"))
    if parts:
        return (
            f"{folder} has {parts[0]}, but not {INDEX}, which says what is in it: get that file too, or give "
            "another model.base."
        )
    beside = [path.name for pattern in UNREADABLE for path in sorted(folder.glob(pattern))]
    variants = sorted(str(path.relative_to(folder)) for path in folder.glob("**/*.safetensors"))
    has = "no other format is read"
    if variants or beside:
        has = f"{(variants or beside)[0]} is not a file that transformers takes"
    return (
        f"there are no weights in {folder} ({SINGLE}, or {INDEX} and its files; {has}): get the files "
        "anew, or give another model.base."
    )
