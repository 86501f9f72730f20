"""Ranks that exchange messages and tensors: all ranks of a run, or some of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from threading import Lock
from typing import Any

import torch
from torch import Tensor, distributed

from es_lightning.algorithm.shares import rounds
from es_lightning.errors import RankError
from es_lightning.system.ahead import ahead
from es_lightning.system.going_on import how_to_go_on


@dataclass(frozen=True)
class Group:
    """Some ranks and their connections. All of them have to call the same method at the same time.

    Args:
        ranks: their numbers in the run, in order.
        place: of this rank among them, counted from 0.
        messages: process group of gloo, also on accelerators, since its barrier can name who is missing.
        tensors: process group of the devices; None is that of all ranks.
        device: of this rank, through which tensors go.
        seconds: how long a rank waits for the others.
    """

    ranks: Sequence[int]
    place: int
    messages: Any
    tensors: Any
    device: torch.device
    seconds: float
    streaming: Lock = field(default_factory=Lock, init=False, repr=False, compare=False)

    def exchange(self, payload: bytes) -> list[bytes]:
        """Return every rank's payload, in rank order.

        Raises:
            RankError: a rank did not arrive within the time-out.
        """
        group, mine = self.messages, torch.tensor([len(payload)])
        self._wait_for_streams()
        self.meet()
        with self._naming_the_dead():
            sizes = [torch.zeros_like(mine) for _ in self.ranks]
            distributed.all_gather(sizes, mine, group=group)
            buffers = [torch.empty(int(size), dtype=torch.uint8) for size in sizes]
            if payload:  # frombuffer refuses an empty buffer, and warns of one that is read-only
                buffers[self.place] = torch.frombuffer(bytearray(payload), dtype=torch.uint8)
            for rank, buffer in zip(self.ranks, buffers, strict=True):
                if len(buffer):  # payloads differ in length, so all_gather cannot send them
                    distributed.broadcast(buffer, src=rank, group=group)
        return [buffer.numpy().tobytes() for buffer in buffers]

    def divided(
        self, parameters: Mapping[str, Tensor], make: Callable[[str], Tensor]
    ) -> Iterator[tuple[str, Tensor]]:
        """Yield the gradient of every parameter, made by one rank and sent to all others.

        All ranks have to exhaust it. No signal interrupts it, which would leave half of an update behind.

        Args:
            parameters: the centre's parameters by name, the same on every rank.
            make: from a name to the gradient, contiguous float32 of the parameter's shape.

        Raises:
            RankError: a rank did not arrive within the time-out.
        """
        self._wait_for_streams()
        sizes = {name: parameter.numel() for name, parameter in parameters.items()}
        for taken in rounds(sizes, len(self.ranks)):
            mine = {name: make(name) for place, name in taken if place == self.place}
            self.meet()
            for place, name in taken:
                gradient = mine.pop(name) if place == self.place else self._empty(parameters[name])
                self._broadcast(gradient, self.ranks[place])
                yield name, gradient

    def _empty(self, tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        # What is sent is made where this rank computes; the tensor may be in host memory, or nowhere.
        return torch.empty(tensor.shape, dtype=dtype or tensor.dtype, device=self.device)

    def stream(
        self,
        named: Mapping[str, Tensor],
        owners: Mapping[str, int],
        make: Callable[[str, Tensor], Tensor],
        dtype: torch.dtype | None = None,
    ) -> Iterator[tuple[str, Tensor]]:
        """Yield what one rank makes of each tensor, sent to all others, in the order of ``named``.

        While a tensor is in use, the next one is on its way, and every rank makes its own next one: so what
        takes long to make is divided among the ranks.

        Args:
            named: tensors by name; those of other ranks have a shape alone.
            owners: the place of the rank that has a tensor.
            make: from a name and the tensor to what is sent, in the same shape.
            dtype: of what is sent; None stands for that of the tensor.

        Raises:
            RankError: a rank did not arrive within the time-out, or has died since.
        """
        return ahead(self._sent(named, owners, make, dtype))

    def _sent(
        self,
        named: Mapping[str, Tensor],
        owners: Mapping[str, int],
        make: Callable[[str, Tensor], Tensor],
        dtype: torch.dtype | None,
    ) -> Iterator[tuple[str, Tensor]]:
        mine = [name for name in named if owners[name] == self.place]
        made = ahead(make(name, named[name]).detach().to(self.device).contiguous() for name in mine)
        with self.streaming:
            self.meet()
            for name, tensor in named.items():
                sent = next(made) if owners[name] == self.place else self._empty(tensor, dtype)
                self._broadcast(sent, self.ranks[owners[name]])
                yield name, sent

    def _wait_for_streams(self) -> None:
        """Let a stream come to its end that somebody here has left early, so that ranks keep in step."""
        with self.streaming:
            pass

    def _broadcast(self, tensor: Tensor, rank: int) -> None:
        with self._naming_the_dead(rank):
            distributed.broadcast(tensor, src=rank, group=self.tensors)

    @contextmanager
    def _naming_the_dead(self, rank: int | None = None) -> Iterator[None]:
        """Where an exchange fails, say which ranks have died since the last meeting, or that one may have."""
        try:
            yield
        except RuntimeError as error:
            others = [each for each in self.ranks if each != self.ranks[self.place]]
            closed = [each for each in others if self._is_closed(each)]
            suspects = [rank] if rank in others else others
            raise RankError(self._missing(closed or suspects)) from error

    def meet(self) -> None:
        """Wait for all ranks.

        Raises:
            RankError: the message names those that are missing.
        """
        limit = timedelta(seconds=self.seconds)
        try:
            distributed.monitored_barrier(self.messages, timeout=limit, wait_all_ranks=True)
        except RuntimeError as error:
            raise RankError(self._who_is_missing(str(error))) from error

    def _who_is_missing(self, message: str) -> str:
        """Return an error message that names the missing ranks, as far as this rank can know them.

        In the barrier every rank reports to the first one. The barrier tells that one which ranks are late,
        and the connection to a dead one is closed. All other ranks only know that the first did not answer.
        """
        late = re.search(r"Ranks ([\d, ]+) failed", message)
        missing = [self.ranks[0]]
        if self.place == 0:
            closed = [rank for rank in self.ranks[1:] if self._is_closed(rank)]
            missing = [self.ranks[int(place)] for place in late[1].split(",")] if late else closed
        return self._missing(missing)

    def _missing(self, ranks: Sequence[int]) -> str:
        return (
            f"rank {', '.join(map(str, ranks))} died, or did not come within {self.seconds:g} s "
            f"(strategy.timeout_seconds). Look at its own last lines, then {how_to_go_on()}."
        )

    def _is_closed(self, rank: int) -> bool:
        """Tell whether the connection to a rank is closed: then a send fails at once."""
        try:
            distributed.isend(torch.zeros(1), rank, group=self.messages)
        except RuntimeError:
            return True
        return False
