"""This process among the ranks of a run: what it evaluates, and what the ranks tell one another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from lightning.pytorch.strategies import Strategy

from es_lightning.distributed.strategy import PopulationStrategy
from es_lightning.errors import RankError, UsageError

T = TypeVar("T")


@dataclass(frozen=True)
class Lane:
    """The ranks that evaluate members together: k consecutive ones, k the engine's tensor-parallel size.

    Args:
        index: position among the lanes.
        count: number of lanes.
        leads: whether this rank is the lane's first, which speaks for it.
    """

    index: int = 0
    count: int = 1
    leads: bool = True

    def share(self, items: Sequence[T]) -> list[T]:
        """Every ``count``-th member or prompt from ``index`` on: the lanes' shares differ by one at most."""
        return list(items[self.index :: self.count])


def lane_of(rank: int, world: int, tensor_parallel_size: int = 1) -> Lane:
    """The lane of a rank.

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
    """One rank among others. Without a strategy it is the only one, and tells everything to itself.

    Args:
        strategy: Lightning's, of the run; only ``PopulationStrategy`` lets ranks talk to one another.
        lane_size: ranks of a lane, the engine's tensor-parallel size.
    """

    def __init__(self, strategy: Strategy | None = None, lane_size: int = 1) -> None:
        self.lane_size = lane_size
        self.world = int(getattr(strategy, "world_size", 1))
        self.rank = int(getattr(strategy, "global_rank", 0))
        self._strategy = strategy if isinstance(strategy, PopulationStrategy) else None

    @property
    def lane(self) -> Lane:
        """Which members and prompts this rank evaluates.

        Raises:
            UsageError: the ranks do not divide into lanes.
        """
        return lane_of(self.rank, self.world, self.lane_size)

    def check(self, population: int) -> None:
        """Refuse ranks that cannot work together, or would have nothing to do.

        Args:
            population: number of members.

        Raises:
            UsageError: it says which setting to change.
        """
        if self.world > 1 and self._strategy is None:
            raise UsageError(
                "more than one rank needs the strategy that spreads the population: "
                "set trainer.strategy to population."
            )
        if self.lane_size > 1 and self._strategy is None:
            raise UsageError("tensor_parallel_size above 1 needs trainer.strategy population.")
        if self.lane.count > population:
            raise UsageError(
                f"population is {population}, but there are {self.lane.count} lanes of ranks, of "
                "which some would have nothing to do: raise model.population or lower trainer.devices."
            )

    def exchange(self, payload: bytes) -> list[bytes]:
        """Every rank's payload, in rank order. All ranks have to call it.

        Raises:
            RankError: a rank did not come within the time-out.
        """
        return [payload] if self._strategy is None else self._strategy.exchange(payload)

    def from_lanes(self, payload: bytes) -> list[bytes]:
        """Every lane's payload, in lane order; the first rank of a lane speaks for it."""
        return self.exchange(payload if self.lane.leads else b"")[:: self.lane_size]

    def check_centre(self, checksum: str, generation: int) -> None:
        """Make sure that all ranks hold the same centre.

        Args:
            checksum: of this rank's centre.
            generation: named in errors.

        Raises:
            RankError: a rank holds another centre; names both checksums.
        """
        compare_centres(self.exchange(checksum.encode()), generation)


def compare_centres(checksums: Sequence[bytes], generation: int) -> None:
    """Make sure that the checksums of all ranks, in rank order, are the same.

    Raises:
        RankError: one is not; names both.
    """
    for rank, checksum in enumerate(checksums):
        require_same("centre", rank, checksum.decode(), checksums[0].decode(), generation)


def require_same(what: str, rank: int, theirs: str, ours: str, generation: int) -> None:
    """Refuse a rank that differs from rank 0.

    Args:
        what: is compared, in words.
        rank: the other one.
        theirs: the other rank's value.
        ours: rank 0's.
        generation: that is to begin.

    Raises:
        RankError: the two differ.
    """
    if theirs != ours:
        raise RankError(
            f"rank {rank} has another {what} than rank 0 before generation {generation}: {theirs} and "
            f"{ours}. Give all machines the same base model, data and versions, then resume with --ckpt_path "
            "last."
        )
