"""Thin matrices of a whole member in one draw: the bits of one matrix after the other, in few operations."""

import pytest
import torch

from es_lightning.algorithm.noise import FilteredNoise, GaussianNoise, LowRankNoise, table
from tests.algorithm.noise.test_launches import Counted

SHAPES = {
    "a.weight": (3, 5),
    "b.weight": (700, 1030),
    "experts": (2, 64, 33),
    "c.weight": (1, 1),
    "d.weight": (1024, 2048),
}


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("piece", [None, 4096], ids=["one draw", "pieces"])
def test_the_bits_are_those_of_one_matrix_after_the_other(
    rank: int, piece: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if piece:
        monkeypatch.setattr(table, "eager_piece", lambda device: piece)
    noise = FilteredNoise(LowRankNoise(rank, "frozen"), include=["*"])
    for seed in (0, 2**64 - 1, 12345678901234567890):
        found = noise.all_factors(seed, SHAPES)
        assert list(found) == list(SHAPES)
        for name, shape in SHAPES.items():
            for ours, theirs in zip(found[name], noise.factors(seed, name, shape), strict=True):
                assert ours.shape == theirs.shape
                assert torch.equal(ours, theirs)


def test_a_member_takes_about_as_many_operations_as_one_matrix() -> None:
    noise, calls = LowRankNoise(2), []
    for count in (1, 40):
        with Counted() as counted:
            noise.all_factors(3, {f"{index}.weight": (64, 32) for index in range(count)})
        calls.append(counted.operations)
    one, forty = calls
    assert forty < one + 40 * 2 * 4  # a view or two for each thin matrix, and the scale of its A
    with Counted() as counted:
        noise.factors(3, "0.weight", (64, 32))
    assert one < counted.operations + 20


def test_noise_that_is_no_product_has_no_thin_matrices() -> None:
    noise = GaussianNoise()
    assert noise.rank == 0
    with pytest.raises(TypeError, match="eps of GaussianNoise is no product of thin matrices"):
        noise.all_factors(3, {"a": (2, 2)})
