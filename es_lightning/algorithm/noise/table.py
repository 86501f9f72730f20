"""Noise whose elements are independent draws from a table of 65,536 equally likely values."""

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from es_lightning.algorithm.noise.base import Device, Noise, hash64, require_float32
from es_lightning.algorithm.noise.threefry import PIECE, SUPERBLOCK, Kernel, normal_table, stream_words


class TableNoise(Noise):
    """Independent elements: 16 random bits each pick an entry of ``table``.

    Args:
        compile: whether torch.compile makes the values, see ``es_lightning.algorithm.noise.threefry.Kernel``.
    """

    def __init__(self, compile: bool | None = None) -> None:
        self._kernel = Kernel(compile)
        self._tables: dict[torch.device, Tensor] = {}

    @abstractmethod
    def table(self) -> Tensor:
        """The law: float32 [65536] on the CPU, of mean 0 and variance 1; all entries are equally likely."""

    def label(self, name: str, shape: Sequence[int]) -> str:
        """What tells one tensor's draw from another's within a member; the name unless overridden."""
        return name

    def sample(self, seed: int, name: str, shape: Sequence[int], device: Device = "cpu") -> Tensor:
        """See ``Noise.sample``."""
        return self.sample_flat(seed, name, shape, 0, math.prod(shape), device).view(tuple(shape))

    @torch.no_grad()
    def sample_flat(
        self, seed: int, name: str, shape: Sequence[int], start: int, stop: int, device: Device = "cpu"
    ) -> Tensor:
        """Elements ``start`` to ``stop - 1`` of the flattened ``sample``, without making the others.

        Returns:
            float32 [stop - start].

        Raises:
            ValueError: the slice does not lie within the shape.
        """
        if not 0 <= start <= stop <= math.prod(shape):
            raise ValueError(f"slice {start}:{stop} of {name} must lie within its shape {tuple(shape)}")
        result = torch.empty(stop - start, device=device)
        table, key = self._table(result.device, 1.0), self._key(seed, name, shape)
        for begin, end in _pieces(start, stop):
            result[begin - start : end - start] = self._values(table, key, begin, end)
        return result

    @torch.no_grad()
    def perturbed(self, seed: int, name: str, centre: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
        """See ``Noise.perturbed``; look-up, sum and cast are one kernel."""
        require_float32(centre)
        flat = centre.detach().reshape(-1)
        table, key = self._table(centre.device, scale), self._key(seed, name, centre.shape)
        if flat.numel() <= PIECE:
            return self._values(table, key, 0, flat.numel(), flat, dtype).view(centre.shape)
        result = torch.empty(flat.shape, dtype=dtype, device=centre.device)
        for begin, end in _pieces(0, flat.numel()):
            result[begin:end] = self._values(table, key, begin, end, flat[begin:end], dtype)
        return result.view(centre.shape)

    @torch.no_grad()
    def accumulate_(self, seed: int, name: str, total: Tensor, weight: float) -> None:
        """See ``Noise.accumulate_``; piece by piece, so that nothing of the tensor's size is made."""
        require_float32(total)
        if not total.is_contiguous():
            raise ValueError(f"the total of {name} must be contiguous; make it with torch.zeros")
        flat = total.view(-1)
        table, key = self._table(total.device, weight), self._key(seed, name, total.shape)
        for begin, end in _pieces(0, flat.numel()):
            flat[begin:end].add_(self._values(table, key, begin, end))

    def _key(self, seed: int, name: str, shape: Sequence[int]) -> int:
        return hash64(f"stream/{seed}/{self.label(name, shape)}")

    def _table(self, device: torch.device, scale: float) -> Tensor:
        """``scale * table``: 65,536 products instead of one per element, with the bits of scale * eps."""
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
        """Elements [start, stop) of one piece: whole superblocks are drawn, then cut."""
        first = start // SUPERBLOCK
        # At least two rows: torch.compile would make a kernel of its own for one.
        rows = max(2, -(-stop // SUPERBLOCK) - first)
        if centre is not None:
            missing = rows * SUPERBLOCK - centre.numel()
            centre = (pad(centre, (0, missing)) if missing else centre).view(rows, 4, -1)
        words = stream_words(key, first, table.device)
        offset = start - first * SUPERBLOCK
        return self._kernel(table, words, rows, centre, dtype).view(-1)[offset : offset + stop - start]


class GaussianNoise(TableNoise):
    """eps ~ N(0, I), every tensor independent (Salimans et al. 2017, arXiv:1703.03864); ends at 4.3 sigma."""

    version = "gaussian-1"

    def table(self) -> Tensor:
        """Quantiles of the standard normal."""
        return normal_table()


class CorrelatedNoise(TableNoise):
    """eps ~ N(0, 1) per element, equal shapes share one draw (Qiu et al. 2025, arXiv:2509.24372)."""

    version = "correlated-1"

    def table(self) -> Tensor:
        """Quantiles of the standard normal."""
        return normal_table()

    def label(self, name: str, shape: Sequence[int]) -> str:
        """The shape, as the paper's code reseeds its generator before every tensor."""
        return "x".join(str(size) for size in shape)


def _pieces(start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Cut [start, stop) at the multiples of PIECE."""
    while start < stop:
        end = min(stop, start // PIECE * PIECE + PIECE)
        yield start, end
        start = end
