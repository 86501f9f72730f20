"""Perturbations eps(seed, name, shape) as pure functions: no generator state, the same bits everywhere.

A member's noise is keyed by its 64-bit seed, a tensor's by (seed, Hugging Face parameter name), an element's
by its row-major index, so that any engine, rank, thread count or slicing sees one and the same perturbation.
Notation: n elements in a tensor, N members; the update sums w_n eps_n (Salimans et al. 2017, equation 1).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from es_lightning.counter import PIECE, SUPERBLOCK, Kernel, normal_table, stream_words
from es_lightning.errors import UsageError

Device = torch.device | str


def _hash64(text: str) -> int:
    # blake2b and not hash(): the same in every process and on every machine (RFC 7693).
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def member_seed(run_seed: int, generation: int, index: int) -> int:
    """Hash (run seed, generation, member) to the 64-bit key of a member's noise.

    Any integers are legal, 0 and negative ones included; neighbouring run seeds have nothing in common.

    Returns:
        0 to 2^64 - 1.
    """
    return _hash64(f"member/{run_seed}/{generation}/{index}")


class Noise(ABC):
    """A law of eps with mean 0 and variance 1, and the two things that ES does with it.

    A new kind needs ``version`` and ``sample``; it overrides the other two if it can do better than by a
    tensor of eps in full.
    """

    version: ClassVar[str]
    """Names the bits; whatever changes them changes this, so that a replay can refuse another version."""

    @abstractmethod
    def sample(self, seed: int, name: str, shape: Sequence[int], device: Device = "cpu") -> Tensor:
        """eps of one tensor of one member.

        Args:
            seed: 64-bit key of the member, see ``member_seed``; 0 is as good as any.
            name: the parameter's Hugging Face name.
            shape: its shape.
            device: where to put the result; it does not change the bits.

        Returns:
            float32 of that shape.
        """

    def perturbed(self, seed: int, name: str, centre: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
        """A new tensor ``centre + scale * eps``: product and sum each rounded to float32, then cast.

        Args:
            seed: 64-bit key of the member.
            name: the parameter's Hugging Face name.
            centre: float32, left as it is.
            scale: sign * sigma, in units of the weights.
            dtype: of the result.

        Returns:
            Contiguous, of the centre's shape, on its device.

        Raises:
            TypeError: the centre is not float32.
        """
        _require_float32(centre)
        return (centre.detach() + self.sample(seed, name, centre.shape, centre.device) * scale).to(dtype)

    def accumulate_(self, seed: int, name: str, total: Tensor, weight: float) -> None:
        """Add ``weight * eps`` to ``total`` in place: product and sum each rounded to float32.

        Args:
            seed: 64-bit key of the member.
            name: the parameter's Hugging Face name.
            total: float32, contiguous.
            weight: of the member in the update.

        Raises:
            TypeError: ``total`` is not float32.
            ValueError: ``total`` is not contiguous.
        """
        _require_float32(total)
        total.add_(self.sample(seed, name, total.shape, total.device) * weight)


class TableNoise(Noise):
    """Independent elements: 16 random bits each pick an entry of ``table``.

    Args:
        compile: whether torch.compile makes the values, see ``es_lightning.counter.Kernel``.
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
        _require_float32(centre)
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
        _require_float32(total)
        if not total.is_contiguous():
            raise ValueError(f"the total of {name} must be contiguous; make it with torch.zeros")
        flat = total.view(-1)
        table, key = self._table(total.device, weight), self._key(seed, name, total.shape)
        for begin, end in _pieces(0, flat.numel()):
            flat[begin:end].add_(self._values(table, key, begin, end))

    def _key(self, seed: int, name: str, shape: Sequence[int]) -> int:
        return _hash64(f"stream/{seed}/{self.label(name, shape)}")

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


class CorrelatedNoise(GaussianNoise):
    """eps ~ N(0, 1) per element, equal shapes share one draw (Qiu et al. 2025, arXiv:2509.24372)."""

    version = "correlated-1"

    def label(self, name: str, shape: Sequence[int]) -> str:
        """The shape, as the paper's code reseeds its generator before every tensor."""
        return "x".join(str(size) for size in shape)


def _require_float32(tensor: Tensor) -> None:
    if tensor.dtype != torch.float32:
        raise TypeError(f"noise is added in float32, not {tensor.dtype}; keep the centre in float32")


def _pieces(start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Cut [start, stop) at the multiples of PIECE."""
    while start < stop:
        end = min(stop, start // PIECE * PIECE + PIECE)
        yield start, end
        start = end


def noise_of(version: str) -> Noise:
    """The kind of noise that makes the bits of a version.

    Raises:
        UsageError: this library has no such kind.
    """
    kinds = {kind.version: kind for kind in _kinds(Noise) if hasattr(kind, "version")}
    if version not in kinds:
        raise UsageError(
            f"the run's noise was {version}, and this library makes {', '.join(sorted(kinds))}: use the "
            "version that the run was made with."
        )
    kind: Noise = kinds[version]()
    return kind


def _kinds(kind: type) -> Iterator[type]:
    children: list[type] = kind.__subclasses__()
    for child in children:
        yield child
        yield from _kinds(child)
