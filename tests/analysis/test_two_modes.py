"""The two-mode fit: its parameters come back, and its interval holds the peak as often as it says."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from es_lightning.analysis.two_modes import fit_two_modes, peak_of_two_modes


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
