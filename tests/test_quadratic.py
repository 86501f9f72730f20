"""The quadratic model against its simulation, its formulas against brute force, and the two-mode fit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from es_lightning.analysis.two_modes import fit_two_modes, peak_of_two_modes
from es_lightning.landscape.quadratic import Quadratic, two_groups

TOY = two_groups((8, 1.0, 0.3), (8, 0.05, 0.0))
STEPS = np.arange(401, dtype=np.float64)


def test_simulated_rewards_average_to_the_closed_form() -> None:
    runs = 2000
    rewards = TOY.simulate(400, runs, seed=0)
    error = rewards.std(axis=0) / np.sqrt(runs)
    apart = np.abs(rewards.mean(axis=0) - TOY.rewards(STEPS))
    assert apart[0] < 1e-12
    assert (apart[1:] < 4.5 * error[1:]).all()


def test_measuring_adds_its_own_noise() -> None:
    exact, noisy = (TOY.simulate(50, 400, 3, evaluation_noise=noise) for noise in (0.0, 0.2))
    assert np.std(noisy - exact) == pytest.approx(0.2, rel=0.03)


def test_means_and_variances_are_those_of_the_recursion() -> None:
    model = Quadratic(np.array([1.0, 0.05, 0.0]), np.array([0.5, -1.0, 2.0]), 0.3, 0.7, 12)
    mean, variance = model.start.copy(), np.zeros(3)
    for t in range(60):
        at = np.array([float(t)])
        assert model.means(at)[0] == pytest.approx(mean, rel=1e-12)
        assert model.variances(at)[0] == pytest.approx(variance, rel=1e-10)
        mean = (1 - 0.3 * model.curvatures) * mean
        variance = (1 - 0.3 * model.curvatures) ** 2 * variance + 0.3**2 * 0.7**2 / 12
    late = model.variances(np.array([1e5]))[0]
    assert late[:2] == pytest.approx(model.steady_variances[:2], rel=1e-9)
    assert np.isinf(model.steady_variances[2])


def test_the_reward_is_a_sum_of_exponentials() -> None:
    curve = TOY.steady_reward + np.exp(-TOY.rates * STEPS[:, None]) @ TOY.amplitudes
    assert curve == pytest.approx(TOY.rewards(STEPS), rel=1e-12)
    assert (TOY.amplitudes[:8] < 0).all()
    assert (TOY.amplitudes[8:16] > 0).all()


def test_the_peak_is_where_a_fine_grid_is_highest() -> None:
    amplitudes, rates = TOY.amplitudes, TOY.rates
    peak = peak_of_two_modes((amplitudes[:8].sum(), rates[0]), (amplitudes[8:16].sum(), rates[8]))
    fine = np.linspace(0, 400, 400_001)
    assert peak == pytest.approx(fine[TOY.rewards(fine).argmax()], abs=2e-3)


@given(st.floats(-3, -0.1), st.floats(0.01, 3), st.floats(0.02, 1), st.floats(1.2, 50))
def test_the_slope_vanishes_at_the_peak(a_high: float, a_low: float, slow: float, ratio: float) -> None:
    fast = slow * ratio
    peak = peak_of_two_modes((a_high, fast), (a_low, slow))
    assert peak is not None
    parts = -fast * a_high * np.exp(-fast * peak), -slow * a_low * np.exp(-slow * peak)
    assert sum(parts) == pytest.approx(0, abs=1e-9 * abs(parts[0]))


@pytest.mark.parametrize(
    ("high", "low"),
    [((0.1, 0.2), (0.1, 0.01)), ((-0.1, 0.2), (-0.1, 0.01)), ((-0.1, 0.01), (0.1, 0.2)), ((-1, 1), (1, 0))],
)
def test_other_curves_have_no_peak(high: tuple[float, float], low: tuple[float, float]) -> None:
    assert peak_of_two_modes(high, low) is None


@pytest.mark.parametrize(("active", "alpha"), [(4, 0.1), (16, 0.1), (64, 0.5)])
def test_the_steady_gap_against_kappa_tells_the_effective_dimension(active: int, alpha: float) -> None:
    gaps, kappas = [], []
    for population in (10, 20, 40, 80):
        half = active // 2
        toy = two_groups((half, 1.0, 0.0), (half, 0.05, 0.0), alpha=alpha, sigma=0.2, population=population)
        gaps.append(1 - toy.rewards(np.array([20_000.0]))[0])
        kappas.append(0.2**2 / population)
    slope = np.polyfit(kappas, gaps, 1)[0]
    assert 4 / alpha * slope == pytest.approx(toy.effective_dimension, rel=1e-6)
    by_hand = 2 * half * (1 / (2 - alpha) + 1 / (2 - 0.05 * alpha))
    assert toy.effective_dimension == pytest.approx(by_hand, rel=1e-12)


def test_the_effective_dimension_is_the_rank_for_small_steps() -> None:
    toy = two_groups((8, 1.0, 0.3), (8, 0.05, 0.0), alpha=1e-6)
    assert toy.effective_dimension == pytest.approx(16, rel=1e-5)


# The fit ------------------------------------------------------------------------------------------

TIMES = np.arange(5, 305, 5, dtype=np.float64)


def curve(noise: float, seed: int) -> np.ndarray:
    """A rise from 0.2, a peak at 53.9, a decay to 0.6, all with noise."""
    exact = 0.6 - 0.7 * np.exp(-TIMES / 20) + 0.3 * np.exp(-TIMES / 150)
    return exact + noise * np.random.default_rng(seed).standard_normal(len(TIMES))


TRUE = np.log((0.7 / 20) / (0.3 / 150)) / (1 / 20 - 1 / 150)


def test_a_curve_without_noise_gives_its_parameters_back() -> None:
    fitted = fit_two_modes(TIMES, curve(1e-7, 0))
    assert fitted is not None
    assert fitted.peak == pytest.approx(TRUE, rel=0.01)
    assert fitted.steady == pytest.approx(0.6, abs=0.01)
    assert 1 / fitted.high[1] == pytest.approx(20, rel=0.02)
    assert 1 / fitted.low[1] == pytest.approx(150, rel=0.05)


def test_the_interval_holds_the_peak_about_as_often_as_it_says() -> None:
    fits = [fit_two_modes(TIMES, curve(0.01, seed)) for seed in range(60)]
    found = [fit for fit in fits if fit is not None]
    assert len(found) >= 55
    held = sum(fit.interval[0] <= TRUE <= fit.interval[1] for fit in found)
    assert held >= 0.75 * len(found)  # 90 % stated, and 0.75 is four standard errors below
    assert np.median([fit.peak for fit in found]) == pytest.approx(TRUE, rel=0.06)


def test_a_curve_without_a_peak_has_none_predicted() -> None:
    generator = np.random.default_rng(1)
    rising = [1 - 0.5 * np.exp(-TIMES / 60) + 0.02 * generator.standard_normal(60) for _ in range(20)]
    flat = [0.02 * generator.standard_normal(60) for _ in range(20)]
    assert sum(fit_two_modes(TIMES, each) is not None for each in rising) == 0
    assert sum(fit_two_modes(TIMES, each) is not None for each in flat) <= 2


@pytest.mark.parametrize("values", [[0.5] * 20, [0.1, 0.2, 0.1]])
def test_too_little_to_fit(values: list[float]) -> None:
    assert fit_two_modes(range(len(values)), values) is None


def test_the_same_points_give_the_same_fit() -> None:
    assert fit_two_modes(TIMES, curve(0.01, 5)) == fit_two_modes(TIMES, curve(0.01, 5))
