"""Sums over tensors: against exact ones, and with the same bits however the work is cut."""

import math

import pytest
import torch
from torch import Tensor, nn

from es_lightning.algorithm.tensors import CHUNK, checksum, distance_squared, drift, norm
from tests.algorithm.noise.test_launches import META, Counted

SIZES = (0, 1, 3, 1000, CHUNK - 1, CHUNK, CHUNK + 1, 5 * CHUNK + 77)


def pair(size: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(size)
    a = torch.randn(size, generator=generator)
    return a, a + 0.01 * torch.randn(size, generator=generator)


@pytest.mark.parametrize("size", SIZES)
def test_distances_are_exact_sums_to_the_precision_of_float64(size: int) -> None:
    a, b = pair(size)
    exact = math.fsum(((a - b).double() ** 2).tolist())
    assert distance_squared(a, b).shape == (1,)
    assert float(distance_squared(a, b)) == pytest.approx(exact, rel=1e-15)
    assert float(distance_squared(a, b.bfloat16())) == pytest.approx(
        math.fsum(((a - b.bfloat16()).double() ** 2).tolist()), rel=1e-15
    )


@pytest.mark.parametrize("at_once", [2, 3, 256])
def test_bits_do_not_depend_on_threads_and_blocks(
    at_once: int, two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = {f"{size}": pair(size) for size in SIZES}

    def all_of_them() -> tuple[str, list[float]]:
        named = [(name, a) for name, (a, _) in pairs.items()]
        return checksum(named), [float(distance_squared(a, b)) for a, b in pairs.values()]

    before = all_of_them()
    torch.set_num_threads(1)
    monkeypatch.setattr("es_lightning.algorithm.tensors._chunks_at_once", lambda device: at_once)
    assert all_of_them() == before


def test_a_checksum_is_what_its_formula_says() -> None:
    """The formula in plain Python, and digits that older journals hold."""
    tensor = torch.tensor([[1.5, -2.0], [0.0, 3.25]])
    bits = tensor.view(torch.int32).flatten().tolist()
    products = [(bit * (2 * i + 1) + 2**31) % 2**32 - 2**31 for i, bit in enumerate(bits)]
    import hashlib

    line = f"w (2, 2) [{sum(products)}]\n".encode()
    assert checksum([("w", tensor)]) == hashlib.blake2b(line, digest_size=8).hexdigest()


def test_on_accelerators_operations_grow_with_the_logarithm_alone() -> None:
    def operations(rows: int) -> int:
        whole, origin = torch.zeros(rows, CHUNK, device=META), torch.zeros(rows, CHUNK, device=META)
        with Counted() as mode:
            distance_squared(whole, origin)
        return mode.operations

    assert operations(2) < operations(200) < 150


class Base:
    """A base model that lacks a tensor, or may not be read at all."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def read(self, name: str) -> Tensor:
        return torch.zeros(2, 3) if name == "weight" else torch.zeros(2)


def test_a_drift_is_known_only_with_a_whole_base() -> None:
    layer = nn.Linear(3, 2)
    length = nn.utils.parameters_to_vector(layer.parameters()).detach().double().norm()
    assert drift(Base("weight", "bias"), layer) == pytest.approx(float(length), rel=1e-12)
    assert math.isnan(drift(Base("weight"), layer))
    assert norm({}) == 0
