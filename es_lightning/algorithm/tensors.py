"""Measurements on tensors of any size that make no copy of them: checksums and distances.

A device is asked for a result once, after all tensors: until then it can work ahead. Sums have the same bits
on every device and for any number of threads, since what is added to what is fixed.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from es_lightning.algorithm.shares import Shards

CHUNK = 2**18  # elements that are summed together; 1 MiB of fp32 stays in a CPU's cache
# Chunks per operation on an accelerator, where a launch can cost more than what it works on: 256 MiB of fp32.
_CHUNKS_AT_ONCE = 256


class Weights(Protocol):
    """Tensors that are read one at a time, by their Hugging Face names."""

    def read(self, name: str) -> Tensor:
        """Return one tensor."""


class StoredWeights(Weights, Protocol):
    """Weights that may lack a tensor."""

    def __contains__(self, name: str) -> bool: ...


def checksum(named_tensors: Iterable[tuple[str, Tensor]], shards: Shards | None = None) -> str:
    """Return sixteen hexadecimal digits that change with any bit of any weight.

    Each chunk is summed as sum_i bits_i * (2 i + 1). The bits of an element are read as int32, and products
    are taken mod 2^32. Integer addition commutes, so any number of threads and any device give the same sum.
    An odd factor is a bijection mod 2^32, so a change of a single element always shows. The sums are hashed
    together with the tensors' names and shapes.

    Args:
        named_tensors: pairs of a name and a float32 tensor, in a fixed order.
        shards: which of them are here; the ranks that hold them together get the same digits.
    """
    named, shards = dict(named_tensors), shards or Shards()
    held = shards.held(named.items())
    sums = shards.gathered(
        dict(zip(held, fetched([_sums(each, shards) for each in held.values()]), strict=True))
    )
    digest = hashlib.blake2b(digest_size=8)
    for name, tensor in named.items():
        digest.update(f"{name} {tuple(tensor.shape)} {sums[name]}\n".encode())
    return digest.hexdigest()


def _sums(tensor: Tensor, shards: Shards) -> Tensor:
    """Sum the chunks of a tensor for its checksum, int64."""
    bits = tensor.detach().reshape(-1).view(torch.int32)
    factors = torch.arange(CHUNK, dtype=torch.int32, device=shards.device or bits.device).mul_(2).add_(1)
    return torch.cat(
        [
            (block * factors[: block.shape[1]]).sum(dim=1, dtype=torch.int64)
            for block in _blocks(bits, shards.device)
        ]
    )


def fetched(tensors: list[Tensor]) -> list[list[int]] | list[list[float]]:
    """Return the numbers in flat tensors of one device and dtype, which it is asked for all at once."""
    numbers = torch.cat(tensors).tolist() if tensors else []
    ends = torch.tensor([0, *(tensor.numel() for tensor in tensors)]).cumsum(0).tolist()
    return [numbers[start:end] for start, end in zip(ends[:-1], ends[1:], strict=True)]


def sample(tensor: Tensor) -> Tensor:
    """Return every fourth chunk of a large tensor, flat; return all of it if it has at most four chunks."""
    chunks = tensor.detach().reshape(-1).split(CHUNK)
    return torch.cat(chunks[:: 4 if len(chunks) > 4 else 1])


def distance_squared(a: Tensor, b: Tensor, device: torch.device | None = None) -> Tensor:
    """Return sum_i (a_i - b_i)^2, summed in float64 chunk by chunk, so that no full-size tensor is made.

    Args:
        a: float32.
        b: of the same number of elements, in any precision and on any device.
        device: where to compute; None computes where ``a`` is.

    Returns:
        float64 [1] on that device, which may still be computing it.
    """
    sums, device = [], device or a.device
    pairs = (_blocks(tensor.detach().reshape(-1), device) for tensor in (a, b))
    for ours, theirs in zip(*pairs, strict=True):
        difference = (ours - theirs).double()
        sums.append(_summed(difference.mul_(difference)))
    return _summed(torch.cat(sums)[None])


def drift(base: StoredWeights, centre: nn.Module, shards: Shards | None = None) -> float:
    """Return the Euclidean norm of (centre - base), summed in float64; nan if the base lacks a tensor."""
    named, shards = dict(centre.named_parameters()), shards or Shards()
    if not all(name in base for name in named):
        return math.nan
    held = shards.held(named.items())
    squares = {name: distance_squared(each, base.read(name), shards.device) for name, each in held.items()}
    return norm(squares, shards)


def device_of(centre: nn.Module) -> torch.device:
    """Return the device of the parameters that are here."""
    return next(each.device for each in centre.parameters() if not each.is_meta)


def norm(squares: Mapping[str, Tensor], shards: Shards | None = None) -> float:
    """Return the Euclidean norm of all tensors together.

    Args:
        squares: squared norms of the tensors that are here, float64 [1].
        shards: which are here. The sum is exact, so that its order does not matter.
    """
    numbers = [square for [square] in fetched(list(squares.values()))]
    all_numbers = (shards or Shards()).gathered(dict(zip(squares, numbers, strict=True)))
    return math.sqrt(math.fsum(all_numbers.values()))


def _chunks_at_once(device: torch.device) -> int:
    return 1 if device.type == "cpu" else _CHUNKS_AT_ONCE


def _blocks(flat: Tensor, device: torch.device | None) -> Iterator[Tensor]:
    """Cut a tensor into [k, CHUNK] for one operation each on a device, and a rest [1, n] that is shorter."""
    device = device or flat.device
    chunks = flat.numel() // CHUNK
    whole = flat[: chunks * CHUNK].view(chunks, CHUNK)
    for block in whole.split(_chunks_at_once(device)):
        yield block.to(device, non_blocking=True)
    if flat.numel() > whole.numel():
        yield flat[whole.numel() :][None].to(device, non_blocking=True)


def _summed(rows: Tensor) -> Tensor:
    """Sum each row of float64 [k, n] by adding its halves to one another, in an order that never changes."""
    while rows.shape[1] > 1:
        half = (rows.shape[1] + 1) // 2
        rows = rows[:, :half] + pad(rows[:, half:], (0, 2 * half - rows.shape[1]))
    return rows[:, 0] if rows.shape[1] else rows.sum(dim=1)
