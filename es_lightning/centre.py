"""What is measured on the centre: its checksum, and its distance from the base model."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from es_lightning.errors import UsageError

CHUNK = 2**18  # elements per step of a streamed sum: 1 MiB of fp32, which stays in cache


def checksum(named_tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Sixteen hexadecimal digits that change with any bit of any weight.

    Per chunk sum_i bits_i * (2 i + 1), products mod 2^32, the bits read as int32. Integer addition commutes,
    so threads and devices agree; an odd factor is a bijection, so no single change can vanish. The sums are
    hashed with the names.

    Args:
        named_tensors: names with float32 tensors, in a fixed order.
    """
    digest = hashlib.blake2b(digest_size=8)
    for name, tensor in named_tensors:
        bits = tensor.detach().reshape(-1).view(torch.int32)
        factors = torch.arange(CHUNK, dtype=torch.int32, device=bits.device).mul_(2).add_(1)
        chunks = bits.split(CHUNK)
        sums = torch.stack([(chunk * factors[: chunk.numel()]).sum(dtype=torch.int64) for chunk in chunks])
        digest.update(f"{name} {tuple(tensor.shape)} {sums.tolist()}\n".encode())
    return digest.hexdigest()


class BaseWeights:
    """The base model's weights, read from its safetensors files tensor by tensor and never held.

    Args:
        folder: the base model's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files = dict(_safetensors_names(folder))

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def read(self, name: str) -> Tensor:
        """The tensor as stored. Opened anew each time, since pages of a kept file would pile up.

        Raises:
            UsageError: the files name their tensors otherwise than transformers does.
        """
        from safetensors import safe_open

        if name not in self:
            raise UsageError(
                f"{self.folder} holds no tensor {name}: load the model with transformers and save it anew."
            )
        with safe_open(self._files[name], framework="pt") as file:
            tensor: Tensor = file.get_tensor(name)
            return tensor


def _safetensors_names(folder: Path) -> Iterator[tuple[str, Path]]:
    from safetensors import safe_open

    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            yield from ((name, path) for name in file.keys())  # noqa: SIM118  (not a dict)


def sample(tensor: Tensor) -> Tensor:
    """Every fourth chunk of a large tensor, flat; all of a tensor of four chunks or fewer."""
    chunks = tensor.detach().reshape(-1).split(CHUNK)
    return torch.cat(chunks[:: 4 if len(chunks) > 4 else 1])


def distance_squared(a: Tensor, b: Tensor) -> float:
    """sum_i (a_i - b_i)^2, summed in float64, chunk by chunk: no tensor of full size is made."""
    total = 0.0
    for chunk_a, chunk_b in zip(
        a.detach().reshape(-1).split(CHUNK), b.detach().reshape(-1).split(CHUNK), strict=True
    ):
        difference = (chunk_a - chunk_b.to(chunk_a.device)).double()
        total += float(difference.dot(difference))
    return total
