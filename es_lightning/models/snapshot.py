"""A copy of the centre on disk, kept for one generation."""

from collections.abc import Iterable
from contextlib import suppress
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from es_lightning.errors import StorageError


class Snapshot:
    """Float32 tensors in a file, read back one at a time through a memory map.

    Args:
        path: the file; replaced by ``write``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._places: dict[str, tuple[int, torch.Size]] = {}

    def write(self, named: Iterable[tuple[str, Tensor]]) -> None:
        """Copy float32 tensors into the file.

        Raises:
            StorageError: the disk is full or the folder cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("wb") as file:
                for name, tensor in named:
                    self._places[name] = file.tell(), tensor.shape
                    file.write(tensor.detach().cpu().contiguous().view(-1).numpy().data)
        except OSError as error:
            with suppress(OSError):
                self.remove()
            raise StorageError(
                f"{self.path} could not be written ({error.strerror or error}): a copy of the centre takes 4 "
                "bytes per parameter there, so free space, or measure without steps."
            ) from error

    def read(self, name: str) -> Tensor:
        """Return the tensor; the file is mapped anew each time, or its pages would pile up in memory."""
        offset, shape = self._places[name]
        # "c", copy on write: the array is writable, as torch wants it, and the file never changes.
        mapped = np.memmap(self.path, np.float32, mode="c", offset=offset, shape=(prod(shape),))
        return torch.from_numpy(mapped).view(shape)

    def remove(self) -> None:
        """Delete the file."""
        self.path.unlink(missing_ok=True)
