"""The effective dimension from pairs, on quadratics of known curvature."""

import numpy as np
import pytest

from es_lightning.analysis.intervals import Estimate
from es_lightning.landscape.statistics.even_part import effective_dimension, even_parts


def pairs_of(curvatures: np.ndarray, pairs: int, seed: int, slope: float = 5.0) -> np.ndarray:
    """Changes g.eps - 1/2 eps^T diag(curvatures) eps of antithetic pairs."""
    noise = np.random.default_rng(seed).standard_normal((pairs, len(curvatures)))
    odd, even = slope * noise[:, 0], -0.5 * noise**2 @ curvatures
    return np.stack([even + odd, even - odd], axis=1).ravel()


def test_the_even_part_is_free_of_the_slope() -> None:
    changes = pairs_of(np.ones(3), 20, seed=0)
    assert even_parts(changes) == pytest.approx(even_parts(pairs_of(np.ones(3), 20, seed=0, slope=0.0)))


@pytest.mark.parametrize(
    ("curvatures", "expected"), [(np.ones(10), 10), (np.r_[np.ones(4), np.full(40, 0.1)], 64 / 4.4)]
)
def test_it_is_the_signed_participation_ratio(curvatures: np.ndarray, expected: float) -> None:
    found = effective_dimension(pairs_of(curvatures, 20_000, seed=1))
    assert found is not None
    assert found.value == pytest.approx(expected, rel=0.05)
    assert found.low < expected < found.high


def test_its_interval_covers_the_truth() -> None:
    found = [effective_dimension(pairs_of(np.ones(10), 64, seed)) for seed in range(200)]
    covered = [each is not None and each.low < 10 < each.high for each in found]
    assert np.mean(covered) >= 0.90  # 0.94 of 400


def lucky(bend: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Changes at sigma 0.1 and 0.2 of the same pairs, noisy, around a centre that is 0.3 too lucky."""
    flat, bent = (pairs_of(np.full(12, size), 64, seed) for size in (0.0, bend))
    wrong = 1e-3 * np.random.default_rng(seed + 1000).standard_normal((2, len(flat)))
    near, far = (sigma * flat + sigma**2 * (bent - flat) - 0.3 for sigma in (0.1, 0.2))
    return near + wrong[0], far + wrong[1]


def without_luck(near: np.ndarray, far: np.ndarray) -> Estimate | None:
    return effective_dimension(near, (even_parts(near) - 0.25 * even_parts(far)) / 0.75)


def test_the_luck_of_the_centre_is_no_curvature() -> None:
    flat = [lucky(0.0, seed) for seed in range(100)]
    told = [effective_dimension(near) for near, _ in flat]
    assert all(each is not None and each.low > 50 for each in told), "even parts that are nearly equal"
    assert sum(without_luck(*each) is not None for each in flat) <= 11  # 5 % are expected
    found = [without_luck(*lucky(1.0, seed)) for seed in range(100)]
    assert sum(each is not None and each.low < 12 < each.high for each in found) >= 88


def test_without_curvature_there_is_no_dimension() -> None:
    generator = np.random.default_rng(2)
    told = [effective_dimension(generator.standard_normal(80)) is not None for _ in range(200)]
    assert np.mean(told) <= 0.10
    assert effective_dimension(pairs_of(np.zeros(3), 30, seed=3)) is None
    assert effective_dimension(np.zeros(60)) is None
    assert effective_dimension(np.array([1.0, 0.5, 0.2, 0.4])) is None
