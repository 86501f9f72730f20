"""Differences between arms: against closed forms, SciPy, and coverage where the truth is known."""

import numpy as np
import pytest
from scipy.stats import ttest_rel

from es_lightning.analysis.comparison.differences import difference


def test_with_one_seed_each_it_is_the_paired_t_test_over_problems() -> None:
    one, other = np.random.default_rng(0).random((2, 1, 12))
    found, expected = difference(one, other), ttest_rel(one[0], other[0]).confidence_interval()
    assert found.estimate.value == pytest.approx((one - other).mean())
    assert (found.estimate.low, found.estimate.high) == pytest.approx((expected.low, expected.high))
    assert np.isnan(found.seeds_error)
    assert found.estimate.how == "t over 12 problems"


def test_problems_and_seeds_add_up_with_satterthwaites_freedom() -> None:
    one = np.array([[0.1, 0.5, 0.9], [0.3, 0.5, 1.0]])
    other = np.array([[0.0, 0.2, 0.4], [0.2, 0.1, 0.6], [0.1, 0.1, 0.5]])
    found = difference(one, other)
    paired = one.mean(axis=0) - other.mean(axis=0)
    parts = [paired.var(ddof=1) / 3, one.mean(axis=1).var(ddof=1) / 2, other.mean(axis=1).var(ddof=1) / 3]
    assert found.problems_error**2 == pytest.approx(parts[0])
    assert found.seeds_error**2 == pytest.approx(parts[1] + parts[2])
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / 2 + parts[1] ** 2 / 1 + parts[2] ** 2 / 2)
    from scipy.stats import t

    half = t.ppf(0.975, freedom) * np.sqrt(sum(parts))
    assert found.estimate.high - found.estimate.value == pytest.approx(half)
    assert (found.problems, found.seeds) == (3, (2, 3))
    assert found.estimate.how == "t over 3 problems and 2 and 3 seeds"


def test_what_all_seeds_and_problems_agree_on_is_certain_and_one_number_is_not() -> None:
    same = difference(np.full((2, 4), 0.75), np.full((2, 4), 0.25)).estimate
    assert (same.low, same.value, same.high) == (0.5, 0.5, 0.5)
    alone = difference(np.ones((1, 1)), np.zeros((1, 1))).estimate
    assert alone.value == 1
    assert np.isnan([alone.low, alone.high]).all()


@pytest.mark.parametrize(("problems", "seeds", "own"), [(0.3, 0.05, 0.2), (0.02, 0.2, 0.1), (0.3, 0.0, 0.3)])
def test_the_interval_covers_the_truth(problems: float, seeds: float, own: float) -> None:
    """Rewards are problem + seed + what is peculiar to both, in either arm; the true difference is 0.1."""
    rng, hits, runs = np.random.default_rng(1), 0, 400
    for _ in range(runs):
        hard = rng.normal(0, 1, 20)  # the same problems for both: they cancel
        helped = rng.normal(0, problems, 20)
        tables = [
            hard + effect + rng.normal(0, seeds, (4, 1)) + rng.normal(0, own, (4, 20))
            for effect in (0.1 + helped, 0.0)
        ]
        found = difference(*tables).estimate
        hits += found.low <= 0.1 <= found.high
    assert hits / runs >= 0.93  # 0.95 with a margin of two standard errors
