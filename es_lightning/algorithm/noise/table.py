"""Noise whose elements are independent draws from a table of equally likely values."""

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from es_lightning.algorithm.noise.base import Device, Noise, hash64, require_float32
from es_lightning.algorithm.noise.threefry import (
    SUPERBLOCK,
    Kernel,
    draw_streams,
    eager_piece,
    normal_table,
    stream_words,
)

Draw = tuple[int, str, Sequence[int]]
"""What is drawn: a member's seed, and a tensor's name and shape."""


class TableNoise(Noise):
    """Noise with independent elements: for each of them, 16 random bits pick an entry of ``table``.

    A table of two entries is chosen from by the first of the 16 bits, which is faster.

    Args:
        compile: whether to use torch.compile, see ``es_lightning.algorithm.noise.threefry.Kernel``.
    """

    def __init__(self, compile: bool | None = None) -> None:
        self._kernel = Kernel(compile)
        self._tables: dict[torch.device, Tensor] = {}

    @abstractmethod
    def table(self) -> Tensor:
        """Return the equally likely values: float32 on the CPU, 65,536 of them or 2; mean 0, variance 1."""

    def label(self, name: str, shape: Sequence[int]) -> str:
        """Return the label that keys a tensor's draw within a member; it is the name unless overridden."""
        return name

    def sample(self, seed: int, name: str, shape: Sequence[int], device: Device = "cpu") -> Tensor:
        """See ``Noise.sample``."""
        return self.sample_flat(seed, name, shape, 0, math.prod(shape), device).view(tuple(shape))

    @torch.no_grad()
    def sample_many(self, draws: Sequence[Draw], device: Device = "cpu") -> list[Tensor]:
        """Return what ``sample`` returns for each of many tensors of one or of several members.

        Small tensors are drawn together, so that they take as many operations as one of them does.
        """
        device = torch.empty(0, device=device).device
        piece, room = eager_piece(device), 0
        drawn, small = dict[int, Tensor](), list[int]()
        for index, (seed, name, shape) in enumerate(draws):
            size = _superblocks(shape) * SUPERBLOCK
            if size > piece:
                drawn[index] = self.sample(seed, name, shape, device)
                continue
            if size > room:
                drawn |= self._together(draws, small, device)
                small, room = [], piece
            small.append(index)
            room -= size
        drawn |= self._together(draws, small, device)
        return [drawn[index] for index in range(len(draws))]

    def _together(
        self, draws: Sequence[Draw], places: Sequence[int], device: torch.device
    ) -> dict[int, Tensor]:
        """Draw some of many tensors in one call, and return them by their places among all."""
        if not places:
            return {}
        some = [draws[place] for place in places]
        rows = [_superblocks(shape) for _, _, shape in some]
        values = draw_streams(self._table(device, 1.0), [self._key(*each) for each in some], rows)
        parts = values.split([count * SUPERBLOCK for count in rows])
        return {
            place: part[: math.prod(shape)].view(tuple(shape))
            for place, part, (_, _, shape) in zip(places, parts, some, strict=True)
        }

    @torch.no_grad()
    def sample_flat(
        self, seed: int, name: str, shape: Sequence[int], start: int, stop: int, device: Device = "cpu"
    ) -> Tensor:
        """Return elements ``start`` to ``stop - 1`` of the flattened ``sample`` without making the others.

        Returns:
            float32 [stop - start].

        Raises:
            ValueError: the slice does not lie within the shape.
        """
        if not 0 <= start <= stop <= math.prod(shape):
            raise ValueError(f"slice {start}:{stop} of {name} must lie within its shape {tuple(shape)}")
        result = torch.empty(stop - start, device=device)
        table, key = self._table(result.device, 1.0), self._key(seed, name, shape)
        for begin, end in _pieces(start, stop, self._kernel.piece(result.device, torch.float32, False)):
            result[begin - start : end - start] = self._values(table, key, begin, end)
        return result

    @torch.no_grad()
    def perturbed(self, seed: int, name: str, centre: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
        """See ``Noise.perturbed``; one kernel does look-up, sum and cast."""
        require_float32(centre)
        flat = centre.detach().reshape(-1)
        table, key = self._table(centre.device, scale), self._key(seed, name, centre.shape)
        piece = self._kernel.piece(centre.device, dtype, True)
        if flat.numel() <= piece:
            return self._values(table, key, 0, flat.numel(), flat, dtype).view(centre.shape)
        result = torch.empty(flat.shape, dtype=dtype, device=centre.device)
        for begin, end in _pieces(0, flat.numel(), piece):
            result[begin:end] = self._values(table, key, begin, end, flat[begin:end], dtype)
        return result.view(centre.shape)

    @torch.no_grad()
    def accumulate_(self, seed: int, name: str, total: Tensor, weight: float) -> None:
        """See ``Noise.accumulate_``; this works piece by piece and makes no second tensor of that size."""
        require_float32(total)
        if not total.is_contiguous():
            raise ValueError(f"the total of {name} must be contiguous; make it with torch.zeros")
        flat = total.view(-1)
        table, key = self._table(total.device, weight), self._key(seed, name, total.shape)
        for begin, end in _pieces(0, flat.numel(), self._kernel.piece(total.device, torch.float32, False)):
            flat[begin:end].add_(self._values(table, key, begin, end))

    def _key(self, seed: int, name: str, shape: Sequence[int]) -> int:
        return hash64(f"stream/{seed}/{self.label(name, shape)}")

    def _table(self, device: torch.device, scale: float) -> Tensor:
        """Return ``scale * table``: a product per entry instead of one per element, and the same bits."""
        if device not in self._tables:
            self._tables[device] = self.table().to(device)
        return self._tables[device] * scale

    def _values(
        self,
        table: Tensor,
        key: int,
        start: int,
        stop: int,
        centre: Tensor | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Return elements [start, stop) of one piece: draw whole superblocks, then cut."""
        first = start // SUPERBLOCK
        # At least two rows: torch.compile specialises on size 1 and would compile another kernel for it.
        rows = max(2, -(-stop // SUPERBLOCK) - first)
        if centre is not None:  # then start is a multiple of a piece, and the rows of both line up
            missing = rows * SUPERBLOCK - centre.numel()
            centre = (pad(centre, (0, missing)) if missing else centre).view(rows, 4, -1)
        words = stream_words(key, first, table.device)
        offset = start - first * SUPERBLOCK
        return self._kernel(table, words, rows, centre, dtype).view(-1)[offset : offset + stop - start]


class GaussianNoise(TableNoise):
    """Gaussian noise: eps ~ N(0, I), tensors independent (Salimans et al. 2017, arXiv:1703.03864).

    The largest values are 4.3 standard deviations from 0.
    """

    version = "gaussian-1"

    def table(self) -> Tensor:
        """Return quantiles of the standard normal."""
        return normal_table()


class RademacherNoise(TableNoise):
    """eps is +1 or -1 with equal chance: mean 0, variance 1 (Spall 1992, IEEE Trans. Automatic Control 37).

    All perturbations have exactly the same norm.
    """

    version = "rademacher-1"

    def table(self) -> Tensor:
        """Return -1 and +1."""
        return torch.tensor([-1.0, 1.0])


class CorrelatedNoise(TableNoise):
    """Gaussian noise: tensors of the same shape share one draw (Qiu et al. 2025, arXiv:2509.24372).

    Each element is still eps ~ N(0, 1).
    """

    version = "correlated-1"

    def table(self) -> Tensor:
        """Return quantiles of the standard normal."""
        return normal_table()

    def label(self, name: str, shape: Sequence[int]) -> str:
        """Return the shape, since the paper's code reseeds its generator before every tensor."""
        return "x".join(str(size) for size in shape)


def _superblocks(shape: Sequence[int]) -> int:
    return -(-math.prod(shape) // SUPERBLOCK)


def _pieces(start: int, stop: int, piece: int) -> Iterator[tuple[int, int]]:
    """Yield the parts of [start, stop), cut at the multiples of ``piece``."""
    while start < stop:
        end = min(stop, start // piece * piece + piece)
        yield start, end
        start = end
