"""A centre or an update that ranks divide among them, tensor by tensor; every bit is as on one rank."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from es_lightning.algorithm.shares import Change, Make, Shards
from es_lightning.distributed.group import Group
from es_lightning.system.signals import wait_for

T = TypeVar("T")


@dataclass(frozen=True)
class SharedUpdate(Shards):
    """Every rank holds the whole centre, and makes the gradients of its share of it for all.

    Args:
        ranks: all ranks of the run.
    """

    ranks: Group

    def gradients(self, parameters: Mapping[str, Tensor], make: Make) -> Iterator[tuple[str, Tensor]]:
        """Yield all gradients, each made by one rank."""
        return self.ranks.divided(parameters, make)

    all_gradients = gradients


@dataclass(frozen=True)
class LaneShards(Shards):
    """The ranks of a lane hold a centre together: every tensor is whole on one of them.

    On the other ranks it is a parameter of the same name and shape without values, on the meta device.

    Args:
        owners: the place in the lane of the rank that holds a tensor, in the order of the centre.
        lane: the ranks of this lane.
        alike: the ranks that hold the same tensors in all lanes, if they share the noise of an update.
    """

    owners: Mapping[str, int]
    lane: Group
    alike: Group | None = None

    @property
    def divided(self) -> bool:
        """Always."""
        return True

    def holds(self, name: str) -> bool:
        """Whether this rank holds a parameter's values, and updates them."""
        return self.owners[name] == self.lane.place

    def gathered(self, found: Mapping[str, T]) -> dict[str, T]:
        """Return what all ranks of the lane found, in the order of the centre.

        Raises:
            RankError: a rank did not arrive within the time-out.
        """
        payload = json.dumps(found).encode()
        merged: dict[str, T] = {}
        for each in wait_for(lambda: self.lane.exchange(payload), abandons=False):
            merged |= json.loads(each)
        return {name: merged[name] for name in self.owners if name in merged}

    def stream(
        self, named: Iterable[tuple[str, Tensor]], change: Change, dtype: torch.dtype
    ) -> Iterator[tuple[str, Tensor]]:
        """Yield every parameter with a change, which the rank that holds it makes and sends to the others.

        Raises:
            RankError: a rank did not arrive within the time-out.
        """
        return self.lane.stream(dict(named), self.owners, change, dtype)

    def gradients(self, parameters: Mapping[str, Tensor], make: Make) -> Iterator[tuple[str, Tensor]]:
        """Yield the gradients of the parameters that are here."""
        held = self.held(parameters.items())
        return super().gradients(held, make) if self.alike is None else self.alike.divided(held, make)


@contextmanager
def without_absent(module: nn.Module) -> Iterator[None]:
    """Take parameters without values out of a module for a while: it cannot be moved with them."""
    absent = [
        (part, name, parameter)
        for part in module.modules()
        for name, parameter in part.named_parameters(recurse=False, remove_duplicate=False)
        if parameter.is_meta
    ]
    for part, name, _ in absent:
        setattr(part, name, None)
    try:
        yield
    finally:
        for part, name, parameter in absent:
            setattr(part, name, parameter)
