"""Which members there are in a generation, and which of them a rank evaluates."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from es_lightning.errors import UsageError
from es_lightning.noise import member_seed
from es_lightning.records import Member

T = TypeVar("T")


class Population:
    """N members, drawn anew in every generation.

    Args:
        size: number of members N, at least 2; even where antithetic.
        run_seed: seed of the run; any integer, 0 included.
        antithetic: members 2k and 2k+1 share noise with signs +1 and -1 (Salimans et al. 2017, 1703.03864).

    Raises:
        UsageError: the size is too small, or odd where pairs are asked for.
    """

    def __init__(self, size: int, run_seed: int = 0, antithetic: bool = False) -> None:
        if size < 2:
            raise UsageError(
                f"population is {size}: give at least 2 members, rewards are compared among them."
            )
        if antithetic and size % 2:
            raise UsageError(f"population is {size} with antithetic pairs: give an even number.")
        self.size = size
        self.run_seed = run_seed
        self.antithetic = antithetic

    def members(self, generation: int) -> tuple[Member, ...]:
        """The members of one generation, a pure function of the run seed and the generation's index."""
        if not self.antithetic:
            return tuple(Member(n, member_seed(self.run_seed, generation, n)) for n in range(self.size))
        return tuple(
            Member(n, member_seed(self.run_seed, generation, n // 2), 1 - 2 * (n % 2))
            for n in range(self.size)
        )


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
