"""Intervals against textbook values, closed forms and simulated coverage."""

from collections.abc import Callable

import numpy as np
import pytest

from es_lightning.analysis.intervals import Z, batch_error, t_quantile
from es_lightning.landscape.statistics.best_of import best_of, leave_one_out
from es_lightning.landscape.statistics.gaussian_null import expected_largest
from es_lightning.landscape.statistics.intervals import (
    bootstrapped,
    jackknife_error,
    over_batches,
    resampled,
    share,
    wilson,
)


def test_few_batches_take_students_quantile() -> None:
    assert [t_quantile(freedom) for freedom in (1, 2, 4)] == pytest.approx([12.706, 4.303, 2.776], abs=5e-4)
    batches = np.array([0.1, 0.2, 0.6])
    found = over_batches(batches)
    error = np.sqrt(((0.2**2 + 0.1**2 + 0.3**2) / 2) / 3)
    assert (found.value, found.high - found.value) == pytest.approx((0.3, 4.3026527 * error))
    assert found.how == "t over 3 batches"


def test_one_batch_says_that_it_has_no_interval() -> None:
    found = over_batches(np.array([0.3]))
    assert found.value == 0.3
    assert np.isnan([found.low, found.high]).all()
    assert np.isnan(batch_error(np.ones((1, 4)))).all()
    assert str(found) == "0.3"


def test_wilson_is_the_textbooks() -> None:
    hits, of = 7, 40
    rate, slack = hits / of, Z**2 / of
    centre, half = rate + slack / 2, Z * np.sqrt(rate * (1 - rate) / of + Z**2 / (4 * of**2))
    found = wilson(hits, of)
    assert (found.low, found.high) == pytest.approx([(centre + s * half) / (1 + slack) for s in (-1, 1)])
    assert wilson(0, 30).low == 0
    assert wilson(0, 30).high > 0.1


def test_the_share_of_pairs_has_the_spread_of_pairs() -> None:
    one_of_each = np.tile([1.0, 0.0], (2, 20))  # as a linear reward gives
    found = share(one_of_each, pairs=True)
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)
    alone = share(one_of_each, pairs=False)
    assert alone.low < 0.41
    both = np.tile([1.0, 1.0, 0.0, 0.0], (2, 10))  # as an even reward does
    assert share(both, pairs=True).low < alone.low


def test_the_bootstrap_of_a_mean_has_its_standard_error() -> None:
    values = np.random.default_rng(0).standard_normal((2, 100))
    again = resampled(values, lambda sets: sets.mean(axis=(1, 2)), replicates=2000)
    within = np.sqrt((values.std(axis=1) ** 2 / 100).sum()) / 2
    assert again.std() == pytest.approx(within, rel=0.06)
    found = bootstrapped(float(values.mean()), again)
    assert (found.low, found.high) == pytest.approx(values.mean() + Z * within * np.array([-1, 1]), abs=0.02)


def test_batches_and_pairs_stay_together() -> None:
    pairs = np.stack([np.arange(40.0), -np.arange(40.0)], axis=-1).reshape(2, 40)
    assert (resampled(pairs, lambda sets: sets.mean(axis=2), unit=2, replicates=50) == 0).all()
    batches = np.repeat([[1.0], [5.0]], 10, axis=1)
    again = resampled(batches, lambda sets: sets.mean(axis=2), replicates=50)
    assert (again == [1.0, 5.0]).all()


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    values = np.random.default_rng(1).standard_normal(50)
    without = leave_one_out(values, [1])
    assert jackknife_error(without)[0] == pytest.approx(values.std(ddof=1) / np.sqrt(50), rel=1e-10)


def _jackknife(values: np.ndarray, sizes: list[int]) -> np.ndarray:
    return np.sqrt((jackknife_error(leave_one_out(values, sizes)) ** 2).sum(axis=0)) / len(values)


def _bootstrap(values: np.ndarray, sizes: list[int]) -> np.ndarray:
    return resampled(values, lambda sets: best_of(sets, sizes).mean(axis=1), replicates=200).std(axis=0)


def _coverage(error: Callable[[np.ndarray, list[int]], np.ndarray], runs: int) -> np.ndarray:
    sizes, hits = [5, 30, 50], np.zeros(3)
    for seed in range(runs):
        changes = np.random.default_rng(seed).standard_normal((3, 240))
        apart = np.abs(best_of(changes, sizes).mean(axis=0) - expected_largest(sizes))
        hits += apart <= Z * error(changes, sizes)
    return hits / runs


def test_the_jackknife_of_best_of_n_covers_the_truth() -> None:
    assert (_coverage(_jackknife, 200) >= 0.90).all()  # 0.944, 0.954 and 0.940 of 500 runs


@pytest.mark.slow
def test_the_bootstrap_of_best_of_n_covers_less() -> None:
    assert _coverage(_bootstrap, 400)[2] < _coverage(_jackknife, 400)[2]
