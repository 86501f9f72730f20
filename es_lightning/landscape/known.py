"""Landscapes whose answers are known, in float64, for the same probe that looks at models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from es_lightning.landscape.arrays import Array
from es_lightning.records import Member

Rewards = Callable[[Array], Array]
"""From points [n, D] to rewards [n, P]."""


@dataclass(frozen=True)
class KnownLandscape:
    """A reward given by a formula.

    Args:
        rewards: from points [n, D] to rewards [n, P].
        start: the centre, float64 [D].
        at_once: members that are evaluated together.
    """

    rewards: Rewards
    start: Array
    at_once: int = 64

    def centre(self) -> Array:
        """Return the rewards of the centre, [P]."""
        return np.asarray(self.rewards(self.start[None])[0])

    def members(self, members: Sequence[Member], sigma: float) -> Array:
        """Return the members' rewards, [members, P]; the noise is NumPy's, a function of the seed alone."""
        noise = np.stack([self.noise(member) for member in members])
        return self.rewards(self.start + sigma * noise)

    def noise(self, member: Member) -> Array:
        """Return sign * eps of a member, [D]."""
        return member.sign * np.random.default_rng(member.seed).standard_normal(len(self.start))

    def checksum(self) -> str:
        """Return the centre's bytes in hexadecimal digits."""
        return self.start.tobytes().hex()

    def share(self, payload: bytes) -> bytes:
        """Return the same: there is one rank."""
        return payload


def linear(dimension: int = 20, prompts: int = 8, slope: float = 1.0) -> KnownLandscape:
    """J = slope * x_0: p(improve) is 1/2 and N_90 is 29 at any sigma; all prompts agree.

    Args:
        dimension: D.
        prompts: P.
        slope: of the first coordinate.
    """
    return KnownLandscape(lambda x: np.repeat(slope * x[:, :1], prompts, 1), np.zeros(dimension))


def quadratic(
    rank: int, dimension: int = 50, curvature: float = 1.0, prompts: int = 8, start: float = 0.0
) -> KnownLandscape:
    """J = 1 - curvature / 2 * sum of squares of ``rank`` coordinates: tr H = -curvature * rank.

    From its maximum no candidate improves, and the effective dimension is ``rank``. Prompts differ by
    constants whose mean is 0.

    Args:
        rank: number k of curved directions.
        dimension: D.
        curvature: lambda of each of them.
        prompts: P.
        start: first coordinate of the centre.
    """
    offsets = np.linspace(-0.1, 0.1, prompts) if prompts > 1 else np.zeros(1)
    place = np.zeros(dimension)
    place[0] = start
    return KnownLandscape(
        lambda x: 1 - curvature / 2 * (x[:, :rank] ** 2).sum(1, keepdims=True) + offsets, place
    )


def plateau(edge: float = 1.0, dimension: int = 20, prompts: int = 8) -> KnownLandscape:
    """J is 0 where x_0 is below the edge, and 1 beyond: a share Phi(edge / sigma) of changes is exactly 0.

    Args:
        edge: where it rises.
        dimension: D.
        prompts: P.
    """
    return KnownLandscape(
        lambda x: np.repeat((x[:, :1] > edge).astype(np.float64), prompts, 1), np.zeros(dimension)
    )


def ridge(
    slope: float, curvature: float, across: int, dimension: int = 50, prompts: int = 8
) -> KnownLandscape:
    """J = slope * x_0 - curvature / 2 * sum of squares of ``across`` other coordinates.

    A candidate improves where slope * z > curvature * sigma / 2 * chi^2 of ``across`` degrees of freedom, z
    being standard normal: the larger sigma, the fewer do.

    Args:
        slope: along the ridge.
        curvature: across it.
        across: number of directions across it.
        dimension: D.
        prompts: P.
    """

    def rewards(x: Array) -> Array:
        fallen = curvature / 2 * (x[:, 1 : across + 1] ** 2).sum(1)
        return np.repeat((slope * x[:, 0] - fallen)[:, None], prompts, 1)

    return KnownLandscape(rewards, np.zeros(dimension))


def double_well(
    distance: float = 1.0, height: float = 1.0, dimension: int = 20, prompts: int = 8
) -> KnownLandscape:
    """J = -height (x_0^2 / distance^2 - 1)^2, from one of its two maxima, which nothing can better.

    Args:
        distance: of the maxima from the middle.
        height: of the barrier between them.
        dimension: D.
        prompts: P.
    """
    place = np.zeros(dimension)
    place[0] = -distance
    return KnownLandscape(
        lambda x: np.repeat(-height * ((x[:, :1] / distance) ** 2 - 1) ** 2, prompts, 1), place
    )


def steps(dimension: int = 50, prompts: int = 64, seed: int = 0) -> KnownLandscape:
    """Every prompt is right or wrong, 1 or 0, so the mean reward moves in steps of 1 / P.

    Prompt p is right where g . x + noise . x > b_p: the first coordinate helps all prompts, others help one
    prompt each.

    Args:
        dimension: D, above P.
        prompts: P.
        seed: of the thresholds.
    """
    thresholds = np.random.default_rng(seed).normal(0, 1, prompts)
    dimension = max(dimension, prompts + 1)
    return KnownLandscape(
        lambda x: (x[:, :1] + x[:, 1 : prompts + 1] > thresholds).astype(np.float64), np.zeros(dimension)
    )


def pure_noise(prompts: int = 64, seed: int = 0) -> KnownLandscape:
    """Rewards of 0 and 1 at random, whatever the weights: nothing that is found is there.

    Args:
        prompts: P.
        seed: which noise.
    """

    def rewards(x: Array) -> Array:
        generators = (np.random.default_rng([seed, *row.view(np.uint64).tolist()]) for row in x)
        return np.stack([(each.random(prompts) < 0.5).astype(np.float64) for each in generators])

    return KnownLandscape(rewards, np.zeros(2))
