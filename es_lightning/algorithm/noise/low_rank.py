"""Noise of low rank: a member is the centre and one thin product per matrix (arXiv 2511.16652, EGGROLL)."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from es_lightning.algorithm.noise.base import Device, Noise, require_float32
from es_lightning.algorithm.noise.table import GaussianNoise
from es_lightning.algorithm.noise.threefry import eager_piece
from es_lightning.errors import UsageError


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

    def factors(
        self, seed: int, name: str, shape: Sequence[int], device: Device = "cpu"
    ) -> tuple[Tensor, Tensor]:
        """Return A / sqrt(r) and B of one matrix, or of a stack of them; see ``Noise.factors``."""
        *stack, rows, columns = shape
        # No parameter has a blank in its name, so these labels are nobody else's.
        left = self._gaussian.sample(seed, f"{name} A", (*stack, rows, self.rank), device)
        right = self._gaussian.sample(seed, f"{name} B", (*stack, columns, self.rank), device)
        return left * self.rank**-0.5, right

    def all_factors(
        self, seed: int, shapes: Mapping[str, Sequence[int]], device: Device = "cpu"
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """See ``Noise.all_factors``; a whole member takes about as many operations as one matrix."""
        thin: dict[str, tuple[int, ...]] = {}
        for name, (*stack, rows, columns) in shapes.items():
            thin |= {f"{name} A": (*stack, rows, self.rank), f"{name} B": (*stack, columns, self.rank)}
        drawn = self._gaussian.sample_all(seed, thin, device)
        return {name: (drawn[f"{name} A"] * self.rank**-0.5, drawn[f"{name} B"]) for name in shapes}

    @torch.no_grad()
    def sample(self, seed: int, name: str, shape: Sequence[int], device: Device = "cpu") -> Tensor:
        """See ``Noise.sample``; zeros for a parameter that is frozen."""
        result = torch.zeros(tuple(shape), device=device)
        if len(shape) < 2:
            return self._gaussian.sample(seed, name, shape, device) if self.perturbs(name, shape) else result
        for place, eps in self._pieces(seed, name, result):
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
        for place, eps in self._pieces(seed, name, result):
            here = theta[first : first + len(place)]
            place.copy_(eps.mul_(scale).add_(here))
            first += len(place)
        return result

    @torch.no_grad()
    def accumulate_(self, seed: int, name: str, total: Tensor, weight: float) -> None:
        """See ``Noise.accumulate_``; this makes no full tensor of eps."""
        require_float32(total)
        if not total.is_contiguous():
            raise ValueError(f"the total of {name} must be contiguous; make it with torch.zeros")
        if total.dim() >= 2:
            for place, eps in self._pieces(seed, name, total):
                place.add_(eps.mul_(weight))
        elif self.perturbs(name, total.shape):
            self._gaussian.accumulate_(seed, name, total, weight)

    def _pieces(self, seed: int, name: str, whole: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield, in order, some rows of a contiguous tensor as a view, and eps of these rows."""
        *stack, rows, columns = whole.shape
        if not whole.numel():
            return
        left, right = self.factors(seed, name, whole.shape, whole.device)
        matrices = (
            whole.view(math.prod(stack), rows, columns),
            left.reshape(-1, rows, self.rank),
            right.reshape(-1, columns, self.rank),
        )
        height = max(1, eager_piece(whole.device) // columns)
        for matrix, a, b in zip(*matrices, strict=True):
            for place, part in zip(matrix.split(height), a.split(height), strict=True):
                eps = part[:, None, 0] * b[None, :, 0]
                for k in range(1, self.rank):  # product and sum round each, never fused
                    eps.add_(part[:, None, k] * b[None, :, k])
                yield place, eps
