"""States for checkpoints of a divided centre: whole in the file, as without division, and read in parts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from es_lightning.algorithm.shares import Shards
from es_lightning.distributed.shards import LaneShards
from es_lightning.system.signals import wait_for

CENTRE = "centre."  # before the names of the centre's tensors in the module's state


def whole_tensors(centre: nn.Module, shards: LaneShards, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the centre's parameters in host memory on the first rank of the lane, and none elsewhere.

    All ranks of the lane have to call it.

    Args:
        centre: float32, of which every rank holds a part.
        shards: which part.
        dtype: of what is returned.
    """
    sent = shards.stream(centre.named_parameters(), lambda _, tensor: tensor.to(dtype), dtype)
    return _kept(sent, shards)


def whole_module(module: Any, state: dict[str, Any], shards: Shards, rank: int) -> dict[str, Any]:
    """Return the state of the whole module on rank 0, in host memory, and none elsewhere.

    Args:
        module: has the centre.
        state: of the module, as it is on this rank; it is returned if the centre is not divided.
        shards: which part of the centre this rank holds.
        rank: this one.
    """
    if not isinstance(shards, LaneShards):
        return state
    if rank not in shards.lane.ranks or shards.lane.ranks[0]:
        return {}  # of another lane than the first
    centre: nn.Module = module.centre
    whole = whole_tensors(centre, shards, torch.float32)
    if rank:
        return {}
    first = {id(parameter): name for name, parameter in centre.named_parameters()}
    every = centre.named_parameters(remove_duplicate=False)  # tied ones under each of their names
    return state | {f"{CENTRE}{name}": whole[first[id(parameter)]] for name, parameter in every}


def own_module(module: Any, state: dict[str, Any], shards: Shards) -> dict[str, Any]:
    """Leave out of a module's state the tensors of the centre that are on other ranks."""
    if not isinstance(shards, LaneShards):
        return state
    every = module.centre.named_parameters(remove_duplicate=False)
    elsewhere = {f"{CENTRE}{name}" for name, parameter in every if parameter.is_meta}
    return {key: value for key, value in state.items() if key not in elsewhere}


def own_optimizer(state: dict[str, Any], shards: Shards) -> dict[str, Any]:
    """Return this rank's part of the state of an optimizer of the whole centre.

    Args:
        state: as torch's ``state_dict`` has it, parameters numbered in the order of the centre.
        shards: which part this rank holds.
    """
    if not isinstance(shards, LaneShards):
        return state
    mine = _mine(shards)
    states = {
        new: {key: value.clone() if isinstance(value, Tensor) else value for key, value in held.items()}
        for new, held in enumerate(state["state"].get(old, {}) for old in mine)
        if held
    }
    return {"state": states, "param_groups": _groups(state, len(mine))}


def whole_optimizer(state: dict[str, Any], shards: Shards, rank: int) -> dict[str, Any]:
    """Return the state of an optimizer of the whole centre on rank 0, in host memory, and none elsewhere.

    Args:
        state: of the optimizer on this rank; it is returned if the centre is not divided.
        shards: which part of the centre it steps.
        rank: this one.
    """
    if not isinstance(shards, LaneShards):
        return state
    if rank not in shards.lane.ranks or shards.lane.ranks[0]:
        return {}
    mine = _mine(shards)
    parts = {
        json.dumps([mine[index], key]): value
        for index, entries in state["state"].items()
        for key, value in entries.items()
    }
    values = _joined(parts, shards)
    if rank:
        return {}
    states: dict[int, dict[str, Any]] = {}
    for label, value in values.items():
        index, key = json.loads(label)
        states.setdefault(index, {})[key] = value
    return {"state": dict(sorted(states.items())), "param_groups": _groups(state, len(shards.owners))}


def _mine(shards: LaneShards) -> list[int]:
    """Return the numbers of this rank's parameters among all."""
    return [index for index, name in enumerate(shards.owners) if shards.holds(name)]


def _groups(state: Mapping[str, Any], parameters: int) -> list[dict[str, Any]]:
    return [{**group, "params": list(range(parameters))} for group in state["param_groups"]]


def _joined(parts: Mapping[str, Any], shards: LaneShards) -> dict[str, Any]:
    """Return what the ranks have under names of their own, tensors and plain values, on the first of them."""
    lane = shards.lane
    told = [
        [label, None, [list(part.shape), str(part.dtype).removeprefix("torch.")]]
        if isinstance(part, Tensor)
        else [label, part, None]
        for label, part in parts.items()
    ]
    packed = wait_for(lambda: lane.exchange(json.dumps(told).encode()), abandons=False)
    values, tensors, places = dict[str, Any](), dict[str, Tensor](), dict[str, int]()
    for place, each in enumerate(packed):
        for label, value, kind in json.loads(each):
            values[label] = value
            if kind is not None:
                shape, dtype = kind[0], getattr(torch, kind[1])
                absent = torch.empty(shape, dtype=dtype, device="meta")
                tensors[label] = parts[label] if place == lane.place else absent
                places[label] = place
    return values | _kept(lane.stream(tensors, places, lambda _, tensor: tensor), shards)


def _kept(sent: Iterable[tuple[str, Tensor]], shards: LaneShards) -> dict[str, Tensor]:
    """Take all tensors from a stream, and keep them on the first rank of the lane."""
    first = shards.lane.place == 0
    return {name: tensor.cpu() for name, tensor in sent if first}
