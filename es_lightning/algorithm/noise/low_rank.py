"""Noise of low rank: a member is the centre and one thin product per matrix (arXiv 2511.16652, EGGROLL)."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from typing import Any, Literal

import torch
from torch import Tensor

from es_lightning.algorithm.noise.base import Device, Noise, require_float32
from es_lightning.algorithm.noise.table import Draw, GaussianNoise
from es_lightning.algorithm.noise.threefry import eager_piece
from es_lightning.errors import UsageError

Pair = tuple[Tensor, Tensor]
"""A / sqrt(r) and B."""


class LowRankNoise(Noise):
    """eps = A B^T / sqrt(r) for matrices, with A [m, r] and B [n, r] standard normal (arXiv 2511.16652, 4.1).

    Each element has mean 0 and variance 1, and elements are uncorrelated, but they are not independent, and
    not Gaussian for small r. A tensor of more than two dimensions is a stack of matrices, as the experts of a
    mixture are, and each of them has an A and a B of its own. The products are summed term by term in a fixed
    order, so the bits do not depend on the device or on a library's matrix product.

    Args:
        rank: r, the number of columns of A and B, at least 1.
        vectors: ``gaussian`` gives parameters that are no matrices, such as norms and biases, independent
            Gaussian noise; ``frozen`` leaves them alone, as the paper's language models do.
        compile: see ``GaussianNoise``, which draws A and B.

    Raises:
        UsageError: the rank is below 1, or ``vectors`` is neither.
    """

    version = "low_rank-1"

    def __init__(
        self,
        rank: int = 1,
        vectors: Literal["gaussian", "frozen"] = "gaussian",
        compile: bool | None = None,
    ) -> None:
        if type(rank) is not int or rank < 1:  # True is an int, too
            raise UsageError(f"LowRankNoise.rank is {rank}: give at least 1.")
        if vectors not in ("gaussian", "frozen"):
            raise UsageError(f"LowRankNoise.vectors is {vectors}: give gaussian or frozen.")
        self.rank, self.vectors = rank, vectors
        self._gaussian = GaussianNoise(compile)

    def settings(self) -> dict[str, Any]:
        """Return rank and vectors."""
        return {"rank": self.rank, "vectors": self.vectors}

    def perturbs(self, name: str, shape: Sequence[int]) -> bool:
        """Tell whether a parameter is a matrix, unless vectors get noise as well."""
        return len(shape) > 1 or self.vectors == "gaussian"

    def factors(self, seed: int, name: str, shape: Sequence[int], device: Device = "cpu") -> Pair:
        """Return A / sqrt(r) and B of one matrix, or of a stack of them; see ``Noise.factors``."""
        left, right = (
            self._gaussian.sample(seed, label, thin, device) for label, thin in self._labels(name, shape)
        )
        return left * self.rank**-0.5, right

    def all_factors(
        self, seed: int, shapes: Mapping[str, Sequence[int]], device: Device = "cpu"
    ) -> dict[str, Pair]:
        """See ``Noise.all_factors``; a whole member takes about as many operations as one matrix."""
        drawn = self._thin([(seed, name, shape) for name, shape in shapes.items()], device)
        return dict(zip(shapes, drawn, strict=True))

    def _thin(self, wanted: Sequence[Draw], device: Device) -> list[Pair]:
        """Return what ``factors`` returns for each of many matrices, all drawn together."""
        draws: list[Draw] = []
        for seed, name, shape in wanted:
            draws += [(seed, label, thin) for label, thin in self._labels(name, shape)]
        drawn = iter(self._gaussian.sample_many(draws, device))
        return [(left * self.rank**-0.5, right) for left, right in zip(drawn, drawn, strict=True)]

    def _labels(self, name: str, shape: Sequence[int]) -> list[tuple[str, tuple[int, ...]]]:
        """Return under which names A and B are drawn, and their shapes."""
        *stack, rows, columns = shape
        # No parameter has a blank in its name, so these labels are nobody else's.
        return [(f"{name} A", (*stack, rows, self.rank)), (f"{name} B", (*stack, columns, self.rank))]

    @torch.no_grad()
    def sample(self, seed: int, name: str, shape: Sequence[int], device: Device = "cpu") -> Tensor:
        """See ``Noise.sample``; zeros for a parameter that is frozen."""
        result = torch.zeros(tuple(shape), device=device)
        if len(shape) < 2:
            return self._gaussian.sample(seed, name, shape, device) if self.perturbs(name, shape) else result
        for place, eps in self._pieces(result, [self.factors(seed, name, shape, device)]):
            place.copy_(eps)
        return result

    @torch.no_grad()
    def perturbed(self, seed: int, name: str, centre: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
        """See ``Noise.perturbed``; this makes no full tensor of eps."""
        require_float32(centre)
        if not self.perturbs(name, centre.shape):
            return centre.detach().to(dtype, copy=True).contiguous()
        if centre.dim() < 2:
            return self._gaussian.perturbed(seed, name, centre, scale, dtype)
        result = torch.empty(centre.shape, dtype=dtype, device=centre.device)
        theta = centre.detach().reshape(math.prod(centre.shape[:-1]), centre.shape[-1])
        first = 0
        for place, eps in self._pieces(result, [self.factors(seed, name, centre.shape, centre.device)]):
            here = theta[first : first + len(place)]
            place.copy_(eps.mul_(scale).add_(here))
            first += len(place)
        return result

    @torch.no_grad()
    def accumulate_(self, seed: int, name: str, total: Tensor, weight: float) -> None:
        """See ``Noise.accumulate_``; this makes no full tensor of eps."""
        self.accumulate_all_([seed], name, total, [weight])

    @torch.no_grad()
    def accumulate_all_(
        self, seeds: Sequence[int], name: str, total: Tensor, weights: Sequence[float]
    ) -> None:
        """See ``Noise.accumulate_all_``; the thin matrices of many members are drawn together."""
        require_float32(total)
        if not total.is_contiguous():
            raise ValueError(f"the total of {name} must be contiguous; make it with torch.zeros")
        if total.dim() < 2:
            if self.perturbs(name, total.shape):
                self._gaussian.accumulate_all_(seeds, name, total, weights)
            return
        numbers = sum(math.prod(thin) for _, thin in self._labels(name, total.shape))
        count = max(1, eager_piece(total.device) // max(numbers, 1))
        for first in range(0, len(seeds), count):
            some = slice(first, first + count)
            factors = self._thin([(seed, name, total.shape) for seed in seeds[some]], total.device)
            for (place, eps), weight in zip(self._pieces(total, factors), cycle(weights[some]), strict=False):
                place.add_(eps.mul_(weight))

    def _pieces(self, whole: Tensor, factors: Sequence[Pair]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield, in order, some rows of a contiguous tensor as a view, and each member's eps of these rows.

        An eps takes the place of the one before: fresh memory for each would cost as much as its numbers.
        """
        *stack, rows, columns = whole.shape
        if not whole.numel():
            return
        height = min(rows, max(1, eager_piece(whole.device) // columns))
        room = torch.empty(height, columns, device=whole.device)
        more = torch.empty_like(room) if self.rank > 1 else room
        matrices = whole.view(math.prod(stack), rows, columns)
        sides = [(a.reshape(-1, rows, self.rank), b.reshape(-1, columns, self.rank)) for a, b in factors]
        for index, matrix in enumerate(matrices):
            for first in range(0, rows, height):
                place = matrix[first : first + height]
                eps, term = room[: len(place)], more[: len(place)]
                for a, b in sides:
                    part, other = a[index, first : first + height], b[index]
                    torch.mul(part[:, None, 0], other[None, :, 0], out=eps)
                    for k in range(1, self.rank):  # product and sum round each, never fused
                        eps.add_(torch.mul(part[:, None, k], other[None, :, k], out=term))
                    yield place, eps
