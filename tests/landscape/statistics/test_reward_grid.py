"""Rounded normal numbers against Monte Carlo, Sheppard's correction and two-valued changes."""

import numpy as np
import pytest

from es_lightning.landscape.statistics.reward_grid import GridNormal, common_step, grid_normal


def test_the_step_is_that_of_which_all_changes_are_multiples() -> None:
    assert common_step(np.array([[0, 4, -6], [10, 4, 0]]) / 64) == pytest.approx(2 / 64)
    assert common_step(np.array([0.0, 0.0, 0.3])) == pytest.approx(0.3)
    generator = np.random.default_rng(0)
    tenths = generator.integers(0, 3, (60, 48)) / 10  # partial credit, with the rounding that it has
    assert common_step(tenths.mean(axis=1) - 1.3 / 48) == pytest.approx(0.1 / 48)
    whole = -generator.integers(2000, 2003, (60, 64)).astype(float)
    assert common_step(whole.mean(axis=1) - whole[0].mean()) == pytest.approx(1 / 64)


def test_rewards_without_steps_or_with_fine_ones_have_none() -> None:
    generator = np.random.default_rng(0)
    assert common_step(generator.standard_normal((3, 240))) is None
    assert common_step(generator.standard_normal(3)) is None
    assert common_step(np.rint(generator.normal(0, 20, 240)) / 64) is None


@pytest.mark.parametrize(("mean", "deviation"), [(0.8, 1.4), (0.3, 2.5), (-5.47, 0.5), (0.05, 0.218)])
def test_it_has_mean_and_deviation_once_it_is_rounded(mean: float, deviation: float) -> None:
    found = grid_normal(mean / 64, deviation / 64, 1 / 64)
    draws = 64 * found.draw(np.random.default_rng(0), (200_000,))
    assert draws == pytest.approx(np.rint(draws))
    assert draws.mean() == pytest.approx(mean, abs=5 * deviation / np.sqrt(200_000))
    assert draws.std() == pytest.approx(deviation, rel=0.02)
    if deviation > 1:
        assert found.deviation**2 == pytest.approx(deviation**2 - 1 / 12, rel=1e-4)  # Sheppard
        assert found.mean == pytest.approx(mean, abs=1e-4)


def test_the_best_of_n_is_that_of_simulated_samples() -> None:
    null = GridNormal(0.3, 1.2, 0.5)
    draws = null.draw(np.random.default_rng(0), (100_000, 20))
    simulated = [draws[:, :size].max(axis=1).mean() for size in (1, 2, 5, 20)]
    assert null.best_of([1, 2, 5, 20]) == pytest.approx(simulated, abs=0.01)


def test_a_change_that_is_rare_is_one_of_two_values() -> None:
    share = 0.05
    null = grid_normal(share, np.sqrt(share * (1 - share)), 1.0)
    assert null.best_of([1, 10, 50]) == pytest.approx([1 - (1 - share) ** size for size in (1, 10, 50)])
