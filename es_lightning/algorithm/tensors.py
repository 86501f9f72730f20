"""Measurements on tensors of any size that make no copy of them: checksums and distances."""

import hashlib
from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor, nn

CHUNK = 2**18  # elements per step of a streamed sum; 1 MiB of fp32 stays in cache


class Weights(Protocol):
    """Tensors that are read one at a time, by their Hugging Face names."""

    def read(self, name: str) -> Tensor:
        """Return one tensor."""


class StoredWeights(Weights, Protocol):
    """Weights that may lack a tensor."""

    def __contains__(self, name: str) -> bool: ...


def checksum(named_tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Return sixteen hexadecimal digits that change with any bit of any weight.

    Each chunk is summed as sum_i bits_i * (2 i + 1). The bits of an element are read as int32, and products
    are taken mod 2^32. Integer addition commutes, so any number of threads and any device give the same sum.
    An odd factor is a bijection mod 2^32, so a change of a single element always shows. The sums are hashed
    together with the tensors' names and shapes.

    Args:
        named_tensors: pairs of a name and a float32 tensor, in a fixed order.
    """
    digest = hashlib.blake2b(digest_size=8)
    for name, tensor in named_tensors:
        bits = tensor.detach().reshape(-1).view(torch.int32)
        factors = torch.arange(CHUNK, dtype=torch.int32, device=bits.device).mul_(2).add_(1)
        chunks = bits.split(CHUNK)
        sums = torch.stack([(chunk * factors[: chunk.numel()]).sum(dtype=torch.int64) for chunk in chunks])
        digest.update(f"{name} {tuple(tensor.shape)} {sums.tolist()}\n".encode())
    return digest.hexdigest()


def sample(tensor: Tensor) -> Tensor:
    """Return every fourth chunk of a large tensor, flat; return all of it if it has at most four chunks."""
    chunks = tensor.detach().reshape(-1).split(CHUNK)
    return torch.cat(chunks[:: 4 if len(chunks) > 4 else 1])


def distance_squared(a: Tensor, b: Tensor) -> float:
    """Return sum_i (a_i - b_i)^2, summed in float64 chunk by chunk, so that no full-size tensor is made."""
    total = 0.0
    for chunk_a, chunk_b in zip(
        a.detach().reshape(-1).split(CHUNK), b.detach().reshape(-1).split(CHUNK), strict=True
    ):
        difference = (chunk_a - chunk_b.to(chunk_a.device)).double()
        total += float(difference.dot(difference))
    return total


def drift(base: StoredWeights, centre: nn.Module) -> float:
    """Return the Euclidean norm of (centre - base), summed in float64; nan if the base lacks a tensor."""
    squares = [
        distance_squared(parameter, base.read(name)) if name in base else float("nan")
        for name, parameter in centre.named_parameters()
    ]
    return float(torch.tensor(squares, dtype=torch.float64).sum().sqrt())
