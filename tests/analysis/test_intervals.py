"""Intervals of means against SciPy's own."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import ttest_1samp, ttest_ind

from es_lightning.analysis.intervals import of_sources, over, source

VALUES = arrays(np.float64, st.integers(2, 8), elements=st.floats(-50, 50).map(lambda value: round(value, 3)))


@given(VALUES)
def test_the_interval_over_seeds_is_students(values: np.ndarray) -> None:
    found = over(values, "seeds")
    assert found.value == pytest.approx(values.mean())
    if np.ptp(values) > 0:
        expected = ttest_1samp(values, 0).confidence_interval()
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.how == f"t over {len(values)} seeds"


@given(VALUES, VALUES)
def test_two_sources_are_welchs(one: np.ndarray, other: np.ndarray) -> None:
    found = of_sources(float(one.mean() - other.mean()), source(one) + source(other))
    if np.ptp(one) > 0 or np.ptp(other) > 0:
        expected = ttest_ind(one, other, equal_var=False).confidence_interval()
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-6, abs=1e-9)
    else:
        assert found.low == pytest.approx(found.value, abs=1e-9) == found.high


def test_without_a_source_there_is_no_interval() -> None:
    assert source(np.array([3.0])) == []
    found = of_sources(1.0, [])
    assert np.isnan([found.low, found.high]).all()
    assert str(found) == "1"
