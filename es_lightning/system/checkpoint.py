"""Checkpoints on disk: written whole or not at all, and read without running any code in them."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.utilities.types import _PATH
from torch import Tensor

from es_lightning.errors import UsageError
from es_lightning.system.fields import (
    COUNT,
    INTEGER,
    MAPPING,
    NOTHING,
    POSITIVE,
    TEXT,
    Kind,
    fault,
    kind_of,
    list_of,
    mapping_of,
    short,
)
from es_lightning.system.files import is_journal, replacing

log = logging.getLogger(__name__)

_ADVICE = "give another --ckpt_path, or `last` for the newest"


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
    if reason := _unreadable(path):
        raise UsageError(f"{reason}: {_ADVICE}.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # a damaged file makes the unpickler raise whatever its bytes say
        raise UsageError(
            f"{path} was not read: it is damaged, or holds more than tensors and plain values, which could "
            f"run code. {_ADVICE.capitalize()}."
        ) from error
    if not isinstance(content, dict):
        raise UsageError(f"{path} holds {kind_of(content)} and no checkpoint: {_ADVICE}.")
    return content


def _unreadable(path: Path) -> str:
    """Say why a path leads to no checkpoint; empty if it may lead to one."""
    try:
        if not path.exists():
            return f"there is no checkpoint {path}"
        if path.is_dir():
            return f"{path} is a folder and no checkpoint"
        if not path.is_file():  # reading a pipe could wait for ever
            return f"{path} is no file"
        if not path.stat().st_size:
            return f"{path} is empty"
        return f"{path} is a journal and no checkpoint" if is_journal(path) else ""
    except (OSError, ValueError) as error:  # no permission; a name that is too long, or none at all
        reason = getattr(error, "strerror", None) or error
        return f"there is no checkpoint {short(str(path))} that can be read ({reason})"


# What Lightning and the module take out of a checkpoint without looking.
_MODEL = {
    "pytorch-lightning_version": Kind("a version", lambda value: _is_version(value)),
    "global_step": COUNT,
    "state_dict": mapping_of(Kind("a tensor", lambda value: isinstance(value, Tensor))),
}
_JOURNAL = {"journal": Kind("a list of lines", lambda value: list_of(TEXT).fits(value) and len(value) > 0)}
_STEERED = {"after": INTEGER | NOTHING, "sigma": POSITIVE, "population": POSITIVE}
_OPTIONAL = {
    "current_model_state": _MODEL["state_dict"],  # WeightAveraging's name for the centre
    "steered": Kind("the settings that callbacks have changed", lambda value: _is_steered(value)),
    "schedules": mapping_of(MAPPING),
    "evaluations": list_of(TEXT),
}
_TRAINING = {
    "epoch": COUNT,
    "loops": mapping_of(MAPPING, "fit_loop"),
    "callbacks": MAPPING,
    "optimizer_states": Kind("the state of one optimizer", lambda value: _is_state_of_one(value)),
    "lr_schedulers": list_of(MAPPING),
}


def check_checkpoint(path: Path, resumes: bool = True) -> dict[str, Any]:
    """Make sure that a run can start from a checkpoint, and return its content, its tensors still on disk.

    Args:
        path: the file.
        resumes: whether a fit goes on from it, which needs more than the weights.

    Raises:
        UsageError: the file is no checkpoint of this library; the message says what is wrong with it.
    """
    content = read_checkpoint(path, mapped=True)
    check_content(content, path, resumes)
    return content


def check_content(content: Mapping[str, Any], path: Path, resumes: bool) -> None:
    """Make sure that a checkpoint holds what a run starts from.

    Args:
        content: of the checkpoint.
        path: its file, for messages.
        resumes: whether a fit goes on from it, which needs more than the weights.

    Raises:
        UsageError: it does not; the message says what is wrong with it.
    """
    if wrong := fault(content, _MODEL):
        raise UsageError(f"{path} is no checkpoint of a run: it {wrong}. {_ADVICE.capitalize()}.")
    if "journal" not in content:
        raise UsageError(f"{path} holds no journal, so it is none of this library's: {_ADVICE}.")
    if resumes and "optimizer_states" not in content:
        raise UsageError(
            f"{path} holds only weights (checkpoint.save_weights_only), and a run goes on with its "
            "optimizer's state, too: give another --ckpt_path, or move the folder's checkpoints away and "
            "give --ckpt_path last, which then goes on from the journal."
        )
    if wrong := fault(content, _JOURNAL | _TRAINING if resumes else _JOURNAL, _OPTIONAL):
        raise UsageError(f"{path} is damaged: it {wrong}. {_ADVICE.capitalize()}.")


def _is_version(value: Any) -> bool:
    return isinstance(value, str) and re.match(r"\d+\.\d+", value) is not None


def _is_steered(value: Any) -> bool:
    return not fault(value, {}, _STEERED) and not value.keys() - _STEERED.keys()


def _is_state_of_one(value: Any) -> bool:
    parts = {
        "state": Kind("a mapping", lambda state: isinstance(state, dict)),
        "param_groups": list_of(MAPPING),
    }
    return isinstance(value, list) and len(value) == 1 and not fault(value[0], parts)


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
            content = read_checkpoint(path, mapped=True)
        except UsageError:
            content = {}
        if fault(content, {"global_step": COUNT}):
            log.warning("%s cannot be read as a checkpoint and is passed over.", path)
        else:
            generations[path] = content["global_step"]
    return generations
