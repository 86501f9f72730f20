"""Sigma and the members of each generation: as configured, scheduled, and steered by callbacks."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from es_lightning.algorithm.bounds import checked_sigma
from es_lightning.algorithm.population import Population
from es_lightning.algorithm.schedules import Schedule, Scheduled


class Steering:
    """What a run begins with, and what has become of it.

    Args:
        population: number of members N at first.
        sigma: noise scale at first, in units of the weights.
        seed: the run seed.
        antithetic: whether members come in pairs with the same noise and opposite signs.
        sigma_schedule: how sigma changes; None keeps it constant.
        population_schedule: how N changes, rounded to what ``antithetic`` allows; None keeps it constant.
        keep_centre: whether member 0 is the centre itself.

    Raises:
        UsageError: a value is outside its range.
    """

    def __init__(
        self,
        population: int,
        sigma: float,
        seed: int = 0,
        antithetic: bool = False,
        sigma_schedule: Schedule | None = None,
        population_schedule: Schedule | None = None,
        keep_centre: bool = False,
    ) -> None:
        self._members = Population(population, seed, antithetic, keep_centre)
        self.sigma = Scheduled(checked_sigma(sigma), sigma_schedule)
        self.size = Scheduled(population, population_schedule)
        self.configured = {"model.population": population, "model.sigma": sigma}
        self._adjusted: dict[str, Any] = {}

    @property
    def antithetic(self) -> bool:
        """Whether members come in pairs with opposite signs."""
        return self._members.antithetic

    @property
    def keep_centre(self) -> bool:
        """Whether member 0 is the centre itself."""
        return self._members.keep_centre

    @property
    def seed(self) -> int:
        """The run seed."""
        return self._members.run_seed

    def population_at(self, generation: int) -> Population:
        """Return the members of a generation as far as schedules tell beforehand."""
        return self._members.resized(self.size.at(generation))

    @property
    def first_population(self) -> int:
        """Number of members that the schedule starts from, if there is one."""
        return self._members.resized(self.size.first).size

    @property
    def schedules(self) -> dict[str, Schedule]:
        """The schedules that there are, of sigma and population."""
        scheduled = {"sigma": self.sigma.schedule, "population": self.size.schedule}
        return {name: schedule for name, schedule in scheduled.items() if schedule is not None}

    def longer_than(self, generations: int) -> Iterator[tuple[str, int]]:
        """Yield the name and length of each schedule that such a run would cut short."""
        for name, schedule in self.schedules.items():
            length = getattr(schedule, "generations", 0)
            if 0 < generations < length:
                yield name, length

    def observe(self, rewards: Tensor, groups: Sequence[str], pairs: bool) -> None:
        """Show a generation's rewards to the schedules that adapt to them, see ``Schedule.observe``."""
        for schedule in self.schedules.values():
            schedule.observe(rewards, groups, pairs)

    def adjust_sigma(self, sigma: float, generation: int) -> None:
        """Set the noise scale of a generation, from which a schedule goes on.

        Raises:
            UsageError: the value is outside its range.
        """
        self.sigma.steer(checked_sigma(sigma), generation)
        self._keep()

    def adjust_population(self, population: int, generation: int) -> None:
        """Set the number of members of a generation, from which a schedule goes on.

        Raises:
            UsageError: the value is outside its range.
        """
        self._members = self._members.of_size(population)
        self.size.steer(population, generation)
        self._keep()

    def _keep(self) -> None:
        self._adjusted = {"sigma": self.sigma.first, "population": self.size.first}

    # Checkpoints ----------------------------------------------------------------------------------

    @property
    def adjusted(self) -> dict[str, Any]:
        """What ``adjust_sigma`` and ``adjust_population`` have left; empty if they were never called."""
        return dict(self._adjusted)

    def take_adjusted(self, adjusted: Mapping[str, Any]) -> None:
        """Go on from what ``adjusted`` was."""
        self.sigma.first = adjusted.get("sigma", self.sigma.first)
        self.size.first = adjusted.get("population", self.size.first)
        self._adjusted = dict(adjusted)

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the schedules by name, in types that JSON has."""
        return {name: schedule.state_dict() for name, schedule in self.schedules.items()}
