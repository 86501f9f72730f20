"""Which part of a population and of a batch each rank evaluates."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from es_lightning.errors import UsageError

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
        """Every ``count``-th member or prompt from ``index`` on: uneven sizes differ by one at most."""
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
