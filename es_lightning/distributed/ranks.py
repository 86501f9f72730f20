"""This process as one of the ranks of a run: what it evaluates, and what the ranks exchange."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from lightning.pytorch.strategies import ParallelStrategy, Strategy
from torch import Tensor, nn

from es_lightning.algorithm.shares import Shards
from es_lightning.distributed.shard_state import whole_tensors
from es_lightning.distributed.shards import LaneShards
from es_lightning.distributed.strategy import PopulationStrategy
from es_lightning.errors import RankError, UsageError

T = TypeVar("T")


@dataclass(frozen=True)
class Lane:
    """A lane: k consecutive ranks that evaluate members together, k being the engine's tensor-parallel size.

    Args:
        index: position among the lanes.
        count: number of lanes.
        leads: whether this rank is the first of the lane, which reports its results.
    """

    index: int = 0
    count: int = 1
    leads: bool = True

    def share(self, items: Sequence[T]) -> list[T]:
        """Return every ``count``-th item from ``index`` on; the lanes' shares differ by one item at most."""
        return list(items[self.index :: self.count])


def lane_of(rank: int, world: int, tensor_parallel_size: int = 1) -> Lane:
    """Return the lane of a rank.

    Raises:
        UsageError: the ranks do not divide into lanes.
    """
    if world % tensor_parallel_size:
        raise UsageError(
            f"{world} ranks do not divide into lanes of tensor_parallel_size {tensor_parallel_size}: "
            "choose trainer.devices and trainer.num_nodes so that their product is a multiple of it."
        )
    index, place = divmod(rank, tensor_parallel_size)
    return Lane(index, world // tensor_parallel_size, place == 0)


class Ranks:
    """This rank and its exchange with the others. Without a strategy it is the only rank.

    Args:
        strategy: the run's Lightning strategy; only with ``PopulationStrategy`` can ranks exchange anything.
        lane_size: number of ranks in a lane, the engine's tensor-parallel size.
        device: that this rank computes on, if its centre is in host memory; else None.
    """

    def __init__(
        self, strategy: Strategy | None = None, lane_size: int = 1, device: torch.device | None = None
    ) -> None:
        self.lane_size, self._device = lane_size, device
        self.world = int(getattr(strategy, "world_size", 1))
        self.rank = int(getattr(strategy, "global_rank", 0))
        self._strategy = strategy if isinstance(strategy, PopulationStrategy) else None
        self._other = type(strategy).__name__ if isinstance(strategy, ParallelStrategy) else None

    @property
    def lane(self) -> Lane:
        """The lane of this rank, which decides the members and prompts that it evaluates.

        Raises:
            UsageError: the ranks do not divide into lanes.
        """
        return lane_of(self.rank, self.world, self.lane_size)

    @property
    def centre_shards(self) -> int:
        """How many ranks of a lane hold the centre together; 1 if each holds all of it."""
        return self.lane_size if self._strategy is not None and self._strategy.shard_centre else 1

    def check(self, population: int) -> None:
        """Refuse ranks that cannot work together or would have nothing to do.

        Args:
            population: number of members.

        Raises:
            UsageError: the message says which setting to change.
        """
        if self._other is not None and self._strategy is None:
            raise UsageError(
                f"trainer.strategy is {self._other}, which expects gradients: set it to population, which "
                "spreads the members over all ranks."
            )
        if self.world > 1 and self._strategy is None:
            raise UsageError(
                "more than one rank needs the strategy that spreads the population: "
                "set trainer.strategy to population."
            )
        if self.lane_size > 1 and self._strategy is None:
            raise UsageError("tensor_parallel_size above 1 needs trainer.strategy population.")
        if self.lane_size == 1 and self._strategy is not None and self._strategy.shard_centre:
            raise UsageError(
                "strategy.shard_centre divides the centre among the ranks of a lane, and lanes have one rank "
                "each: raise model.engine.tensor_parallel_size, or leave shard_centre out."
            )
        if self.lane.count > population:
            raise UsageError(
                f"population is {population}, but there are {self.lane.count} lanes of ranks, of "
                "which some would have nothing to do: raise model.population or lower trainer.devices."
            )

    def exchange(self, payload: bytes) -> list[bytes]:
        """Return every rank's payload, in rank order. All ranks have to call it.

        Raises:
            RankError: a rank did not arrive within the time-out.
        """
        return [payload] if self._strategy is None else self._strategy.exchange(payload)

    def from_first(self, payload: bytes) -> bytes:
        """Return what rank 0 passes. All ranks have to call it.

        Raises:
            RankError: a rank did not arrive within the time-out.
        """
        return self.exchange(payload)[0]

    def from_lanes(self, payload: bytes) -> list[bytes]:
        """Return every lane's payload, in lane order: that of the lane's first rank.

        All ranks have to call it.

        Raises:
            RankError: a rank did not arrive within the time-out.
        """
        return self.exchange(payload if self.lane.leads else b"")[:: self.lane_size]

    @property
    def shards(self) -> Shards:
        """Which tensors of the centre this rank holds, and which gradients it makes."""
        shards = Shards() if self._strategy is None else self._strategy.shards
        return replace(shards, device=self._device)

    def divide(self, centre: nn.Module) -> Shards:
        """Divide the centre among the ranks of each lane, if the strategy does; all ranks have to call it.

        Args:
            centre: of whose parameters the shapes count, and no values.

        Raises:
            UsageError: a callback needs the whole centre on every rank, or there are more ranks than tensors.
        """
        if self._strategy is not None:
            sizes = {name: parameter.numel() for name, parameter in centre.named_parameters()}
            self._strategy.divide(sizes, self.lane_size)
        return self.shards

    def whole(self, centre: nn.Module) -> Iterator[tuple[str, Tensor]]:
        """Yield the centre's parameters one at a time; all ranks have to exhaust it.

        Args:
            centre: float32, of which this rank may hold a part.
        """
        return self.shards.stream(centre.named_parameters(), lambda _, theta: theta.detach(), torch.float32)

    def for_export(self, centre: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
        """Return the parameters of a divided centre on rank 0, in host memory; nothing elsewhere.

        All ranks have to call it. A centre that is not divided is whole where it is: then it is empty, too.

        Args:
            centre: float32.
            dtype: precision of what is returned.
        """
        shards = self.shards
        return whole_tensors(centre, shards, dtype) if isinstance(shards, LaneShards) else {}

    def check_centre(self, checksum: str, generation: int) -> None:
        """Make sure that all ranks hold the same centre.

        Args:
            checksum: the checksum of this rank's centre.
            generation: the generation that is about to begin, for the message.

        Raises:
            RankError: a rank holds another centre; the message gives both checksums.
        """
        compare_centres(self.exchange(checksum.encode()), generation)

    def check_precision(self, dtype: torch.dtype) -> None:
        """Make sure that the engines of all ranks compute in the same precision.

        Args:
            dtype: precision of this rank's engine.

        Raises:
            UsageError: a rank's engine has another, as ``auto`` takes where the ranks' CPUs differ.
        """
        names = [each.decode() for each in self.exchange(str(dtype).removeprefix("torch.").encode())]
        for rank, name in enumerate(names):
            if name != names[0]:
                raise UsageError(
                    f"the engine of rank {rank} computes in {name} and that of rank 0 in {names[0]}, since "
                    "their machines differ: name one of them with model.engine.init_args.dtype."
                )


def compare_centres(checksums: Sequence[bytes], generation: int) -> None:
    """Make sure that the checksums of all ranks, given in rank order, are the same.

    Raises:
        RankError: one differs from rank 0's; the message gives both.
    """
    for rank, checksum in enumerate(checksums):
        require_same("centre", rank, checksum.decode(), checksums[0].decode(), generation)


def require_same(what: str, rank: int, theirs: str, ours: str, generation: int) -> None:
    """Refuse a rank that differs from rank 0.

    Args:
        what: the name of what is compared.
        rank: the other rank.
        theirs: the other rank's value.
        ours: rank 0's value.
        generation: the generation that is about to begin, for the message.

    Raises:
        RankError: the two differ.
    """
    if theirs != ours:
        raise RankError(
            f"rank {rank} has another {what} than rank 0 before generation {generation}: {theirs} and "
            f"{ours}. Give all machines the same base model, data and versions, then resume with --ckpt_path "
            "last."
        )
