"""A model's weights on disk, read one tensor at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from es_lightning.errors import UsageError
from es_lightning.models.files import weight_files
from es_lightning.models.matching import matched
from es_lightning.models.reading import reading

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Stored:
    """A tensor in a file.

    Args:
        file: the safetensors file.
        shape: of the tensor.
        dtype: its type by the name that safetensors has for it, such as ``BF16``.
    """

    file: Path
    shape: tuple[int, ...]
    dtype: str


class StoredTensors:
    """The tensors in a model's safetensors files, under the names that they have there.

    Args:
        folder: the model's folder.

    Raises:
        UsageError: there is no file of weights, one is damaged, or one of several is missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.files = folder, weight_files(folder)

    @cached_property
    def entries(self) -> dict[str, Stored]:
        """What the files hold, by name; no tensor is read for it."""
        from safetensors import safe_open

        entries: dict[str, Stored] = {}
        for path in self.files:
            with reading(path.name, self.folder), safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118
                    held = file.get_slice(name)
                    entries[name] = Stored(path, tuple(held.get_shape()), str(held.get_dtype()))
        return entries

    def read(self, names: Sequence[str]) -> list[Tensor]:
        """Return tensors as stored.

        Files are opened anew each time: if they stayed open, their mapped pages would pile up in memory.
        """
        from safetensors import safe_open

        tensors: dict[str, Tensor] = {}
        for path in dict.fromkeys(self.entries[name].file for name in names):
            with safe_open(path, framework="pt") as file:
                for name in names:
                    if self.entries[name].file == path:
                        tensors[name] = file.get_tensor(name)
        return [tensors[name] for name in names]


class BaseWeights:
    """A model's weights on disk, read one tensor at a time and never held.

    Args:
        folder: the model's folder.
        model: the model in memory, on any device: weights have the names that they have there. Where the
            files name them otherwise, or hold the parts of one tensor, transformers' own mapping applies.
            Without a model, weights have the names of the files.

    Raises:
        UsageError: a file is damaged or missing, or the files do not hold all of the model.
    """

    def __init__(self, folder: Path, model: PreTrainedModel | None = None) -> None:
        self.folder, self.stored = folder, StoredTensors(folder)
        self.layout = None if model is None else matched(model, self.stored)

    def __contains__(self, name: str) -> bool:
        return name in (self.stored.entries if self.layout is None else self.layout)

    def read(self, name: str) -> Tensor:
        """Return a tensor in the precision of the files.

        Raises:
            UsageError: the files have nothing for this name.
        """
        if name not in self:
            raise UsageError(f"{self.folder} holds no tensor {name}: give another model.")
        if self.layout is None:
            return self.stored.read([name])[0]
        return self.layout.read(name, self.stored.read)
