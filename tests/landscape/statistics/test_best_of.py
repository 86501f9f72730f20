"""Best-of-N against brute force, exact fractions and Monte Carlo."""

from fractions import Fraction
from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from es_lightning.errors import UsageError
from es_lightning.landscape.statistics.best_of import (
    best_of,
    best_of_pairs,
    choice_weights,
    first_within,
    headroom,
    leave_one_out,
    order_weights,
    shares_below,
)

# In steps, as rewards are, so that there are ties.
VALUES = st.lists(st.integers(-4, 4).map(lambda step: step / 8), min_size=2, max_size=8)


@given(VALUES, st.data())
def test_the_best_of_n_is_the_mean_over_all_subsets(values: list[float], data: st.DataObject) -> None:
    size = data.draw(st.integers(1, len(values)))
    expected = np.mean([max(subset) for subset in combinations(values, size)])
    assert best_of(np.array(values), [size])[0] == pytest.approx(expected, abs=1e-14)


@given(VALUES, st.data())
def test_a_choice_falls_on_equal_candidates_equally_often(values: list[float], data: st.DataObject) -> None:
    size = data.draw(st.integers(1, len(values)))
    subsets = list(combinations(range(len(values)), size))
    expected = np.zeros(len(values))
    for subset in subsets:
        best = max(values[member] for member in subset)
        first = [member for member in subset if values[member] == best]
        expected[first] += 1 / len(first) / len(subsets)
    assert choice_weights(np.array(values), [size])[0] == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize(
    ("count", "size"), [(1, 1), (30, 2), (30, 30), (240, 1), (240, 30), (240, 50), (1000, 30), (1000, 240)]
)
def test_the_weights_are_exact(count: int, size: int) -> None:
    total = comb(count, size)
    exact = [Fraction(comb(place - 1, size - 1), total) for place in range(1, count + 1)]
    assert order_weights(count, size) == pytest.approx([float(each) for each in exact], rel=1e-12)
    below = [Fraction(comb(place, size), total) for place in range(count + 1)]
    assert shares_below(count, size) == pytest.approx([float(each) for each in below], rel=1e-12)


def test_the_weights_of_very_many_candidates_are_still_weights() -> None:
    weights = order_weights(1_000_000, 50)
    assert weights.sum() == pytest.approx(1, rel=1e-9)
    assert weights[-1] == pytest.approx(50 / 1_000_000, rel=1e-12)
    assert (np.diff(weights) >= 0).all()


def test_monte_carlo_subsets_agree() -> None:
    generator = np.random.default_rng(0)
    values = generator.exponential(size=240)
    subsets = values[generator.permuted(np.tile(np.arange(240), (2000, 1)), axis=1)]
    for size in (5, 30, 50):
        largest = subsets[:, :size].max(axis=1)
        error = largest.std() / np.sqrt(len(largest))
        assert abs(best_of(values, [size])[0] - largest.mean()) < 4 * error


def test_the_best_of_one_is_the_mean_and_the_best_of_all_the_largest() -> None:
    values = np.random.default_rng(1).standard_normal((2, 3, 7))
    found = best_of(values, [1, 7])
    assert found.shape == (2, 3, 2)
    assert found[..., 0] == pytest.approx(values.mean(axis=-1), rel=1e-12)
    assert found[..., 1] == pytest.approx(values.max(axis=-1), rel=1e-12)


def test_of_pairs_each_sign_is_taken_alone() -> None:
    plus, minus = np.array([0.1, 0.4, 0.2]), np.array([-0.1, -0.4, 0.6])
    pairs = np.stack([plus, minus], axis=1).ravel()
    expected = (best_of(plus, [2]) + best_of(minus, [2])) / 2
    assert best_of_pairs(pairs, [2]) == pytest.approx(expected)
    with pytest.raises(UsageError, match="only M = 3 independent"):
        best_of_pairs(pairs, [4])


def test_leaving_a_candidate_out_is_measuring_without_it() -> None:
    values = np.random.default_rng(2).standard_normal((2, 9)).round(1)
    found = leave_one_out(values, [1, 3, 8])
    for member in range(9):
        expected = best_of(np.delete(values, member, axis=1), [1, 3, 8])
        assert found[:, :, member] == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize(("size", "words"), [(5, "N = 5 was asked for, and only M = 4"), (0, "at least 1")])
def test_what_cannot_be_drawn_is_refused(size: int, words: str) -> None:
    for asked in (best_of, choice_weights):
        with pytest.raises(UsageError, match=words):
            asked(np.zeros(4), [size])


def test_n90_is_the_least_n_and_has_no_meaning_without_a_gain() -> None:
    assert first_within(np.array([0.1, 0.5, 0.9, 0.95, 1.0])) == 3
    assert first_within(np.array([1.0, 1.0])) == 1
    for last in (0.0, -0.1):
        assert first_within(np.array([-0.5, -0.2, last])) is None


def test_headroom_is_what_the_centre_leaves() -> None:
    assert headroom(0.6) == pytest.approx(0.4)
    assert headroom(-3.0, 0.0) == pytest.approx(3.0)
    for centre in (1.0, 1.5):
        with pytest.raises(UsageError, match=r"no headroom.*harder prompts\.$"):
            headroom(centre)
