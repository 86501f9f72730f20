"""Restore an earlier centre: load a checkpoint or the base model, then repeat updates from the journal."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from es_lightning.algorithm.noise import Noise
from es_lightning.algorithm.regularisers import Regulariser
from es_lightning.algorithm.shares import Shards
from es_lightning.algorithm.tensors import StoredWeights, Weights, checksum
from es_lightning.distributed.ranks import Ranks
from es_lightning.distributed.shard_state import own_optimizer
from es_lightning.errors import UsageError
from es_lightning.journal.entry import Entry
from es_lightning.journal.replay import repeat
from es_lightning.system.checkpoint import check_checkpoint, steps


@torch.no_grad()
def go_back(
    path: Sequence[Entry],
    centre: nn.Module,
    optimizer: Optimizer,
    noise: Noise,
    base: StoredWeights,
    folders: Iterable[Path],
    ranks: Ranks,
    regularisers: Sequence[Regulariser] = (),
) -> None:
    """Put centre and optimizer in their state after the updates of a lineage; all ranks have to call it.

    This loads the latest checkpoint of the lineage, or else the base model, and repeats the updates since.

    Args:
        path: the updates of the lineage, from the base model on.
        centre: float32 parameters, changed in place.
        optimizer: the centre's optimizer; its learning rates and other settings stay as they are.
        noise: the run's noise.
        base: weights of the base model.
        folders: folders with checkpoints.
        ranks: the run's ranks, which all have to start from the same file.
        regularisers: the run's parts that change the update.

    Raises:
        UsageError: the base model's files cannot be read any more.
    """
    # Loading and repeating overwrite the settings in the parameter groups, so they are put back afterwards: a
    # checkpoint holds what schedulers had set by then, for example OneCycleLR's peak.
    present = [
        {name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups
    ]
    for entry in path[_start(path, centre, optimizer, base, folders, ranks) :]:
        repeat(entry, centre, optimizer, noise, base, regularisers, ranks.shards)
    for group, settings in zip(optimizer.param_groups, present, strict=True):
        group.update(settings)


def _start(
    path: Sequence[Entry],
    centre: nn.Module,
    optimizer: Optimizer,
    base: Weights,
    folders: Iterable[Path],
    ranks: Ranks,
) -> int:
    """Load the latest centre of a lineage that all ranks find on disk; returns its number of updates."""
    mine = [[str(file), index] for index, file in on_disk(folders, path)]
    # All ranks try the files that rank 0 sees, in its order: so each has the same number of exchanges.
    agreed = json.loads(ranks.from_first(json.dumps(mine).encode()))
    for file, index in agreed:
        optimizer_state = read_centre_(centre, Path(file), path[index].checksum, ranks.shards)
        told = ranks.exchange(b"no" if optimizer_state is None else b"yes")
        if optimizer_state is not None and set(told) == {b"yes"}:
            optimizer.load_state_dict(own_optimizer(optimizer_state, ranks.shards))
            return int(index) + 1
    read_base_(centre, base, ranks.shards)
    optimizer.state.clear()
    return 0


def on_disk(folders: Iterable[Path], path: Sequence[Entry]) -> list[tuple[int, Path]]:
    """Find the checkpoints that were written after an update of a lineage, the latest first.

    Args:
        folders: folders with checkpoints.
        path: the updates of the lineage.

    Returns:
        Pairs of (position in the path, file). They are matched by the number of updates alone;
        ``read_centre_`` checks whether a file really holds that centre.
    """
    place = {entry.generation + 1: index for index, entry in enumerate(path)}
    checkpoints = [pair for folder in folders for pair in steps(folder).items()]
    return sorted(((place[step], file) for file, step in checkpoints if step in place), reverse=True)


def read_centre_(
    centre: nn.Module, file: Path, wanted: str, shards: Shards | None = None
) -> dict[str, Any] | None:
    """Read a checkpoint's centre into ``centre``.

    Args:
        centre: changed in place, possibly even where the result is None.
        file: the checkpoint.
        wanted: the checksum that the centre has to have.
        shards: which tensors of the centre are here.

    Returns:
        The optimizer's state in the same file; None if the file cannot be read, holds another centre, or
        holds only weights.
    """
    shards = shards or Shards()
    try:
        content = check_checkpoint(file)
    except UsageError:
        return None
    # WeightAveraging saves its average as the state_dict, and the centre under a key of its own.
    state = content.get("current_model_state", content["state_dict"])
    named = {f"centre.{name}": parameter for name, parameter in centre.named_parameters()}
    fits = all(name in state and state[name].shape == parameter.shape for name, parameter in named.items())
    if not fits:
        return None
    for name, parameter in shards.held(centre.named_parameters()).items():
        parameter.copy_(state[f"centre.{name}"])
    if checksum(centre.named_parameters(), shards) != wanted:
        return None
    optimizer_state: dict[str, Any] = content["optimizer_states"][0]
    return optimizer_state


def read_base_(centre: nn.Module, base: Weights, shards: Shards | None = None) -> None:
    """Read the base model's weights into the centre, as far as it is here.

    Raises:
        UsageError: the base model's files cannot be read any more.
    """
    for name, parameter in (shards or Shards()).held(centre.named_parameters()).items():
        parameter.copy_(base.read(name))
