"""Centres of the past, as far as they are on disk: checkpoints along a journal's lineage, and the base."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from es_lightning.algorithm.tensors import checksum
from es_lightning.errors import UsageError
from es_lightning.journal.entry import Entry
from es_lightning.models.weights import BaseWeights
from es_lightning.system import checkpoint


def on_disk(folders: Iterable[Path], path: Sequence[Entry]) -> list[tuple[int, Path]]:
    """Checkpoints written after one of the updates of a lineage, the latest first.

    Args:
        folders: of checkpoints.
        path: the updates.

    Returns:
        (position in the path, file); whether a file holds that very centre, ``load_centre`` finds out.
    """
    place = {entry.generation + 1: index for index, entry in enumerate(path)}
    steps = [pair for folder in folders for pair in checkpoint.steps(folder).items()]
    return sorted(((place[step], file) for file, step in steps if step in place), reverse=True)


def load_centre(file: Path, centre: nn.Module, wanted: str) -> dict[str, Any] | None:
    """Load a checkpoint's centre.

    Args:
        file: the checkpoint.
        centre: changed in place, whatever the result.
        wanted: checksum that the centre is to have.

    Returns:
        The state of the optimizer beside it; None if the file cannot be read, holds another centre, or
        weights alone.
    """
    try:
        content = checkpoint.read_checkpoint(file, mapped=True)
    except UsageError:
        return None
    state = content.get("current_model_state", content["state_dict"])  # beside an average: WeightAveraging
    named = [(f"centre.{name}", parameter) for name, parameter in centre.named_parameters()]
    fits = all(name in state and state[name].shape == parameter.shape for name, parameter in named)
    if not fits or "optimizer_states" not in content:
        return None
    for name, parameter in named:
        parameter.copy_(state[name])
    if checksum(centre.named_parameters()) != wanted:
        return None
    found: dict[str, Any] = content["optimizer_states"][0]
    return found


def load_base(base: BaseWeights, centre: nn.Module) -> None:
    """Make the centre what it was at first.

    Raises:
        UsageError: the base model's files name their tensors otherwise than transformers does.
    """
    for name, parameter in centre.named_parameters():
        parameter.copy_(base.read(name))
