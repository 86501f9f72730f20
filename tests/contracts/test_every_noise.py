"""Every kind of noise, those made of others included: one law, and the formula bit for bit."""

import json
from hashlib import blake2b
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from es_lightning.algorithm import noise as kinds_of_noise
from es_lightning.algorithm.noise import (
    CorrelatedNoise,
    FilteredNoise,
    GaussianNoise,
    LowRankNoise,
    Noise,
    RademacherNoise,
    TableNoise,
    member_seed,
    noise_of,
)
from es_lightning.errors import UsageError

NAME = "model.layers.0.mlp.up_proj.weight"
FROZEN = "model.norm.weight"

# A new kind gets the whole contract from one row: the noise, and the digest of its golden sample.
KINDS: dict[str, tuple[Noise, str]] = {
    "gaussian": (GaussianNoise(False), "f799730c5c66248b10ad86624f091bdb"),
    "correlated": (CorrelatedNoise(False), "d8e96b6b4c6c35c1c090e006fcf2cdd1"),
    "rademacher": (RademacherNoise(False), "380b1566ea3825bb8ad318a3f0080dfc"),
    "rank 1": (LowRankNoise(1, compile=False), "a7d7ed725da4bb148dfe8f9af9c0d0db"),
    "rank 3, frozen": (LowRankNoise(3, "frozen", False), "df7eb2443687c3b0d8cfe4e1edaa270b"),
    "excluding": (
        FilteredNoise(GaussianNoise(False), exclude=["*norm*"]),
        "f799730c5c66248b10ad86624f091bdb",
    ),
    "including": (
        FilteredNoise(LowRankNoise(2, compile=False), include=["*layers*"]),
        "2bce922824a2468abeac62344c50a5ec",
    ),
}
every_kind = pytest.mark.parametrize("noise", [noise for noise, _ in KINDS.values()], ids=list(KINDS))
freezing = pytest.mark.parametrize(
    ("noise", "name", "shape"),
    [
        (KINDS["rank 3, frozen"][0], NAME, (7,)),
        (KINDS["rank 3, frozen"][0], NAME, ()),
        (KINDS["excluding"][0], FROZEN, (7,)),
        (KINDS["including"][0], FROZEN, (3, 4)),
        (FilteredNoise(LowRankNoise(1, "frozen"), include=["*layers*"]), NAME, (7,)),
    ],
)

SHAPES = [(), (0,), (5,), (3, 4), (0, 4), (4, 0), (2, 3, 4), (6, 3, 2, 2), (70, 100), (3, 3000), (5, 17, 40)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def test_every_kind_of_this_library_has_a_row() -> None:
    public = {getattr(kinds_of_noise, name) for name in kinds_of_noise.__all__}
    kinds = {kind for kind in public if isinstance(kind, type) and issubclass(kind, Noise)}
    assert kinds - {Noise, TableNoise} == {type(noise) for noise, _ in KINDS.values()}


# The law


def within(products: np.ndarray, expected: float | np.ndarray) -> bool:
    """Whether means over the first axis are within five standard errors."""
    error = products.std(axis=0, ddof=1) / np.sqrt(len(products))
    return bool((np.abs(products.mean(axis=0) - expected) <= 5 * error + 1e-4).all())


@every_kind
def test_elements_have_mean_0_and_variance_1_and_are_uncorrelated(noise: Noise) -> None:
    """Over a stack of 4000 matrices of 3 x 4, which are independent of each other in all kinds."""
    eps = noise.sample(member_seed(0, 0, 0), NAME, (4000, 3, 4)).double().view(-1, 12).numpy()
    assert within(eps, 0.0)
    assert within(eps[:, :, None] * eps[:, None, :], np.eye(12))
    assert within(eps[1:, :, None] * eps[:-1, None, :], 0.0)


@every_kind
def test_members_and_tensors_are_uncorrelated(noise: Noise) -> None:
    def draw(index: int, name: str, *shape: int) -> np.ndarray:
        return noise.sample(member_seed(0, 0, index), name, shape).double().view(-1, 12).numpy()

    first, member = (draw(index, NAME, 4000, 3, 4) for index in (0, 1))
    assert within(first[:, :, None] * member[:, None, :], 0.0)
    # Another shape as well, since tensors of the same shape share their noise in the correlated kind.
    tensor = draw(0, NAME.replace("up", "down"), 4000, 4, 3)
    assert within(first[:, :, None] * tensor[:, None, :], 0.0)


# Purity


@pytest.mark.parametrize(("noise", "digest"), KINDS.values(), ids=list(KINDS))
def test_golden_bits(noise: Noise, digest: str) -> None:
    """Whoever changes these bits changes every run: give the kind a new ``version`` with the new digest."""
    sample = noise.sample(member_seed(42, 7, 3), NAME, (100, 137))
    assert blake2b(sample.numpy().astype("<f4").tobytes(), digest_size=16).hexdigest() == digest


@every_kind
def test_an_identity_stands_for_the_same_bits(noise: Noise) -> None:
    again = noise_of(noise.identity)
    assert type(again) is type(noise)
    assert again.identity == noise.identity
    assert again.settings() == noise.settings() == json.loads(json.dumps(noise.settings()))
    for name, shape in [(NAME, (30, 50)), (NAME, (9,)), (FROZEN, (9,)), (FROZEN, (3, 4))]:
        assert again.perturbs(name, shape) == noise.perturbs(name, shape)
        assert torch.equal(again.sample(5, name, shape), noise.sample(5, name, shape))


@every_kind
@pytest.mark.slow
def test_two_threads_make_the_bits_of_one(noise: Noise, two_threads: None) -> None:
    def results() -> list[Tensor]:
        total = torch.ones(400, 333)
        noise.accumulate_(4, NAME, total, 0.3)
        return [
            total,
            noise.sample(4, NAME, (400, 333)),
            noise.perturbed(4, NAME, torch.ones(400, 333), 0.3, torch.bfloat16),
        ]

    both = results()
    torch.set_num_threads(1)
    assert all(map(torch.equal, both, results()))


# Perturbation and update


def check_formulas(noise: Noise, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Hold ``perturbed`` and ``accumulate_`` to NumPy's sum of ``sample``, in which each step rounds."""
    generator = torch.Generator().manual_seed(7)
    centre = torch.randn(shape, generator=generator)
    before, total, expected = centre.clone(), centre.clone(), centre.numpy()
    for seed, scale in [(11, 0.001), (12, -0.3), (13, 0.0)]:
        eps = noise.sample(seed, name, shape)
        assert eps.shape == shape
        assert eps.dtype == torch.float32
        result = noise.perturbed(seed, name, centre, scale, dtype)
        assert result.dtype == dtype
        assert result.is_contiguous()
        wanted = np.asarray(centre.numpy() + np.float32(scale) * eps.numpy())
        assert torch.equal(result, torch.from_numpy(wanted).to(dtype))
        noise.accumulate_(seed, name, total, scale)
        expected = expected + np.float32(scale) * eps.numpy()
    np.testing.assert_array_equal(total.numpy(), expected)
    together = before.clone()
    noise.accumulate_all_([11, 12, 13], name, together, [0.001, -0.3, 0.0])
    assert torch.equal(together, total)
    assert torch.equal(centre, before)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("piece", [1 << 11, pytest.param(1 << 21, marks=pytest.mark.slow)])
@every_kind
def test_perturbed_and_accumulate_are_the_formula(
    noise: Noise, piece: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pieces that cut tensors, matrices and rows, and those of every day."""
    monkeypatch.setattr("es_lightning.algorithm.noise.threefry.PIECE", piece)
    for shape in SHAPES:
        check_formulas(noise, NAME, shape, dtype)
        check_formulas(noise, FROZEN, shape, dtype)


@every_kind
@pytest.mark.slow
def test_they_are_the_formula_for_a_matrix_of_more_than_one_piece(noise: Noise) -> None:
    check_formulas(noise, NAME, (2500, 1000), torch.bfloat16)


@every_kind
def test_a_cut_of_another_size_changes_no_bit(noise: Noise, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = [noise.sample(3, NAME, shape) for shape in SHAPES]
    monkeypatch.setattr("es_lightning.algorithm.noise.threefry.PIECE", 1 << 10)
    assert all(torch.equal(noise.sample(3, NAME, s), eps) for s, eps in zip(SHAPES, whole, strict=True))


@pytest.mark.parametrize("name", [NAME, FROZEN])
@every_kind
def test_perturbed_takes_parameters_and_transposed_centres(noise: Noise, name: str) -> None:
    centre = torch.randn(4, 40, 30)
    wanted = noise.perturbed(1, name, centre, 0.5, torch.float32)
    for same in (torch.nn.Parameter(centre.clone()), centre.transpose(1, 2).contiguous().transpose(1, 2)):
        result = noise.perturbed(1, name, same, 0.5, torch.float32)
        assert not result.requires_grad
        assert result.is_contiguous()
        assert torch.equal(result, wanted)


@every_kind
def test_wrong_centres_and_totals_are_refused(noise: Noise) -> None:
    for name in (NAME, FROZEN):
        with pytest.raises(TypeError, match="float32"):
            noise.perturbed(0, name, torch.zeros(3, 4, dtype=torch.bfloat16), 1.0, torch.bfloat16)
    with pytest.raises(TypeError, match="float32"):
        noise.accumulate_(0, NAME, torch.zeros(3, 4, dtype=torch.float64), 1.0)
    with pytest.raises(ValueError, match="contiguous"):
        noise.accumulate_(0, NAME, torch.zeros(3, 4).t(), 1.0)


# What is frozen


@freezing
def test_a_frozen_parameter_keeps_its_bits(noise: Noise, name: str, shape: tuple[int, ...]) -> None:
    """Those of -0.0 too, which a sum with 0 would lose, and numbers too small to be normal."""
    centre = torch.full(shape, -0.0)
    centre.view(-1)[1:] = 1e-41
    assert not noise.perturbs(name, shape)
    assert torch.count_nonzero(noise.sample(1, name, shape)) == 0
    for dtype in DTYPES:
        result = noise.perturbed(1, name, centre, 0.5, dtype)
        assert result.dtype == dtype
        assert torch.equal(result, centre.to(dtype))
        assert torch.equal(result.signbit(), centre.signbit())
        assert result.data_ptr() != centre.data_ptr()
    total = centre.clone()
    noise.accumulate_(1, name, total, 0.5)
    assert torch.equal(total.view(torch.int32), centre.view(torch.int32))


# Low rank


@pytest.mark.parametrize("rank", [1, 2, 3, 8])
@pytest.mark.parametrize("shape", [(20, 31), (3, 20, 31), (2, 3, 20, 31)])
def test_eps_is_the_product_of_two_draws_of_gaussian_noise(rank: int, shape: tuple[int, ...]) -> None:
    """In float64, with factors drawn here; the rank is r exactly, up to the rounding of float32."""
    noise, (*stack, rows, columns) = LowRankNoise(rank, compile=False), shape
    a, b = (
        GaussianNoise(False).sample(9, f"{NAME} {side}", (*stack, size, rank)).double().numpy()
        for side, size in (("A", rows), ("B", columns))
    )
    expected = a @ np.swapaxes(b, -1, -2) / np.sqrt(rank)
    eps = noise.sample(9, NAME, shape).double().numpy()
    np.testing.assert_allclose(eps, expected, atol=2e-6 * np.abs(expected).max())
    left, right = (factor.double().numpy() for factor in noise.factors(9, NAME, shape))
    np.testing.assert_allclose(left @ np.swapaxes(right, -1, -2), eps, atol=2e-6 * np.abs(eps).max())
    assert (np.linalg.matrix_rank(eps, tol=1e-4) == rank).all()


def test_matrices_of_a_stack_have_factors_of_their_own() -> None:
    eps = LowRankNoise(1, compile=False).sample(9, NAME, (2, 20, 31)).double().numpy()
    assert np.linalg.matrix_rank(np.concatenate(eps), tol=1e-4) == 2
    assert np.linalg.matrix_rank(np.concatenate(eps, axis=1), tol=1e-4) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"rank": 0}, "LowRankNoise.rank is 0: give at least 1."),
        ({"rank": 1.5}, "LowRankNoise.rank is 1.5: give at least 1."),
        ({"vectors": "none"}, "LowRankNoise.vectors is none: give gaussian or frozen."),
    ],
)
def test_settings_of_low_rank_noise_out_of_range_are_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=f"^{words}$"):
        LowRankNoise(**arguments)


# Damaged identities

FILTERED = 'filtered-1 {"exclude":[],"include":["*"],"noise":'


@pytest.mark.parametrize(
    "identity",
    [
        "",
        "gauss",
        "gaussian-2",
        'gaussian-1 {"rank":3}',
        'gaussian-1 {"compile":true}',
        "gaussian-1 {}",
        "low_rank-1",
        "low_rank-1 {",
        "low_rank-1 []",
        "low_rank-1 [1]",
        "low_rank-1 null",
        'low_rank-1 {"rank":0,"vectors":"gaussian"}',
        'low_rank-1 {"rank":"1","vectors":"gaussian"}',
        'low_rank-1 {"rank":true,"vectors":"gaussian"}',
        'low_rank-1 {"rank":1,"vectors":[]}',
        'low_rank-1 {"columns":1,"rank":1,"vectors":"gaussian"}',
        "low_rank-1 " + "[" * 100_000,
        "filtered-1",
        'filtered-1 {"exclude":["a"],"include":["*"]}',
        'filtered-1 {"exclude":[],"include":"abc","noise":"gaussian-1"}',
        'filtered-1 {"exclude":[],"include":[5],"noise":"gaussian-1"}',
        'filtered-1 {"exclude":[],"include":[],"noise":"gaussian-1"}',
        FILTERED + "5}",
        FILTERED + '"none-1"}',
        FILTERED + '"low_rank-1 {}"}',
    ],
    ids=lambda identity: identity[:60],
)
def test_a_damaged_identity_is_refused_in_one_sentence(identity: str) -> None:
    with pytest.raises(UsageError, match="noise") as caught:
        noise_of(identity)
    assert "the version that the run was made with" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
