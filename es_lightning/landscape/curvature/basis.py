"""Orthonormal vectors of a Lanczos run, in memory or, of whole models, in files."""

from __future__ import annotations

from math import sqrt
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from es_lightning.system.files import replacing


class Basis(Protocol):
    """Vectors of length 1 that are read in any order and grow in number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Tensor: ...

    def append(self, vector: Tensor) -> None:
        """Keep a vector, flat [D]."""

    def cut(self, count: int) -> None:
        """Drop all vectors after the first ``count``."""


class MemoryBasis:
    """Vectors in memory, as they are."""

    def __init__(self) -> None:
        self._vectors: list[Tensor] = []

    def __len__(self) -> int:
        return len(self._vectors)

    def __getitem__(self, index: int) -> Tensor:
        return self._vectors[index]

    def append(self, vector: Tensor) -> None:
        """Keep a vector, flat [D]."""
        self._vectors.append(vector)

    def cut(self, count: int) -> None:
        """Drop all vectors after the first ``count``."""
        del self._vectors[count:]


class FileBasis:
    """Vectors in a folder, one float16 file each; what is there already is the basis's beginning.

    A vector of length 1 has elements of about 1 / sqrt(D), so they are stored times sqrt(D). Rounding to 11
    bits is random over elements: vectors stay orthogonal to about 3e-4 / sqrt(D), and Lanczos works with the
    vectors as they are stored, so that nothing else is lost.

    Args:
        folder: where they are; it is made. Twenty vectors of 135 million elements take 5.4 GB.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._count = 0
        while self._path(self._count).is_file():
            self._count += 1

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Tensor:
        if not 0 <= index < self._count:
            raise IndexError(index)
        stored = np.load(self._path(index), mmap_mode="r", allow_pickle=False)
        vector = torch.from_numpy(stored.astype(np.float32))
        return vector.mul_(1 / sqrt(len(vector)))

    def append(self, vector: Tensor) -> None:
        """Keep a vector, flat [D]; it is on disk before this returns.

        Raises:
            StorageError: the disk is full or the folder cannot be written.
        """
        scaled = (vector * sqrt(len(vector))).clamp_(-65504, 65504).to(torch.float16)
        with replacing(self._path(self._count)) as file:
            np.save(file, scaled.numpy(), allow_pickle=False)
        self._count += 1

    def cut(self, count: int) -> None:
        """Drop all vectors after the first ``count``."""
        while self._count > count:
            self._count -= 1
            self._path(self._count).unlink()

    def _path(self, index: int) -> Path:
        return self.folder / f"vector_{index:03d}.npy"
