"""Directions of weight space: from the base model to another one, or drawn from the project's noise.

Nothing here holds a second model. A direction is read or drawn one tensor at a time, and a point
theta + sum_j c_j D_j is made of the centre's tensors on their way into the engine: in float64, in blocks,
rounded once to float32. So the centre never changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from es_lightning.algorithm.noise import Noise
from es_lightning.algorithm.shares import Shards
from es_lightning.algorithm.tensors import Weights
from es_lightning.landscape.arrays import Array

BLOCK = 2**22  # elements whose float64 copies are held at once, 32 MiB each


class Direction(Protocol):
    """A direction of weight space."""

    @property
    def name(self) -> str:
        """What figures and messages call it."""

    def tensor(self, name: str, theta: Tensor) -> tuple[Tensor, bool]:
        """Return a tensor of the direction, in any precision, on the centre's device.

        Args:
            name: the parameter's Hugging Face name.
            theta: the centre's value, float32.

        Returns:
            A tensor of the same shape, and whether theta is still to be subtracted from it.
        """


@dataclass(frozen=True)
class Towards:
    """The direction from the centre to another model: its weights minus the centre's.

    Args:
        name: what figures and messages call it.
        weights: of the other model, read one tensor at a time.
    """

    name: str
    weights: Weights

    def tensor(self, name: str, theta: Tensor) -> tuple[Tensor, bool]:
        """Read the other model's tensor."""
        return self.weights.read(name).to(theta.device), True


@dataclass(frozen=True)
class Drawn:
    """A random direction: eps of the run's noise, which its seed gives again anywhere.

    Args:
        name: what figures and messages call it.
        noise: kind of noise; parameters that it does not perturb do not move.
        seed: 64-bit key of the noise.
    """

    name: str
    noise: Noise
    seed: int

    def tensor(self, name: str, theta: Tensor) -> tuple[Tensor, bool]:
        """Draw eps of a tensor."""
        if not self.noise.perturbs(name, theta.shape):
            return torch.zeros_like(theta), False
        return self.noise.sample(self.seed, name, theta.shape, theta.device), False


@torch.no_grad()
def inner_products(centre: nn.Module, directions: Sequence[Direction], shards: Shards | None = None) -> Array:
    """Return <D_i, D_j> over all parameters, tied ones once, summed in float64; [J, J].

    Args:
        centre: float32 parameters under Hugging Face names; not changed.
        directions: J of them.
        shards: which tensors of the centre are here; the ranks that hold it together get the same result.
    """
    shards, count = shards or Shards(), len(directions)
    pairs = list(combinations_with_replacement(range(count), 2))
    found: dict[str, list[float]] = {}
    for name, theta in shards.held(centre.named_parameters()).items():
        sums = np.zeros(len(pairs))
        for _, *parts in _blocks(name, shards.here(theta), directions):
            sums += [float(torch.dot(parts[i], parts[j])) for i, j in pairs]
        found[name] = sums.tolist()
    whole = np.sum(list(shards.gathered(found).values()), axis=0)
    products = np.zeros((count, count))
    for (i, j), value in zip(pairs, whole, strict=True):
        products[i, j] = products[j, i] = value
    return products


@torch.no_grad()
def moved(name: str, theta: Tensor, directions: Sequence[Direction], coefficients: Sequence[float]) -> Tensor:
    """Return a tensor of the point theta + sum_j c_j D_j, float32; theta itself is not changed.

    Args:
        name: the parameter's Hugging Face name.
        theta: the centre's value, float32.
        directions: J of them; those with coefficient 0 are neither read nor drawn.
        coefficients: c_j.
    """
    used = [(each, c) for each, c in zip(directions, coefficients, strict=True) if c]
    if not used:
        return theta.detach().clone()
    result = torch.empty_like(theta)
    flat, place = result.view(-1), 0
    for base, *parts in _blocks(name, theta, [each for each, _ in used]):
        for part, (_, c) in zip(parts, used, strict=True):
            base.add_(part, alpha=c)
        flat[place : place + len(base)] = base
        place += len(base)
    return result


def _blocks(name: str, theta: Tensor, directions: Sequence[Direction]) -> Iterator[list[Tensor]]:
    """Yield flat float64 blocks of a tensor of the centre and of the directions."""
    whole = theta.detach().reshape(-1)
    tensors = [each.tensor(name, theta) for each in directions]
    for start in range(0, whole.numel(), BLOCK):
        base = whole[start : start + BLOCK].double()
        parts = (
            (tensor.reshape(-1)[start : start + BLOCK].double(), is_place) for tensor, is_place in tensors
        )
        yield [base, *(part - base if is_place else part for part, is_place in parts)]
