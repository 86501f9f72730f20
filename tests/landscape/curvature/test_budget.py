"""Correlations with their intervals, and the rows of eigenvalues that stand out of sampling noise."""

import numpy as np
import pytest
from scipy.stats import binom, pearsonr

from es_lightning.landscape.curvature.budget import (
    agreement_interval,
    explained_share,
    needed_rows,
    seen_rows,
)
from es_lightning.landscape.curvature.edge import SamplingNoise, needed_seeds
from es_lightning.landscape.curvature.lanczos import Krylov


def test_the_interval_is_that_of_scipy() -> None:
    one, other = np.random.default_rng(0).standard_normal((2, 30))
    found, known = agreement_interval(one, other + one), pearsonr(one, other + one)
    assert found.value == pytest.approx(known.statistic)
    assert (found.low, found.high) == pytest.approx(tuple(known.confidence_interval(0.95)))
    assert np.isnan(agreement_interval(one, np.zeros(30)).low)


def test_a_reward_in_steps_is_covered_too() -> None:
    generator = np.random.default_rng(1)

    def pair(count: int) -> tuple[np.ndarray, np.ndarray]:
        dense, other = generator.standard_normal((2, count))
        return dense, np.trunc(0.9 * (0.3 * dense + 0.95 * other))  # most changes are 0

    truth = np.corrcoef(*pair(400_000))[0, 1]
    found = [agreement_interval(*pair(64)) for _ in range(300)]
    assert sum(not each.low <= truth <= each.high for each in found) <= binom.ppf(0.999, 300, 0.06)


def test_the_share_of_a_correlation_of_either_sign_begins_at_0() -> None:
    either = explained_share(agreement_interval(np.arange(8.0), np.array([1.0, -1, 1, -1, 1, -1, 2, -1])))
    assert either.low == 0 < either.value < either.high
    one, other = np.random.default_rng(2).standard_normal((2, 64))
    opposite = agreement_interval(one, other - 3 * one)
    share = explained_share(opposite)
    assert (share.low, share.value, share.high) == pytest.approx(
        (opposite.high**2, opposite.value**2, opposite.low**2)
    )


def test_rows_tell_what_is_seen_and_where_the_edge_is() -> None:
    krylov = Krylov(np.diag([-9.0, 5.0, 0.5, 8.0]), 40, rest=6.0)  # 8 has not converged
    noise = SamplingNoise(-2.0, 110.0, 48)
    rows = seen_rows("common seeds", krylov, noise)
    assert [row["value"] for row in rows] == [-9, 8, 5, 0.5]
    assert [row["seen"] for row in rows] == [True, False, True, False]
    low, high = noise.edges
    assert all((row["edge_low"], row["edge_high"]) == (low, high) for row in rows)
    first = rows[0]
    assert first["corrected"] + first["bias"] == pytest.approx(-9)
    assert rows[1]["corrected"] is None
    turned = krylov.projection + 9 * (np.eye(4, k=1) - np.eye(4, k=-1))
    assert not any(row["seen"] for row in seen_rows("", Krylov(turned, 40, rest=6.0), noise))
    assert seen_rows("", krylov, SamplingNoise(0.0, float("nan"), 48))[0]["edge_low"] is None


def test_rows_of_the_seeds_that_are_needed_count_both_sides_of_a_step() -> None:
    rows = needed_rows(np.array([-3.0, 2.0]), 20.0)
    assert [row["seeds"] for row in rows] == [needed_seeds(-3.0, 20.0), needed_seeds(2.0, 20.0)]
    assert [row["evaluations_per_step"] for row in rows] == [2 * row["seeds"] for row in rows]
