"""The arithmetic of scans against brute force, closed forms and simulations."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from es_lightning.errors import UsageError
from es_lightning.landscape.scans.scan import (
    band,
    barrier,
    drops,
    grid,
    mean_and_error,
    orthonormal,
    quantile,
)


@given(
    start=st.floats(-3, 0.99),
    length=st.floats(0.02, 5),
    step=st.floats(0.01, 2),
    mark=st.sampled_from([0, 1]),
)
def test_a_grid_has_its_ends_and_marks_and_no_number_twice(
    start: float, length: float, step: float, mark: float
) -> None:
    numbers = grid(start, start + length, step, [mark])
    assert mark in numbers.tolist(), "exactly: at a mark the weights are those of a model"
    assert min(start, mark) == pytest.approx(numbers[0], abs=1e-8 * step)
    assert max(start + length, mark) == pytest.approx(numbers[-1], abs=1e-8 * step)
    gaps = np.diff(numbers)
    assert (gaps > 1e-10 * step).all()
    assert (gaps <= step * (1 + 1e-6) + max(0, mark - start - length, start - mark)).all()


def test_decimal_steps_meet_the_marks() -> None:
    assert grid(-0.5, 2, 0.1, [0, 1]).tolist() == pytest.approx([(i - 5) / 10 for i in range(26)], abs=1e-12)
    assert {0.0, 1.0} <= set(grid(-0.3, 1.2, 0.1, [0.0, 1.0]).tolist())


@pytest.mark.parametrize("numbers", [(1, 0, 0.1), (0, 1, 0), (0, 1, -1), (0, float("nan"), 1), (0, 1, 1e-5)])
def test_a_grid_that_leads_nowhere_is_refused(numbers: tuple[float, float, float]) -> None:
    with pytest.raises(UsageError, match=r"from --start \S+ to --stop .*: (give|take) "):
        grid(*numbers)


def test_errors_are_those_of_scipy() -> None:
    rewards = np.random.default_rng(0).random((3, 17))
    mean, error = mean_and_error(rewards)
    assert mean == pytest.approx(rewards.mean(1))
    assert error == pytest.approx(stats.sem(rewards, axis=1))
    low, high = stats.t.interval(0.95, 16, loc=mean, scale=error)
    assert low == pytest.approx(mean - quantile(17) * error)
    assert high == pytest.approx(mean + quantile(17) * error)


def test_a_double_well_has_its_barrier_exactly() -> None:
    times = grid(-0.25, 1.25, 0.125, [0, 1])
    x = 2 * times - 1  # wells at x = -1 and 1
    rewards = -((x**2 - 1) ** 2)[:, None] + np.arange(6.0)  # prompts differ, but alike everywhere
    found = barrier(times, rewards)
    assert (found.height, found.at, found.reach, found.low, found.high) == (1, 0.5, 0, 1, 1)
    assert found.is_seen


def test_unequal_ends_are_joined_by_a_line() -> None:
    times = grid(0, 1, 0.25)
    rewards = np.stack([0.2 + 0.6 * times - times * (1 - times), 3 * times], axis=1)
    assert drops(times, rewards)[:, 0] == pytest.approx(times * (1 - times))
    assert drops(times, rewards)[:, 1] == pytest.approx(np.zeros(5), abs=1e-15)
    assert barrier(times, rewards).height == pytest.approx(0.125)


def _binary(generator: np.random.Generator, rates: np.ndarray, prompts: int) -> np.ndarray:
    """Rewards of 0 and 1 whose rates are given, alike at neighbouring points as real ones are."""
    steps = generator.standard_normal((len(rates), prompts))
    for index in range(1, len(rates)):
        steps[index] = 0.8 * steps[index - 1] + 0.6 * steps[index]
    return (stats.norm.cdf(steps) < rates[:, None]).astype(np.float64)


@pytest.mark.parametrize("depth", [0.0, 0.3])
@pytest.mark.slow
def test_the_interval_of_a_barrier_holds_the_truth(depth: float) -> None:
    times, generator = grid(0, 1, 0.125), np.random.default_rng(3)
    rates = 0.4 + 0.3 * times - depth * 4 * times * (1 - times)
    runs, covered, seen, too_high = 300, 0, 0, 0.0
    for run in range(runs):
        found = barrier(times, _binary(generator, rates, 32), seed=run)
        covered += found.low <= depth <= found.high
        seen += found.is_seen
        too_high += found.height - depth
    assert covered / runs >= 0.93  # 0.95, less two standard errors
    if depth == 0:
        assert too_high / runs > 0.02, "the largest of noisy drops is too large: hence the interval"
        assert seen / runs <= 0.05, "a line without a barrier has none"
    else:
        assert seen / runs > 0.5


def test_one_more_random_direction_lies_in_the_band() -> None:
    generator, inside = np.random.default_rng(1), []
    for _ in range(2000):
        values = generator.normal(0.3, 0.1, (6, 4))
        found = band(values[:5])
        assert found.mean == pytest.approx(values[:5].mean(axis=0))
        inside.append((found.low <= values[5]) & (values[5] <= found.high))
    assert np.mean(inside) == pytest.approx(0.95, abs=0.01)


def test_axes_are_those_of_a_qr_decomposition() -> None:
    directions = np.random.default_rng(2).standard_normal((3, 40)) * np.array([[1.0], [50.0], [1e-3]])
    axes = orthonormal(directions @ directions.T, ["a", "b", "c"]) @ directions
    q, r = np.linalg.qr(directions.T)
    assert axes == pytest.approx((q * np.sign(np.diag(r))).T, abs=1e-12)


def test_directions_that_span_no_plane_are_refused() -> None:
    one = np.array([1.0, 2.0])
    with pytest.raises(UsageError, match="a and b lie in one direction"):
        orthonormal(np.outer(one, one), ["a", "b"])
    with pytest.raises(UsageError, match="b has the weights of the base model"):
        orthonormal(np.diag([1.0, 0.0]), ["a", "b"])
