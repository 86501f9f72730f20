"""The peak of any number of modes, against a fine grid and against the formula for two."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from es_lightning.analysis.several_modes import peak_of_modes
from es_lightning.analysis.two_mode_curve import peak_of_two_modes
from es_lightning.errors import UsageError

SIZES = st.floats(-3, 3).filter(lambda size: abs(size) > 0.05)
MODES = st.lists(st.tuples(SIZES, st.floats(0.01, 1)), min_size=1, max_size=6)


@given(MODES)
def test_no_time_of_a_fine_grid_is_better(modes: list[tuple[float, float]]) -> None:
    sizes, rates = np.array(modes).T
    times = np.concatenate([[0.0], np.geomspace(1e-4, 3000, 4000)])
    curve = np.exp(-rates * times[:, None]) @ sizes
    peak = peak_of_modes(sizes, rates)
    if peak is None:
        assert curve.max() <= max(curve[0], 0.0) + 1e-9
    else:
        highest = float(sizes @ np.exp(-rates * peak))
        assert highest >= curve.max() - 1e-9
        assert sizes * rates @ np.exp(-rates * peak) == pytest.approx(0, abs=1e-9)


@given(st.floats(-3, -0.1), st.floats(0.01, 3), st.floats(0.02, 1), st.floats(1.2, 50))
def test_two_modes_are_those_of_the_formula(a_high: float, a_low: float, slow: float, ratio: float) -> None:
    by_formula = peak_of_two_modes((a_high, slow * ratio), (a_low, slow))
    assert by_formula is not None
    peak = peak_of_modes([a_low, a_high], [slow, slow * ratio])
    if by_formula > 1e-6:
        assert peak == pytest.approx(by_formula, rel=1e-6, abs=1e-9)
    else:
        assert peak is None or peak < 1e-5


def test_of_two_maxima_the_higher_one_is_the_peak() -> None:
    # Slopes (x - 0.9)(x - 0.5)(x - 0.1) of x = exp(-t), by x: maxima at x = 0.1 and 0.9.
    slopes = -np.poly([0.9, 0.5, 0.1])[::-1]  # of 1, x, x^2, x^3
    rates = np.arange(1.0, 5.0)  # a common factor exp(-t) moves no zero
    times = -np.log([0.9, 0.5, 0.1])
    heights = [float(slopes / -rates @ np.exp(-rates * t)) for t in times]
    best = float(times[int(np.argmax(heights))])
    assert peak_of_modes(slopes / -rates, rates) == pytest.approx(best, rel=1e-9)


def test_equal_rates_are_one_mode_and_a_rate_of_0_is_none() -> None:
    several = peak_of_modes([-0.4, -0.3, 0.1, 0.2, 7.0], [0.1, 0.1, 0.01, 0.01, 0.0])
    assert several == pytest.approx(peak_of_two_modes((-0.7, 0.1), (0.3, 0.01)))


@pytest.mark.parametrize(
    ("sizes", "rates", "words"),
    [
        ([1.0], [1.0, 2.0], "1 amplitudes and 2 rates"),
        ([1.0, -1.0], [1.0, -2.0], "negative"),
        ([1.0, np.nan], [1.0, 2.0], "not finite"),
    ],
)
def test_what_are_no_modes(sizes: list[float], rates: list[float], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        peak_of_modes(sizes, rates)
