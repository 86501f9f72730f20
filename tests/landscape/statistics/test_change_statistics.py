"""The changes of one sigma: exact zeros, shares and quantiles of landscapes with known answers."""

import numpy as np
import pytest
from scipy.stats import norm

from es_lightning.landscape.statistics.change_statistics import change_statistics, mean_changes


def test_an_equal_sum_in_another_order_is_no_change() -> None:
    centre = np.array([0.1, 0.2, 0.3, 0.7, 0.15])
    same = np.array([0.7, 0.15, 0.1, 0.3, 0.2])
    changes = mean_changes(np.stack([same, centre, same + [0, 0, 0, 0, 1e-6]]), centre)
    assert changes[0] == changes[1] == 0
    assert changes[2] == pytest.approx(2e-7)


def test_zeros_are_neither_gains_nor_losses() -> None:
    changes = np.array([[0.0, 0.0, 0.25, -0.25, 0.5, 0.0, -0.125, 0.0]])
    found = change_statistics(changes)
    assert found.zeros == 0.5
    assert found.improve.value == 0.25
    assert found.mean.value == pytest.approx(changes.mean())
    assert found.quantiles[0.5].value == 0


def test_normal_changes_have_their_share_mean_and_quantiles() -> None:
    changes = np.random.default_rng(0).normal(-0.25, 1.0, (5, 1000))
    found = change_statistics(changes)
    for estimate, truth in (
        (found.improve, norm.cdf(-0.25)),
        (found.improve_batches, norm.cdf(-0.25)),
        (found.mean, -0.25),
        (found.mean_batches, -0.25),
        (found.quantiles[0.95], norm.ppf(0.95) - 0.25),
        (found.quantiles[0.05], norm.ppf(0.05) - 0.25),
    ):
        assert estimate.low < truth < estimate.high
        assert estimate.low < estimate.value < estimate.high
        assert estimate.high - estimate.low < 0.25
    assert found.deviation == pytest.approx(1, rel=0.05)


def test_a_linear_reward_improves_one_of_each_pair() -> None:
    slopes = np.random.default_rng(1).standard_normal((2, 50))
    changes = np.stack([slopes, -slopes], axis=-1).reshape(2, 100)
    found = change_statistics(changes, pairs=True)
    assert (found.improve.value, found.improve.low, found.improve.high) == (0.5, 0.5, 0.5)
    assert found.mean.low == pytest.approx(0, abs=1e-12)
    assert change_statistics(changes).mean.low < -0.05  # as if they were independent
