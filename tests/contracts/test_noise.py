"""Noise: the law, independence, and the same bits however they are asked for."""

import random
from collections.abc import Sequence
from fractions import Fraction
from hashlib import blake2b

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from es_lightning.algorithm.noise import (
    CorrelatedNoise,
    GaussianNoise,
    Noise,
    RademacherNoise,
    TableNoise,
    member_seed,
)
from es_lightning.algorithm.noise.threefry import LEVELS, PIECE, draw, normal_table, stream_words

NAME = "model.layers.0.mlp.up_proj.weight"
COUNT = 1 << 20  # elements of a statistical sample; the standard error of a mean is 2^-10

# A new kind gets the whole contract from one row: the class and the digest of its golden sample.
KINDS = [
    (GaussianNoise, "f799730c5c66248b10ad86624f091bdb"),
    (CorrelatedNoise, "d8e96b6b4c6c35c1c090e006fcf2cdd1"),
    (RademacherNoise, "380b1566ea3825bb8ad318a3f0080dfc"),
]
every_kind = pytest.mark.parametrize("kind", [kind for kind, _ in KINDS])
normal_kind = pytest.mark.parametrize("kind", [GaussianNoise, CorrelatedNoise])


def sample_of(
    kind: type[TableNoise], seed: int, name: str = NAME, shape: tuple[int, ...] = (COUNT,)
) -> Tensor:
    return kind().sample(seed, name, shape)


def correlation_in_errors(first: Tensor, second: Tensor) -> float:
    """Sample correlation in units of its standard error 1 / sqrt(n)."""
    return float(np.corrcoef(first.numpy(), second.numpy())[0, 1] * np.sqrt(first.numel()))


# The law


@every_kind
def test_mean_0_and_variance_1(kind: type[TableNoise]) -> None:
    """Within 4.5 standard errors, sqrt(1/n) and sqrt((fourth moment - 1) / n)."""
    sample = sample_of(kind, member_seed(0, 0, 0)).double()
    fourth = kind().table().double().pow(4).mean().item()
    assert abs(sample.mean().item()) < 4.5 / COUNT**0.5
    assert abs(sample.square().mean().item() - 1) < 4.5 * ((fourth - 1) / COUNT) ** 0.5 + 1e-8


@normal_kind
def test_skewness_0_and_kurtosis_3(kind: type[TableNoise]) -> None:
    """Within 4.5 standard errors of normal samples, sqrt(6/n) and sqrt(24/n)."""
    sample = sample_of(kind, member_seed(0, 0, 0)).double().numpy()
    assert abs(stats.skew(sample)) < 4.5 * (6 / COUNT) ** 0.5
    assert abs(stats.kurtosis(sample, fisher=False) - 3) < 4.5 * (24 / COUNT) ** 0.5


@normal_kind
def test_kolmogorov_smirnov_against_the_normal(kind: type[TableNoise]) -> None:
    """The 65,536 levels alone cost 2^-17 in distance, a hundredth of what 2^20 elements can resolve."""
    assert stats.kstest(sample_of(kind, member_seed(0, 0, 1)).numpy(), "norm").pvalue > 1e-4


@normal_kind
def test_all_levels_are_equally_likely(kind: type[TableNoise]) -> None:
    sample = sample_of(kind, member_seed(0, 0, 2), shape=(4, COUNT)).numpy().ravel()
    levels = np.searchsorted(normal_table().numpy(), sample)
    counts = np.bincount(levels, minlength=LEVELS)
    assert 1e-5 < stats.chisquare(counts).pvalue < 1 - 1e-5
    for byte in (levels & 255, levels >> 8):
        assert 1e-5 < stats.chisquare(np.bincount(byte, minlength=256)).pvalue < 1 - 1e-5


@every_kind
def test_members_generations_and_run_seeds_are_uncorrelated(kind: type[TableNoise]) -> None:
    coordinates = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1), (1, 0, 0), (2, 0, 0), (42, 0, 0), (43, 0, 0)]
    rows = np.stack([sample_of(kind, member_seed(*place)).numpy() for place in coordinates])
    correlations = np.corrcoef(rows) - np.eye(len(rows))
    assert np.abs(correlations).max() < 5 / COUNT**0.5


@pytest.mark.parametrize("lag", [1, 2, 3, 255, 256, 257, 512, 768, 1024, 2048, 576])
@every_kind
def test_elements_of_a_tensor_are_uncorrelated(kind: type[TableNoise], lag: int) -> None:
    sample = sample_of(kind, member_seed(0, 0, 3))
    assert abs(correlation_in_errors(sample[lag:], sample[:-lag])) < 5
    squares = sample**2
    if squares.std() > 0:  # those of signs are all 1
        assert abs(correlation_in_errors(squares[lag:], squares[:-lag])) < 5


def test_gaussian_tensors_of_equal_shape_are_independent() -> None:
    first, second = (sample_of(GaussianNoise, 1, name) for name in ("q_proj", "k_proj"))
    assert abs(correlation_in_errors(first, second)) < 5


def test_correlated_tensors_of_equal_shape_share_a_draw_and_others_do_not() -> None:
    first = sample_of(CorrelatedNoise, 1, "q_proj", (COUNT, 1))
    assert torch.equal(first, sample_of(CorrelatedNoise, 1, "k_proj", (COUNT, 1)))
    other = sample_of(CorrelatedNoise, 1, "q_proj", (COUNT // 2, 2))
    assert abs(correlation_in_errors(first.flatten(), other.flatten())) < 5


def test_the_kinds_are_independent_and_say_different_versions() -> None:
    assert abs(correlation_in_errors(sample_of(GaussianNoise, 1), sample_of(CorrelatedNoise, 1))) < 5
    assert len({kind.version for kind, _ in KINDS}) == len(KINDS)


# Purity


def test_avalanche_one_bit_of_the_member_seed() -> None:
    """Levels are 16 random bits; flipping any one of 64 seed bits changes half of them."""

    def levels(seed: int) -> np.ndarray:
        sample = sample_of(GaussianNoise, seed, shape=(4096,)).numpy()
        return np.searchsorted(normal_table().numpy(), sample).astype(np.uint16)

    base = levels(0)
    for bit in range(64):
        changed = np.unpackbits((base ^ levels(1 << bit)).view(np.uint8))
        assert abs(changed.mean() - 0.5) < 6 * 0.5 / changed.size**0.5


@pytest.mark.parametrize(("kind", "digest"), KINDS)
def test_golden_bits(kind: type[TableNoise], digest: str) -> None:
    """Whoever changes these bits changes every run: give the kind a new ``version`` with the new digest."""
    sample = sample_of(kind, member_seed(42, 7, 3), shape=(100, 137))
    assert blake2b(sample.numpy().astype("<f4").tobytes(), digest_size=16).hexdigest() == digest


@pytest.mark.parametrize("start", [0, 250, 1020, PIECE - 7, 2**32 - 3, 2**34 - 500, 2**45 + 77])
@every_kind
def test_values_are_the_stream_of_the_hashed_seed_and_label(kind: type[TableNoise], start: int) -> None:
    noise, shape, cpu = kind(compile=False), (2**50,), torch.device("cpu")
    label = f"stream/9/{noise.label(NAME, shape)}"
    key = int.from_bytes(blake2b(label.encode(), digest_size=8).digest(), "little")
    words = [stream_words(key, start // 1024 + row, cpu) for row in range(4)]
    rows = [draw(noise.table(), word, 1, None, torch.float32).flatten() for word in words]
    expected = torch.cat(rows)[start % 1024 :][:3000]
    assert torch.equal(noise.sample_flat(9, NAME, shape, start, start + 3000), expected)


def test_golden_member_seeds() -> None:
    assert [member_seed(0, 0, 0), member_seed(-1, 5, 29)] == [8524538218447033285, 14704059772362115132]


coordinate_lists = st.lists(
    st.tuples(st.integers(), st.integers(0, 10**6), st.integers(0, 10**4)), min_size=2, unique=True
)


@given(coordinate_lists)
def test_member_seeds_are_64_bits_of_any_integers_and_differ(places: list[tuple[int, int, int]]) -> None:
    seeds = [member_seed(*place) for place in places]
    assert all(0 <= seed < 2**64 for seed in seeds)
    assert len(set(seeds)) == len(places)


@every_kind
def test_same_arguments_same_bits_and_no_global_generator_is_touched(kind: type[TableNoise]) -> None:
    before = torch.get_rng_state(), repr(np.random.get_state()), random.getstate()
    noise = kind()
    first = noise.sample(0, NAME, (30, 50))
    noise.perturbed(3, NAME, torch.zeros(30, 50), 0.1, torch.bfloat16)
    assert torch.equal(first, kind().sample(0, NAME, (30, 50)))
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == repr(np.random.get_state())
    assert before[2] == random.getstate()


WHOLE: dict[int, Tensor] = {}  # samples by their number of elements, made once


@pytest.mark.parametrize("compile", [True, False])
@settings(max_examples=15)  # twice; each makes up to 5,000 elements in a way of its own
@given(data=st.data(), count=st.sampled_from([1, 1025, 7000, 3 * PIECE // 2]))
def test_any_slicing_gives_the_same_values(compile: bool | None, data: st.DataObject, count: int) -> None:
    whole = WHOLE.setdefault(count, sample_of(GaussianNoise, 5, shape=(count,)))
    start = data.draw(st.integers(0, count))
    stop = data.draw(st.integers(start, min(count, start + 5000)))
    part = GaussianNoise(compile).sample_flat(5, NAME, (count,), start, stop)
    assert torch.equal(part, whole[start:stop])


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (3, 2), (0, 13)])
def test_a_slice_outside_the_shape_is_refused(start: int, stop: int) -> None:
    with pytest.raises(ValueError, match=r"must lie within its shape \(3, 4\)"):
        GaussianNoise(compile=False).sample_flat(0, NAME, (3, 4), start, stop)


def test_shapes_keep_row_major_order() -> None:
    flat = sample_of(GaussianNoise, 8, shape=(6 * 35,))
    assert torch.equal(sample_of(GaussianNoise, 8, shape=(6, 5, 7)), flat.view(6, 5, 7))
    assert sample_of(GaussianNoise, 8, shape=()) == flat[0]
    assert sample_of(GaussianNoise, 8, shape=(0, 4)).shape == (0, 4)


# Perturbation and update


SHAPES = [(0,), (1,), (3,), (576,), (1023,), (1024,), (1025,), (2, 3), (192, 576), (37, 1000)]


@pytest.mark.parametrize("compile", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_perturbed_is_the_formula_rounded_after_each_step(dtype: torch.dtype, compile: bool | None) -> None:
    noise = GaussianNoise(compile)
    for shape in SHAPES:
        centre = torch.randn(shape) * 10.0 ** torch.randint(-6, 3, shape)
        bits = centre.clone()
        eps = noise.sample(11, NAME, shape).numpy()
        for scale in (0.001, -0.3, 0.0):
            result = noise.perturbed(11, NAME, centre, scale, dtype)
            expected = centre.numpy() + np.float32(scale) * eps
            assert result.dtype == dtype
            assert torch.equal(result, torch.from_numpy(np.asarray(expected)).to(dtype))
        assert torch.equal(centre.view(torch.int32), bits.view(torch.int32))
        assert shape == (0,) or result.data_ptr() != centre.data_ptr()


def test_no_fused_multiply_add_and_no_flushing_of_tiny_numbers() -> None:
    """Centres that cancel the product would show its lost bits; 1e-41 would become 0 if denormals did."""
    noise = GaussianNoise()
    eps = noise.sample(1, NAME, (50_000,)).numpy()
    product = np.float32(0.1) * eps
    fused_rest = [
        float(Fraction(float(np.float32(0.1))) * Fraction(float(e)) - Fraction(float(p)))
        for e, p in zip(eps, product, strict=True)
    ]
    assert np.count_nonzero(fused_rest) > 40_000
    cancelled = noise.perturbed(1, NAME, torch.from_numpy(-product), 0.1, torch.float32)
    assert torch.count_nonzero(cancelled) == 0
    tiny = torch.full((2000,), 1e-41)
    assert torch.equal(noise.perturbed(1, NAME, tiny, 0.0, torch.float32), tiny)


@every_kind
@pytest.mark.slow
def test_compiled_and_eager_bits_agree_on_a_large_tensor(kind: type[TableNoise]) -> None:
    """Fourteen pieces of an embedding, the last one not full."""
    centre = torch.arange(49152.0)[:, None].mul(1e-6).expand(49152, 576)
    compiled = kind(compile=True).perturbed(2, NAME, centre, 0.01, torch.bfloat16)
    assert torch.equal(compiled, kind(compile=False).perturbed(2, NAME, centre, 0.01, torch.bfloat16))
    row = kind().sample_flat(2, NAME, centre.shape, 49151 * 576, 49152 * 576)
    assert torch.equal(compiled[-1], (centre[-1] + 0.01 * row).to(torch.bfloat16))


@pytest.mark.parametrize("compile", [True, False])
def test_two_threads_make_the_bits_of_one(compile: bool | None, two_threads: None) -> None:
    both = GaussianNoise(compile).sample(4, NAME, (400, 999))
    torch.set_num_threads(1)
    assert torch.equal(both, GaussianNoise(compile).sample(4, NAME, (400, 999)))


def test_perturbed_takes_parameters_and_transposed_centres() -> None:
    noise = GaussianNoise(compile=False)
    centre = torch.randn(40, 30)
    parameter = torch.nn.Parameter(centre.clone())
    expected = noise.perturbed(1, NAME, centre, 0.5, torch.float32)
    result = noise.perturbed(1, NAME, parameter, 0.5, torch.float32)
    assert not result.requires_grad
    assert torch.equal(result, expected)
    transposed = noise.perturbed(1, NAME, centre.t().contiguous().t(), 0.5, torch.float32)
    assert transposed.is_contiguous()
    assert torch.equal(transposed, expected)


@pytest.mark.parametrize("piece", [1 << 10, 1 << 14, PIECE])
@pytest.mark.parametrize("compile", [True, False])
def test_accumulate_adds_rounded_terms_in_order_for_any_piece(
    compile: bool | None, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("es_lightning.algorithm.noise.threefry.PIECE", piece)
    noise, shape = GaussianNoise(compile), (113, 257)
    start = torch.randn(shape)
    total, expected = start.clone(), start.numpy()
    for member, weight in enumerate([0.7, -1.3, 0.1, 1e-3]):
        noise.accumulate_(member, NAME, total, weight)
        expected = expected + np.float32(weight) * noise.sample(member, NAME, shape).numpy()
    np.testing.assert_array_equal(total.numpy(), expected)


def test_wrong_centres_and_totals_are_refused() -> None:
    noise = GaussianNoise(compile=False)
    with pytest.raises(TypeError, match=r"not torch.bfloat16; keep the centre in float32"):
        noise.perturbed(0, NAME, torch.zeros(3, dtype=torch.bfloat16), 1.0, torch.bfloat16)
    with pytest.raises(TypeError, match="float32"):
        noise.accumulate_(0, NAME, torch.zeros(3, dtype=torch.float64), 1.0)
    with pytest.raises(ValueError, match="contiguous"):
        noise.accumulate_(0, NAME, torch.zeros(3, 4).t(), 1.0)


class OneDraw(Noise):
    """A kind that has its law alone: what the base class makes of it must be what the fused kinds do."""

    version = "test"

    def sample(
        self, seed: int, name: str, shape: Sequence[int], device: torch.device | str = "cpu"
    ) -> Tensor:
        return GaussianNoise(compile=False).sample(seed, name, shape, device)


def test_a_kind_with_sample_alone_perturbs_and_accumulates_like_the_fused_one() -> None:
    centre, totals = torch.randn(20, 77), (torch.ones(20, 77), torch.ones(20, 77))
    for noise, total in zip((OneDraw(), GaussianNoise()), totals, strict=True):
        noise.accumulate_(6, NAME, total, 0.3)
    assert torch.equal(*totals)
    plain, fused = (
        noise.perturbed(6, NAME, centre, 0.3, torch.bfloat16) for noise in (OneDraw(), GaussianNoise())
    )
    assert torch.equal(plain, fused)


def test_a_kind_with_sample_alone_takes_transposed_centres() -> None:
    centre = torch.randn(40, 30)
    result = OneDraw().perturbed(1, NAME, centre.t().contiguous().t(), 0.5, torch.float32)
    assert result.is_contiguous()
    assert torch.equal(result, OneDraw().perturbed(1, NAME, centre, 0.5, torch.float32))
