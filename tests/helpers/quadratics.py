"""Quadratic rewards of known slope and curvature, probed by antithetic pairs, and their best steps."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from es_lightning.landscape.steps.gain import shrinkage
from es_lightning.landscape.steps.pair_rewards import PairRewards

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class World:
    """r_p(x) = g.x - x^T C x / 2 + d_p.x + white noise around x = 0; C is diagonal, d_p a prompt's own slope.

    Args:
        curvature: diagonal of C, [D].
        slope: g, [D].
        prompts: P, and the prompts of a generation.
        own: standard deviation of a prompt's own slope, in norm.
        white: standard deviation of the noise of a single reward.
    """

    curvature: Array
    slope: Array
    prompts: int = 16
    own: float = 0.0
    white: float = 0.1

    def value(self, x: Array) -> Array:
        """F(x) for x [..., D]."""
        return np.asarray(x @ self.slope - 0.5 * x**2 @ self.curvature)

    def rewards(self, x: Array, generator: np.random.Generator, own: Array) -> Array:
        """Rewards [members, P] at x [members, D]."""
        exact = self.value(x)[:, None] + x @ own.T
        return np.asarray(exact + self.white * generator.standard_normal(exact.shape))

    def probe(self, sigmas: tuple[float, ...], pairs: int, seed: int) -> PairRewards:
        """The same pairs at several sigmas."""
        generator = np.random.default_rng(seed)
        eps = generator.standard_normal((pairs, len(self.slope)))
        own = self.own * generator.standard_normal((self.prompts, len(self.slope))) / len(self.slope) ** 0.5
        tables = np.empty((len(sigmas), 2 * pairs, self.prompts))
        for table, sigma in zip(tables, sigmas, strict=True):
            for side, sign in enumerate((1, -1)):
                table[side::2] = self.rewards(sign * sigma * eps, generator, own)
        return PairRewards(sigmas, np.zeros(self.prompts), tables)

    @cached_property
    def trace(self) -> float:
        """K = tr C."""
        return float(self.curvature.sum())

    def variance(self, sigma: float) -> float:
        """Var(R_n) of a member."""
        noise = (sigma**2 * self.own**2 + self.white**2) / self.prompts
        linear, even = sigma**2 * self.slope @ self.slope, 0.5 * sigma**4 * (self.curvature**2).sum()
        return float(linear + even + noise)

    def first_order(self, sigma: float) -> float:
        """A = c.g."""
        return float(sigma * self.slope @ self.slope / self.variance(sigma) ** 0.5)

    def bend(self, sigma: float) -> float:
        """Kappa = c^T C c."""
        return float(sigma**2 * self.slope @ (self.curvature * self.slope) / self.variance(sigma))

    def best_lr(self, sigma: float, population: int) -> float:
        """alpha* in closed form."""
        cost = self.trace / population + (1 - 2 / population) * self.bend(sigma)
        return shrinkage(population) * self.first_order(sigma) / cost


def world(seed: int, dimension: int = 200, rank: int = 20, slope: float = 1.0, **settings: float) -> World:
    """A world of random curvature in ``rank`` directions, with a slope of given norm in the same."""
    generator = np.random.default_rng(seed)
    curvature, direction = np.zeros(dimension), np.zeros(dimension)
    curvature[:rank] = generator.exponential(1, rank)
    direction[:rank] = generator.standard_normal(rank)
    return World(curvature, slope * direction / np.linalg.norm(direction), **settings)  # type: ignore[arg-type]
