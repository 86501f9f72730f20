"""A model's weights on disk, read one tensor at a time."""

import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from torch import Tensor

from es_lightning.errors import UsageError
from es_lightning.models.reading import reading


class BaseWeights:
    """The base model's weights, read from its safetensors files one tensor at a time and never held.

    Args:
        folder: the base model's folder.

    Raises:
        UsageError: a file is damaged, or one of several is missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with reading("model.safetensors.index.json", folder):
            _check_shards(folder)
        self._files = dict(_safetensors_names(folder))

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def __len__(self) -> int:
        return len(self._files)

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor by name; no tensor is read for it."""
        from safetensors import safe_open

        shapes: dict[str, tuple[int, ...]] = {}
        for path in sorted(set(self._files.values())):
            with reading(path.name, self.folder), safe_open(path, framework="pt") as file:
                shapes |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        return shapes

    def read(self, name: str) -> Tensor:
        """Return the tensor as stored.

        The file is opened anew each time: if it stayed open, its mapped pages would pile up in memory.

        Raises:
            UsageError: the files have no tensor of this name; they may use other names than transformers.
        """
        from safetensors import safe_open

        if name not in self:
            raise UsageError(
                f"{self.folder} holds no tensor {name}: load the model with transformers and save it anew."
            )
        with safe_open(self._files[name], framework="pt") as file:
            tensor: Tensor = file.get_tensor(name)
            return tensor


def _check_shards(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return
    shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    missing = sorted(shard for shard in shards if not (folder / shard).is_file())
    if missing:
        raise UsageError(
            f"{folder} lacks {missing[0]}, one of {len(shards)} files of weights that its index names: get "
            "the model's files anew, or give another model.base."
        )


def _safetensors_names(folder: Path) -> Iterator[tuple[str, Path]]:
    from safetensors import safe_open

    for path in sorted(folder.glob("*.safetensors")):
        with reading(path.name, folder), safe_open(path, framework="pt") as file:
            names = list(file.keys())
        yield from ((name, path) for name in names)
