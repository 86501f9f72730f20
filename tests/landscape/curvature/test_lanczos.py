"""Lanczos and its quadrature against eigenvalues that NumPy finds; the Hessian of ES on quadratics."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from es_lightning.errors import UsageError
from es_lightning.landscape.arrays import Array
from es_lightning.landscape.curvature.basis import FileBasis, MemoryBasis
from es_lightning.landscape.curvature.budget import SampledHessian, density_rows
from es_lightning.landscape.curvature.es_hessian import ESHessian, start_weights, without_sampling
from es_lightning.landscape.curvature.lanczos import (
    BLOCK,
    MANY_BLOCKS,
    Krylov,
    Operator,
    Spectrum,
    inner,
    inners,
    lanczos,
)


def symmetric(eigenvalues: Array, seed: int = 0) -> Array:
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(eigenvalues),) * 2))
    return np.asarray(rotation * eigenvalues @ rotation.T)


def product(matrix: Array) -> Operator:
    held = torch.from_numpy(matrix)
    return lambda vector: held @ vector


def start(size: int, seed: int = 1) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(size))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-10, 10), min_size=1, max_size=12), st.integers(0, 100))
def test_as_many_steps_as_there_are_dimensions_find_all_eigenvalues(values: list[float], seed: int) -> None:
    matrix = symmetric(np.array(values), seed)
    found = lanczos(product(matrix), start(len(values), seed), len(values))
    ritz, weights, _ = found.ritz
    assert weights.sum() == pytest.approx(1)
    truth = np.linalg.eigvalsh(matrix)
    # Equal eigenvalues share one Krylov vector, so there may be fewer Ritz values than eigenvalues.
    apart = np.abs(ritz[:, None] - truth)
    assert apart.min(axis=1).max() < 1e-6
    assert apart.min(axis=0).max() < 1e-4
    assert found.asymmetry < 1e-6


def test_the_ends_of_a_large_spectrum_come_first_and_their_vectors_too() -> None:
    values = np.concatenate([[-30.0, -20.0, 15.0], np.linspace(-1, 1, 297)])
    matrix = symmetric(values)
    seen: list[int] = []
    basis = MemoryBasis()
    found = lanczos(product(matrix), start(300), 20, basis, lambda step, _: seen.append(step))
    ritz, _, vectors = found.ritz
    assert ritz[[0, 1, -1]] == pytest.approx([-30, -20, 15], rel=1e-6)
    assert seen == list(range(1, 21))
    columns = torch.stack([basis[index] for index in range(len(basis))]).numpy()
    assert np.abs(columns @ columns.T - np.eye(20)).max() < 1e-12
    top = vectors[:, 0] @ columns
    assert matrix @ top == pytest.approx(-30 * top, abs=1e-4)
    middle = vectors[:, 10] @ columns
    assert found.residuals[10] == pytest.approx(np.linalg.norm(matrix @ middle - ritz[10] * middle), rel=1e-6)


def test_quadrature_gives_traces_participation_and_rank() -> None:
    values = np.concatenate([np.full(6, -8.0), np.full(4, 3.0), np.full(190, -0.05)])
    matrix = symmetric(values)
    spectrum = Spectrum.of([lanczos(product(matrix), start(200, seed), 12) for seed in range(200)])
    share = np.abs(values) / np.abs(values).sum()
    assert spectrum.trace == pytest.approx(values.sum(), rel=0.06)
    assert spectrum.trace_square == pytest.approx((values**2).sum(), rel=0.06)
    assert spectrum.participation == pytest.approx(values.sum() ** 2 / (values**2).sum(), rel=0.12)
    assert spectrum.size_participation == pytest.approx(
        np.abs(values).sum() ** 2 / (values**2).sum(), rel=0.1
    )
    assert spectrum.effective_rank == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=0.1)
    grid = np.linspace(-12, 8, 2001)
    density = spectrum.density(grid, 0.2)
    assert density.sum() * 0.01 == pytest.approx(200, rel=1e-3)
    assert density[grid < -5].sum() * 0.01 == pytest.approx(6, rel=0.1)


def test_the_rows_of_a_density_hold_all_eigenvalues_and_state_their_width() -> None:
    generator = np.random.default_rng(0)
    stiff = np.array([-9.0, -5.0, 3.0])
    matrix = np.diag(np.concatenate([stiff, 0.01 * generator.standard_normal(297)]))
    small = np.diag([-10.0, 0.0, 0.0, 2.0])
    rows = density_rows(
        {
            "all": Spectrum.of([lanczos(product(matrix), start(300, seed), 10) for seed in range(60)]),
            "few": Spectrum.of([lanczos(product(small), start(4, 0), 4)]),
        }
    )
    for kind, dimension in (("all", 300), ("few", 4)):
        own = [row for row in rows if row["kind"] == kind]
        at, density = (np.array([row[name] for row in own]) for name in ("eigenvalue", "density"))
        assert np.trapezoid(density, at) == pytest.approx(dimension, rel=1e-3)
        [width] = {row["width"] for row in own}
        assert width == pytest.approx(0.02 * 10)
        if kind == "all":
            for value in stiff:  # one each, as wide as the Gaussian; weights of 60 starts are within 4 errors
                near = abs(at - value) < 4 * 0.2
                assert np.trapezoid(density[near], at[near]) == pytest.approx(1, abs=4 * (2 / 60) ** 0.5)
    assert density_rows({}) == []


def test_an_invariant_subspace_ends_the_run() -> None:
    found = lanczos(product(np.diag([1.0, 2.0, 3.0])), torch.tensor([1.0, 1.0, 0.0]).double(), 3)
    assert found.ritz[0] == pytest.approx([1, 2])


@pytest.mark.parametrize(("steps", "exhausted"), [(4, False), (10, False), (11, True)])
def test_steps_are_exhausted_once_they_have_found_the_rank(steps: int, exhausted: bool) -> None:
    matrix = symmetric(np.concatenate([np.linspace(-9, -1, 10), np.zeros(50)]))
    noisy = torch.from_numpy(matrix + 1e-7 * symmetric(np.linspace(-1, 1, 60), seed=1))
    krylov = lanczos(lambda vector: noisy @ vector, start(60), steps)
    assert krylov.exhausted == exhausted
    ratio = SampledHessian(krylov, 60, 0).participation
    own = np.linspace(-9, -1, 10)
    if exhausted:  # 1 / PR(H) = 1 / PR(K) - 1 / N
        assert 1 / ratio == pytest.approx((own**2).sum() / own.sum() ** 2 - 1 / 60, rel=1e-3)
    else:
        assert np.isnan(ratio)


def test_the_error_of_tr_h2_from_one_start_is_its_spread_over_starts() -> None:
    matrix = product(symmetric(np.concatenate([np.full(30, -8.0), np.full(20, 3.0), np.zeros(150)])))
    each = [Spectrum.of([lanczos(matrix, start(200, seed), 4)]) for seed in range(200)]
    squares = np.array([spectrum.trace_square for spectrum in each])
    assert squares.mean() == pytest.approx(30 * 64 + 20 * 9, rel=4 * 0.27 / 200**0.5)
    # The quadrature divides by the length of z, which takes (tr H^2)^2 / (D tr H^4) of the variance away.
    shrunk = (1 - (30 * 64 + 20 * 9) ** 2 / (200 * (30 * 4096 + 20 * 81))) ** 0.5
    stated = np.mean([spectrum.trace_square_error for spectrum in each]) * shrunk
    assert squares.std() == pytest.approx(stated, rel=0.15)


def test_a_matrix_that_is_not_symmetric_shows() -> None:
    matrix = np.random.default_rng(0).standard_normal((60, 60))
    assert lanczos(product(matrix), start(60), 12).asymmetry > 0.4


def test_files_hold_the_basis_and_a_killed_run_goes_on(tmp_path: Path) -> None:
    values = np.concatenate([[-30.0, -20.0, 15.0], np.linspace(-1, 1, 497)])
    matrix = symmetric(values).astype(np.float32)
    whole = lanczos(product(matrix), start(500).float(), 14, FileBasis(tmp_path / "whole"))
    assert whole.ritz[0][[0, 1, -1]] == pytest.approx([-30, -20, 15], rel=1e-3)
    kept: list[Array] = []

    def kill(step: int, projection: Array) -> None:
        kept.append(projection)
        if step == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lanczos(product(matrix), start(500).float(), 14, FileBasis(tmp_path / "killed"), kill)
    basis = FileBasis(tmp_path / "killed")
    assert len(basis) == 7
    resumed = lanczos(product(matrix), start(500).float(), 14, basis, known=kept[-1])
    assert resumed.ritz[0] == pytest.approx(whole.ritz[0], abs=1e-5)
    again = lanczos(
        lambda _: pytest.fail("nothing is left to do"), start(500).float(), 6, basis, known=kept[-1]
    )
    assert len(again.projection) == 6


@pytest.mark.parametrize("begin", [torch.zeros(4).double(), torch.full((4,), torch.nan).double()])
def test_a_start_without_length_is_refused(begin: Tensor) -> None:
    with pytest.raises(UsageError, match="length 0"):
        lanczos(product(np.eye(4)), begin, 2)


def test_no_steps_are_refused() -> None:
    with pytest.raises(UsageError, match="at least 1"):
        lanczos(product(np.eye(4)), start(4), 0)


# The Hessian of evolution strategies -----------------------------------------------------------------

SPECTRUM = np.array([-4.0, -3.0, -3.0, -2.0, -2.0, -1.0, -1.0, -1.0, 0.5, 0.5])


class Seeds:
    """N seeds around the origin of R = g.x + x^T H x / 2 in D dimensions; the first ten are curved."""

    def __init__(self, seeds: int, dimension: int, sigma: float = 0.01, seed: int = 0) -> None:
        generator = np.random.default_rng(seed)
        self.eps = generator.standard_normal((dimension, seeds))
        self.slope = generator.standard_normal(dimension)
        self.sigma, self.count = sigma, 0

    def __call__(self, weights: Array) -> Array:
        self.count += len(weights)
        places = (self.eps @ weights)[:, None] + self.sigma * self.eps
        curved = places[: len(SPECTRUM)]
        return np.asarray(self.slope @ places + (SPECTRUM @ curved**2) / 2)

    @property
    def sampled(self) -> Array:
        """C E^T H E C / N."""
        curved, seeds = self.eps[: len(SPECTRUM)], self.eps.shape[1]
        centred = curved - curved.mean(axis=1, keepdims=True)
        return np.asarray(centred.T * SPECTRUM @ centred / seeds)


def found_by(seeds: Seeds, steps: int, shuffled: bool = False) -> Krylov:
    generator = np.random.default_rng(5)
    count = seeds.eps.shape[1]
    order = generator.permutation(count) if shuffled else None
    return lanczos(ESHessian(seeds, seeds.sigma, order=order), start_weights(count, generator), steps)


def test_common_seeds_see_the_hessian_of_a_quadratic_as_a_sample_does() -> None:
    seeds = Seeds(40, 5000)
    found = found_by(seeds, 12)
    truth = np.linalg.eigvalsh(seeds.sampled)
    assert found.ritz[0] == pytest.approx(np.concatenate([truth[:8], truth[-4:]]), abs=1e-4)
    assert found.asymmetry < 1e-6
    assert seeds.count == 12 * 2 * 40


@pytest.mark.slow
def test_many_seeds_bring_the_spectrum_and_the_participation_near() -> None:
    true = SPECTRUM.sum() ** 2 / (SPECTRUM**2).sum()
    for count, error in ((30, 0.35), (300, 0.12)):
        values = [np.linalg.eigvalsh(Seeds(count, 10, seed=seed).sampled) for seed in range(40)]
        ratio = np.mean([each.sum() ** 2 for each in values]) / np.mean([(each**2).sum() for each in values])
        assert without_sampling(float(ratio), count) == pytest.approx(true, rel=error)
        assert ratio < true
    found = SampledHessian(found_by(Seeds(300, 3000), 11), 300, 0)
    assert found.spectrum.values[:3] == pytest.approx([-4, -3, -3], rel=0.3)
    assert found.participation == pytest.approx(true, rel=0.2)
    assert found.spectrum.size_participation > found.spectrum.participation


def test_rewards_that_are_dealt_out_to_other_seeds_lose_the_symmetry() -> None:
    real, control = (found_by(Seeds(40, 5000), 12, shuffled) for shuffled in (False, True))
    assert real.asymmetry < 1e-6
    assert control.asymmetry > 0.3
    assert abs(np.trace(control.projection)) < abs(np.trace(real.projection)) / 2


def test_too_few_seeds_have_no_participation_of_their_own() -> None:
    assert without_sampling(30.0, 30) == float("inf")
    assert without_sampling(7.5, 30) == pytest.approx(10)


@pytest.mark.parametrize("size", [1, BLOCK - 1, BLOCK, 3 * MANY_BLOCKS + 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inner_products_are_those_of_float64(size: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(size)
    rows = torch.randn(3, size, generator=generator, dtype=dtype)
    vector = torch.randn(size, generator=generator, dtype=dtype)
    exact = (rows.double() @ vector.double()).tolist()
    share = 1e-6 if dtype is torch.float32 else 1e-13
    bound = share * float(rows.double().norm() * vector.double().norm())
    assert inners(rows, vector) == pytest.approx(exact, abs=bound)
    assert [inner(row, vector) for row in rows] == pytest.approx(exact, abs=bound)
