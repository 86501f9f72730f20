"""The members of each generation."""

from es_lightning.algorithm.noise import member_seed
from es_lightning.errors import UsageError
from es_lightning.records import Member


class Population:
    """N members, drawn anew in every generation.

    Args:
        size: number of members N, at least 2; even if ``antithetic`` is true.
        run_seed: seed of the run; any integer, 0 included.
        antithetic: members 2k and 2k+1 share noise with signs +1 and -1 (Salimans et al. 2017, 1703.03864).

    Raises:
        UsageError: the size is below 2, or odd although ``antithetic`` is true.
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

    def resized(self, size: float) -> "Population":
        """Return the population with about that many members: at least 2, and whole pairs."""
        step = 2 if self.antithetic else 1
        return Population(max(2, step * round(size / step)), self.run_seed, self.antithetic)

    def members(self, generation: int) -> tuple[Member, ...]:
        """Return the members of a generation, a pure function of the run seed and the generation's index."""
        if not self.antithetic:
            return tuple(Member(n, member_seed(self.run_seed, generation, n)) for n in range(self.size))
        return tuple(
            Member(n, member_seed(self.run_seed, generation, n // 2), 1 - 2 * (n % 2))
            for n in range(self.size)
        )
