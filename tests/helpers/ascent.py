"""Ascents on rewards that are known in closed form: the parts of an update alone, without models and engines."""

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
from es_lightning.algorithm.update import apply_update, gradient
from es_lightning.records import Member

SHAPES = {"a.weight": (5, 6), "b.weight": (4, 5)}
DIMENSION = 50

Reward = Callable[[Tensor], Tensor]


class Point(nn.Module):
    """A point in 50 dimensions, kept as two matrices, since low-rank noise needs some."""

    def __init__(self, start: Tensor | None = None) -> None:
        super().__init__()
        flat = torch.zeros(DIMENSION) if start is None else start
        self.a, self.b = nn.Linear(6, 5, bias=False), nn.Linear(5, 4, bias=False)
        with torch.no_grad():
            self.a.weight.copy_(flat[:30].view(5, 6))
            self.b.weight.copy_(flat[30:].view(4, 5))

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


def epsilon(noise: Noise, member: Member) -> Tensor:
    """sign * eps of a member, float64 [50]."""
    parts = [noise.sample(member.seed, name, shape).double().flatten() for name, shape in SHAPES.items()]
    return member.sign * torch.cat(parts)


def estimate(
    noise: Noise, members: Sequence[Member], rewards: Tensor, shaping: Callable[[Tensor], Tensor]
) -> Tensor:
    """The estimate of the ascent direction that an update takes, float64 [50]."""
    weights, _ = weigh(rewards, shaping)
    point = Point()
    parts = [gradient(name, p, members, weights, noise).flatten() for name, p in point.named_parameters()]
    return -torch.cat(parts).double()


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
        first = Population(self.population, seed, self.antithetic)
        for t in range(generations):
            members = first.resized(size.at(t)).members(t)
            steps = torch.stack([epsilon(self.noise, member) for member in members])
            rewards = reward(point.flat + sigma.at(t) * steps)[:, None]
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
