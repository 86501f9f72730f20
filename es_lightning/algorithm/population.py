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
        keep_centre: member 0 is the centre itself, with sign 0, and N - 1 members are drawn.

    Raises:
        UsageError: the size is below 2, or odd although ``antithetic`` is true; or there are to be both pairs
            and the centre.
    """

    def __init__(
        self, size: int, run_seed: int = 0, antithetic: bool = False, keep_centre: bool = False
    ) -> None:
        if size < 2:
            raise UsageError(
                f"population is {size}: give at least 2 members, rewards are compared among them."
            )
        if antithetic and size % 2:
            raise UsageError(f"population is {size} with antithetic pairs: give an even number.")
        if antithetic and keep_centre:
            raise UsageError(
                "keep_centre makes one member the centre itself, which has no pair: set antithetic to false."
            )
        self.size = size
        self.run_seed = run_seed
        self.antithetic = antithetic
        self.keep_centre = keep_centre

    def resized(self, size: float) -> "Population":
        """Return the population with about that many members: at least 2, and whole pairs."""
        step = 2 if self.antithetic else 1
        return self.of_size(max(2, step * round(size / step)))

    def of_size(self, size: int) -> "Population":
        """Return the population with exactly that many members.

        Raises:
            UsageError: the size is below 2, or half a pair would be left.
        """
        return Population(size, self.run_seed, self.antithetic, self.keep_centre)

    def members(self, generation: int) -> tuple[Member, ...]:
        """Return the members of a generation, a pure function of the run seed and the generation's index."""
        if self.antithetic:
            return tuple(
                Member(n, member_seed(self.run_seed, generation, n // 2), 1 - 2 * (n % 2))
                for n in range(self.size)
            )
        signs = [0 if self.keep_centre and n == 0 else 1 for n in range(self.size)]
        return tuple(
            Member(n, member_seed(self.run_seed, generation, n), sign) for n, sign in enumerate(signs)
        )
