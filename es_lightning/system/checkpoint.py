"""Checkpoints on disk: written whole or not at all, and read without running any code in them."""

import logging
import pickle
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.utilities.types import _PATH

from es_lightning.errors import UsageError
from es_lightning.system.files import replacing

log = logging.getLogger(__name__)


class AtomicCheckpoint(TorchCheckpointIO):
    """Writes to a new file, then replaces the old one with it; reads with ``weights_only``."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint.

        Raises:
            StorageError: the disk is full or the folder cannot be written; the old file is intact.
        """
        with replacing(Path(path)) as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:  # torch's writer reports a failed write this way
                raise OSError(str(error).splitlines()[0]) from error

    def load_checkpoint(
        self, path: _PATH, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint of tensors and plain values onto the CPU, whatever the other arguments ask for.

        Raises:
            UsageError: there is no such file, it is damaged, or it holds code.
        """
        return read_checkpoint(Path(path))


def read_checkpoint(path: Path, mapped: bool = False) -> dict[str, Any]:
    """Return the content of a checkpoint.

    Args:
        path: the file.
        mapped: whether to leave tensors in the file until they are used.

    Raises:
        UsageError: there is no such file, it is damaged, or it holds code.
    """
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except FileNotFoundError as error:
        raise UsageError(
            f"there is no checkpoint {path}: give another --ckpt_path, or `last` for the newest."
        ) from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise UsageError(
            f"{path} was not read: it is damaged, or holds more than tensors and plain values, which could "
            "run code. Give another --ckpt_path, or `last` for the newest."
        ) from error
    return content


def newest(folder: Path) -> Path | None:
    """Return the checkpoint of the latest generation in a folder; None if none can be read."""
    generations = steps(folder)
    return max(generations, key=lambda path: generations[path]) if generations else None


def newest_step(folder: Path) -> int | None:
    """Return how many generations the newest checkpoint of a folder has seen; None if none can be read."""
    return max(steps(folder).values(), default=None)


def steps(folder: Path) -> dict[Path, int]:
    """Return the readable checkpoints of a folder, each with the number of generations it has seen."""
    generations = {}
    for path in sorted(folder.glob("*.ckpt")):
        try:
            generations[path] = int(read_checkpoint(path, mapped=True)["global_step"])
        except (UsageError, KeyError):
            log.warning("%s cannot be read as a checkpoint and is passed over.", path)
    return generations
