"""Ascents on rewards that are known in closed form: the parts of an update, without models and engines."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from es_lightning.algorithm.noise import GaussianNoise, Noise
from es_lightning.algorithm.population import Population
from es_lightning.algorithm.regularisers import Regulariser
from es_lightning.algorithm.schedules import Schedule, Scheduled
from es_lightning.algorithm.shaping import weigh, z_score
from es_lightning.algorithm.update import apply_update
from es_lightning.records import Member

NAME, SHAPE, DIMENSION = "linear.weight", (5, 10), 50

Reward = Callable[[Tensor], Tensor]


class Point(nn.Module):
    """A point in 50 dimensions, kept as a matrix, since low-rank noise needs one."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.linear = nn.Linear(10, 5, bias=False)
        with torch.no_grad():
            self.linear.weight.copy_(start.view(SHAPE))

    @property
    def flat(self) -> Tensor:
        """The coordinates, float64 [50]."""
        return torch.cat([p.detach().double().flatten() for p in self.parameters()])


class Origin:
    """The point that an ascent starts from, as the weights of a base model."""

    def __init__(self, point: Point) -> None:
        self.tensors = {name: tensor.detach().clone() for name, tensor in point.named_parameters()}

    def read(self, name: str) -> Tensor:
        """One tensor."""
        return self.tensors[name]

    def __contains__(self, name: str) -> bool:
        return name in self.tensors


def epsilon(noise: Noise, members: Sequence[Member]) -> Tensor:
    """sign * eps of each member, float64 [N, 50]."""
    return torch.stack([m.sign * noise.sample(m.seed, NAME, SHAPE).double().flatten() for m in members])


@dataclass
class Ascent:
    """An ascent with certain parts.

    Args:
        population: members N.
        sigma: noise scale.
        optimizer: makes the optimizer.
        noise: kind of noise.
        shaping: from rewards to weights.
        antithetic: whether members come in pairs.
        sigma_schedule: how sigma changes.
        population_schedule: how N changes.
        regularisers: parts that change the update.
        make_scheduler: makes the scheduler of the learning rate; None if there is none.
        keep_centre: whether member 0 is the centre itself.
    """

    population: int = 16
    sigma: float = 0.01
    optimizer: Callable[[Iterable[Any]], Optimizer] = lambda p: SGD(p, lr=0.01)
    noise: Noise = field(default_factory=lambda: GaussianNoise(compile=False))
    shaping: Callable[[Tensor], Tensor] = z_score
    antithetic: bool = False
    sigma_schedule: Schedule | None = None
    population_schedule: Schedule | None = None
    regularisers: Sequence[Regulariser] = ()
    make_scheduler: Callable[[Optimizer], Any] | None = None
    keep_centre: bool = False

    def run(self, reward: Reward, generations: int, start: Tensor, seed: int = 0) -> list[Tensor]:
        """Ascend; returns the point before the first generation and after each, float64 [50] each.

        Args:
            reward: from points [N, 50] to rewards [N].
            generations: number of updates.
            start: first point, [50].
            seed: run seed.
        """
        point = Point(start)
        origin, path = Origin(point), [point.flat]
        optimizer = self.optimizer(point.parameters())
        scheduler = None if self.make_scheduler is None else self.make_scheduler(optimizer)
        sigma, size = (
            Scheduled(self.sigma, self.sigma_schedule),
            Scheduled(self.population, self.population_schedule),
        )
        first = Population(self.population, seed, self.antithetic, self.keep_centre)
        for t in range(generations):
            members = first.resized(size.at(t)).members(t)
            rewards = reward(point.flat + sigma.at(t) * epsilon(self.noise, members))[:, None]
            weights, skipped = weigh(rewards, self.shaping)
            if not skipped:
                named = point.named_parameters()
                apply_update(optimizer, named, members, weights, self.noise, origin, self.regularisers)
            for schedule in filter(None, (self.sigma_schedule, self.population_schedule)):
                schedule.observe(rewards, (), self.antithetic)
            if scheduler is not None:
                scheduler.step()
            path.append(point.flat)
        return path
