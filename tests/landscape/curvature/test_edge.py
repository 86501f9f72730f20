"""Which eigenvalues of a sampled Hessian stand out of sampling noise, against draws of the samples."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import airy
from scipy.stats import binom

from es_lightning.landscape.arrays import Array
from es_lightning.landscape.curvature.edge import TRACY_WIDOM, SamplingNoise, needed_seeds

SEEDS = 48
BULK = np.where(np.arange(3000) % 2, 1.0, -1.0)


def drawn(eigenvalues: Array, seeds: int, generator: np.random.Generator) -> Array:
    """Eigenvalues of K = C E^T H E C / N, on the N - 1 dimensions that C leaves."""
    eps = generator.standard_normal((len(eigenvalues), seeds - 1))
    return np.linalg.eigvalsh(eps.T * eigenvalues @ eps / seeds)


def noise_of(eigenvalues: Array, seeds: int) -> SamplingNoise:
    return SamplingNoise(float(eigenvalues.sum()), float((eigenvalues**2).sum()), seeds)


def test_the_constant_is_a_percentile_of_tracy_and_widom() -> None:
    # F_1(s) = det(1 - B), B(x, y) = Ai(x + y + s) on [0, inf) (Ferrari and Spohn 2005), by quadrature.
    nodes, weights = np.polynomial.legendre.leggauss(60)
    at, root = 8 * (nodes + 1), np.sqrt(8 * weights)
    kernel = airy(at[:, None] + at + TRACY_WIDOM)[0] * np.outer(root, root)
    assert np.linalg.det(np.eye(60) - kernel) == pytest.approx(0.975, abs=1e-4)


def test_of_a_bulk_nothing_is_seen_though_its_sampled_eigenvalues_are_large() -> None:
    generator, count = np.random.default_rng(0), 60
    noise, largest, hits = noise_of(BULK, SEEDS), [], 0
    for _ in range(count):
        values = drawn(BULK, SEEDS, generator)
        largest.append(np.abs(values).max())
        hits += bool(noise.seen(values))
    assert np.mean(largest) == pytest.approx(16, rel=0.1), "the true ones are 1"
    assert hits <= binom.ppf(0.999, count, 0.05)


@pytest.mark.parametrize(("spike", "bias"), [(30.0, 3000 / 48 / 30), (-20.0, -3000 / 48 / 20)])
def test_a_spike_is_seen_and_corrected_within_its_stated_error(spike: float, bias: float) -> None:
    generator, whole = np.random.default_rng(1), np.append(BULK, spike)
    noise = noise_of(whole, SEEDS)
    found = [noise.seen(drawn(whole, SEEDS, generator)) for _ in range(60)]
    first = [each[0] for each in found if each]
    assert len(first) >= 0.95 * len(found)
    corrected = np.array([each.corrected for each in first])
    stated = float(np.median([each.deviation for each in first]))
    assert stated == pytest.approx(abs(spike) * np.sqrt(2 / SEEDS), rel=0.15)
    assert corrected.std() == pytest.approx(stated, rel=0.3)
    assert corrected.mean() == pytest.approx(spike, abs=4 * stated / np.sqrt(len(first)))
    assert np.median([each.bias for each in first]) == pytest.approx(bias, rel=0.3)


def test_all_eigenvalues_are_seen_with_many_more_seeds_than_the_rank() -> None:
    few, generator = np.array([-9.0, 5.0, -3.0, 2.0]), np.random.default_rng(2)
    noise = noise_of(few, 400)
    for _ in range(20):
        found = noise.seen(drawn(few, 400, generator))
        assert len(found) == 4, "and none of the zeros"
        for each, truth in zip(found, few, strict=True):
            assert each.corrected == pytest.approx(truth, abs=4 * each.deviation)


def test_without_tr_h2_nothing_is_seen() -> None:
    for unknown in (float("nan"), 0.0, -1.0):
        noise = SamplingNoise(0.0, unknown, SEEDS)
        assert noise.edges == (-np.inf, np.inf)
        assert noise.seen(np.array([-1e9, 1e9])) == []
    assert noise.seen(np.zeros(0)) == []


@given(
    st.floats(-1e4, 1e4),
    st.floats(1e-3, 1e8),
    st.integers(8, 500),
    st.floats(1.001, 50),
    st.sampled_from([-1, 1]),
)
def test_the_corrected_value_solves_its_equation(
    trace: float, square: float, seeds: int, times: float, sign: int
) -> None:
    noise = SamplingNoise(trace, square, seeds)
    low, high = noise.edges
    value = (low + high) / 2 + sign * times * (high - low) / 2
    [found] = noise.seen(np.array([value]))
    own = found.corrected
    rest = square - own**2
    assert own + (trace - own) / seeds + rest / (seeds * own) == pytest.approx(value, rel=1e-9)
    assert abs(own) * seeds**0.5 > 0.99 * square**0.5, "those below the threshold cannot be seen"


@pytest.mark.parametrize("spike", [30.0, -20.0])
def test_the_seeds_that_are_needed_tell_an_eigenvalue_within_a_quarter(spike: float) -> None:
    whole = np.append(BULK[:2000], spike)
    seeds = needed_seeds(spike, float((whole**2).sum()))
    generator, noise = np.random.default_rng(3), noise_of(whole, seeds)
    found = [noise.seen(drawn(whole, seeds, generator)) for _ in range(60)]
    told = np.array([each[0].corrected for each in found if each])
    assert len(told) > 0.5 * len(found)
    assert told.std() <= 0.35 * abs(spike)  # a quarter, within 4 errors of a deviation of 60
    fewer = noise_of(whole, seeds // 3)
    assert sum(bool(fewer.seen(drawn(whole, seeds // 3, generator))) for _ in range(60)) < len(told)


def test_a_single_eigenvalue_needs_the_seeds_of_its_own_spread() -> None:
    assert needed_seeds(-3.0, 9.0) == 32
    assert needed_seeds(1.0, 9.0) > needed_seeds(2.0, 9.0) > 32
