"""The Gaussian null against closed forms, SciPy and simulated samples."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from es_lightning.landscape.statistics.best_of import SIZES
from es_lightning.landscape.statistics.gaussian_null import (
    expected_largest,
    gaussian_best_of,
    gaussian_n90,
    gaussian_test,
)


def test_the_expected_largest_of_few_is_known_in_closed_form() -> None:
    expected = [0, 1 / np.sqrt(np.pi), 1.5 / np.sqrt(np.pi)]  # David and Nagaraja, Order Statistics, 3.2
    assert expected_largest([1, 2, 3]) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("size", [5, 50, 10_000])
def test_the_expected_largest_of_many_is_that_of_quadrature(size: int) -> None:
    value, _ = quad(lambda x: x * size * norm.pdf(x) * norm.cdf(x) ** (size - 1), -10, 10, limit=200)
    assert expected_largest([size])[0] == pytest.approx(value, abs=1e-7)


def test_best_of_n_without_a_landscape_levels_off_as_published() -> None:
    curve = gaussian_best_of(0, 3.0, SIZES)
    assert curve[:-1] / curve[-1] == pytest.approx([0.517, 0.684, 0.830, 0.908], abs=5e-4)


@pytest.mark.parametrize(("ratio", "n90"), [(0, 29), (-0.25, 31), (-0.5, 33), (-1, 37), (-2.5, None)])
def test_n90_without_a_landscape(ratio: float, n90: int | None) -> None:
    assert gaussian_n90(ratio * 0.02, 0.02, 50) == n90


def test_normal_changes_are_taken_for_what_they_are_whatever_their_size() -> None:
    rejected = 0
    for seed in range(200):
        generator = np.random.default_rng(seed)
        changes = generator.normal(generator.normal(), generator.exponential(), (1, 40))
        test = gaussian_test(changes, [2, 5, 20])
        assert test is not None
        rejected += test.differs
    assert 1 <= rejected <= 19  # 200 x 0.05 +- 3 standard deviations


@pytest.mark.parametrize("ratio", [0.72, 0.95])
def test_normal_changes_in_coarse_steps_are_taken_for_what_they_are(ratio: float) -> None:
    """Beside samples without steps all of them would be called something else."""
    rejected = 0
    for seed in range(50):
        generator = np.random.default_rng([seed, 1])  # not the stream of the test
        spread = np.sqrt(1 / ratio**2 - 1 / 12)  # in steps, before rounding (Sheppard)
        changes = np.rint(generator.normal(generator.uniform(-1, 1), spread, (3, 240))) / 64
        test = gaussian_test(changes, (2, *SIZES), seed)
        assert test is not None
        assert test.step == pytest.approx(1 / 64)
        rejected += test.differs
    assert rejected <= 8  # 50 x 0.05 + 3.6 standard deviations


def test_other_changes_in_coarse_steps_are_not_normal() -> None:
    test = gaussian_test(np.rint(np.random.default_rng(0).exponential(1.2, (3, 240))) / 64, SIZES)
    assert test is not None
    assert test.p_value < 0.01
    assert test.deviations[-1] > test.high[-1]


def test_few_changes_tell_nothing() -> None:
    changes = np.zeros((1, 30))
    changes[0, 4] = 1 / 64
    test = gaussian_test(changes, [5, 20])
    assert test is not None
    assert test.p_value > 0.3


def test_other_changes_are_not_normal() -> None:
    generator = np.random.default_rng(0)
    skew = gaussian_test(generator.exponential(size=(3, 240)), SIZES)
    ruined = gaussian_test(np.minimum(generator.standard_normal((3, 240)), 0.3), SIZES)
    for test, above in ((skew, True), (ruined, False)):
        assert test is not None
        assert test.p_value < 0.01
        assert (test.deviations[-1] > test.high[-1]) == above
        assert (test.deviations[-1] < test.low[-1]) != above


def test_without_any_spread_there_is_nothing_to_test() -> None:
    assert gaussian_test(np.full((2, 30), 0.1), [5]) is None
    assert gaussian_test(np.zeros((2, 30)), [5]) is None
