"""The two-mode fit: its parameters come back, and its interval holds the peak as often as it says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from es_lightning.analysis.two_mode_curve import peak_of_two_modes, peaked_shape
from es_lightning.analysis.two_modes import TwoModes, fit_two_modes, judge_two_modes
from es_lightning.errors import UsageError


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


def curve(noise: float, seed: int, correlation: float = 0.0) -> np.ndarray:
    """A rise from 0.2, a peak at 66.05, a decay to 0.6, all with AR(1) noise."""
    exact = 0.6 - 0.7 * np.exp(-TIMES / 20) + 0.3 * np.exp(-TIMES / 150)
    white = np.random.default_rng(seed).standard_normal(len(TIMES))
    wander = white.copy()
    for t in range(1, len(TIMES)):
        wander[t] = correlation * wander[t - 1] + np.sqrt(1 - correlation**2) * white[t]
    return exact + noise * wander


TRUE = np.log((0.7 / 20) / (0.3 / 150)) / (1 / 20 - 1 / 150)


def test_a_curve_without_noise_gives_its_parameters_back() -> None:
    fitted = fit_two_modes(TIMES, curve(1e-7, 0))
    assert fitted is not None
    assert fitted.peak == pytest.approx(TRUE, rel=0.01)
    assert fitted.steady == pytest.approx(0.6, abs=0.01)
    assert 1 / fitted.high[1] == pytest.approx(20, rel=0.02)
    assert 1 / fitted.low[1] == pytest.approx(150, rel=0.05)


@pytest.mark.slow
def test_the_interval_holds_the_peak_about_as_often_as_it_says() -> None:
    fits = [fit_two_modes(TIMES, curve(0.01, seed)) for seed in range(60)]
    found = [fit for fit in fits if fit is not None]
    assert len(found) >= 55
    held = sum(fit.interval[0] <= TRUE <= fit.interval[1] for fit in found)
    assert held >= 0.75 * len(found)  # 90 % stated, and 0.75 is four standard errors below
    assert np.median([fit.peak for fit in found]) == pytest.approx(TRUE, rel=0.06)


def held(noise: float, correlation: float, seeds: range) -> list[bool]:
    """Whether the interval holds the true peak, for each curve whose peak can be told."""
    fits = [fit_two_modes(TIMES, curve(noise, seed, correlation)) for seed in seeds]
    return [fit.interval[0] <= TRUE <= fit.interval[1] for fit in fits if fit is not None]


@pytest.mark.parametrize(("noise", "correlation"), [(0.0003, 0.0), (0.003, 0.5)])
def test_the_interval_of_an_exact_curve_and_of_a_wandering_one(noise: float, correlation: float) -> None:
    outcomes = held(noise, correlation, range(1000, 1020))
    assert len(outcomes) == 20
    assert sum(outcomes) >= 14  # of 20 at 90 %, fewer have a chance of 0.002


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(
    ("noise", "correlation"),
    [
        (0.0003, 0.0),
        (0.001, 0.0),
        (0.003, 0.0),
        (0.01, 0.0),
        (0.03, 0.0),
        (0.003, 0.5),
        (0.01, 0.5),
        (0.03, 0.5),
    ],
)
def test_the_interval_holds_the_peak_at_every_noise(noise: float, correlation: float) -> None:
    outcomes = held(noise, correlation, range(120))
    assert len(outcomes) >= 110
    assert sum(outcomes) >= 0.85 * len(outcomes)


def test_the_order_of_the_points_does_not_matter_and_equal_times_are_averaged() -> None:
    values = curve(0.01, 5)
    fitted = fit_two_modes(TIMES, values)
    assert fitted is not None
    assert fit_two_modes(TIMES[::-1], values[::-1]) == fitted
    twice = np.concatenate([TIMES, TIMES]), np.concatenate([values + 0.002, values - 0.002])
    again = fit_two_modes(*twice)
    assert again is not None
    assert (again.peak, *again.interval) == pytest.approx((fitted.peak, *fitted.interval), rel=1e-3)


def test_units_and_the_first_time_do_not_matter() -> None:
    values = curve(0.01, 5)
    fitted, other = fit_two_modes(TIMES, values), fit_two_modes(7 * TIMES + 100, 50 * values - 3)
    assert isinstance(fitted, TwoModes)
    assert isinstance(other, TwoModes)
    assert other.peak == pytest.approx(7 * fitted.peak + 100, rel=1e-3)
    assert other.interval[1] == pytest.approx(7 * fitted.interval[1] + 100, rel=1e-3)
    assert other.low[0] == pytest.approx(50 * fitted.low[0], rel=1e-2)


def test_the_amplitude_of_the_decay_has_an_interval() -> None:
    outcomes = [
        judge_two_modes(TIMES, curve(0.003, seed), low_interval=True).low_interval for seed in range(10)
    ]
    # A_lo counts from the first point.
    true = 0.3 * np.exp(-TIMES[0] / 150)
    assert sum(low <= true <= high for low, high in filter(None, outcomes)) >= 6


@pytest.mark.parametrize(
    ("times", "values", "words"),
    [(range(9), [0.1] * 8, "9 times and 8 values"), (range(9), [0.1] * 8 + [np.nan], "not finite")],
)
def test_what_is_no_curve(times: range, values: list[float], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        fit_two_modes(times, values)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (0.1 * np.arange(7.0), "7 points in time"),
        (np.full(60, 0.5), "never changes"),
        (1 - np.exp(-TIMES / 60), "."),
        (curve(0.2, 1), "."),
        (curve(0.003, 1)[:9], "."),
    ],
)
def test_a_reason_is_given_where_no_peak_is_told(values: np.ndarray, words: str) -> None:
    judged = judge_two_modes(TIMES[: len(values)], values)
    assert judged.modes is None
    assert words in judged.reason or (words == "." and judged.reason)


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


RISE_AND_FALL = (  # problems of 64 that a real run solved, at every second generation
    "12 22 28 31 36 36 34 33 34 35 35 40 32 34 32 33 33 31 31 37 38 40 37 37 37 "
    "38 44 38 43 41 42 41 34 39 39 33 42 31 34 31 32 32 30 30 26 26 28 26 24 22"
)


@pytest.mark.filterwarnings("error")
def test_rates_that_meet_in_the_search_are_no_error() -> None:
    solved = np.array([int(word) for word in RISE_AND_FALL.split()])
    fitted = fit_two_modes(2 * np.arange(1, 51), solved / 64)
    assert fitted is not None
    assert 30 < fitted.interval[0] < fitted.peak < fitted.interval[1] < 80


def test_the_ends_of_a_bracket_keep_their_signs() -> None:
    """The search for the other parameters, begun anew at an end, can find a worse place there."""
    more = [int(word) for word in (RISE_AND_FALL + " 23 24 21 25 24 21 22 22 22 20 16").split()]
    for points in range(20, len(more) + 1):
        judged = judge_two_modes(2 * np.arange(1, points + 1), np.array(more[:points]) / 64)
        assert (judged.modes is None) == bool(judged.reason)
        if judged.modes is not None:
            low, high = judged.modes.interval
            assert low < judged.modes.peak < high


@given(st.floats(0.01, 3.0), st.floats(1.0, 90.0))
def test_equal_rates_have_the_shape_of_nearly_equal_ones(rate: float, peak: float) -> None:
    since = np.arange(0.0, 100.0, 2.0) - peak
    equal, near = (peaked_shape(np.log([rate, rate * (1 + more)]), since) for more in (0.0, 1e-5))
    equal, near = (shape / np.abs(shape).max() for shape in (equal, near))
    assert np.sign(equal @ near) * equal == pytest.approx(near, abs=0.02)


@pytest.mark.filterwarnings("error")
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(8, 60), st.sampled_from([4, 16, 64]))
def test_shares_of_few_problems_have_a_verdict(seed: int, points: int, problems: int) -> None:
    generator = np.random.default_rng(seed)
    level = np.clip(0.5 + np.cumsum(generator.normal(0, 0.05, points)), 0, 1)
    judged = judge_two_modes(range(points), generator.binomial(problems, level) / problems)
    assert (judged.modes is None) == bool(judged.reason)
