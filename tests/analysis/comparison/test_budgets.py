"""Equal cost: hardly more than the budget, never anything that was not measured."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp

from es_lightning.analysis.comparison.budgets import SLACK, band, common_budget, last_within, nearest, spent
from es_lightning.analysis.comparison.runs import Evaluated, Run, curve_split
from es_lightning.records import Costs

STEPS = st.lists(st.tuples(st.integers(1, 50), st.floats(0, 1)), min_size=1, max_size=6)


def run(points: list[tuple[int, float]], split: str = "val") -> Run:
    """A run from what each evaluation has cost more than the one before, and its reward."""
    evaluations, cost = [], 0
    for step, (more, reward) in enumerate(points):
        evaluations.append(Evaluated(step, split, {"a": reward}, {}, Costs(rollouts=cost)))
        cost += more
    return Run("r", "ES", None, "T", {}, tuple(evaluations))


@given(st.lists(STEPS, min_size=2, max_size=4))
def test_the_budget_is_reached_by_all_and_no_evaluation_is_nearer(
    every: list[list[tuple[int, float]]],
) -> None:
    runs = [run(points) for points in every]
    budget = common_budget(runs, "rollouts", "val")
    assert budget in [each.on("val")[-1].cost.rollouts for each in runs]
    for each in runs:
        found = nearest(each.on("val"), "rollouts", budget)
        assert found is not None
        assert found.cost.rollouts <= budget * (1 + SLACK)
        allowed = [other for other in each.on("val") if other.cost.rollouts <= budget * (1 + SLACK)]
        distance = abs(found.cost.rollouts - budget)
        assert all(abs(other.cost.rollouts - budget) >= distance for other in allowed)


@pytest.mark.parametrize(("more", "reward"), [(0, 0.9), (1, 0.9), (5, 0.9), (6, 0.5)])
def test_a_run_that_costs_a_little_more_counts_with_its_end(more: int, reward: float) -> None:
    """Two runs of two steps: 100 rollouts in all, and a few more."""
    first, second = run([(50, 0.1), (50, 0.5), (0, 0.9)]), run([(50, 0.1), (50, 0.5), (0, 0.9)])
    costs = [replace(each.cost, rollouts=each.cost.rollouts + more) for each in second.evaluations]
    later = [replace(each, cost=cost) for each, cost in zip(second.evaluations, costs, strict=True)]
    budget = common_budget([first, replace(second, evaluations=tuple(later))], "rollouts", "val")
    found = nearest(later, "rollouts", budget)
    assert found is not None
    assert (budget, found.reward) == (100, reward)


@given(st.lists(STEPS, min_size=2, max_size=4))
def test_a_band_has_only_rewards_that_were_measured(every: list[list[tuple[int, float]]]) -> None:
    runs = [run(points) for points in every]
    found = band(runs, "rollouts", "val")
    assert found.costs[-1] == common_budget(runs, "rollouts", "val")
    for index, cost in enumerate(found.costs):
        rewards = [
            max((each.step, each.reward) for each in one.on("val") if each.cost.rollouts <= cost)[1]
            for one in runs
        ]
        assert found.mean[index] == pytest.approx(np.mean(rewards))
        if np.ptp(rewards) > 1e-6:
            expected = ttest_1samp(rewards, 0).confidence_interval()
            assert (found.low[index], found.high[index]) == pytest.approx((expected.low, expected.high))


def test_one_run_has_no_band_and_runs_that_never_meet_no_curve() -> None:
    alone = band([run([(5, 0.1), (5, 0.2)])], "rollouts", "val")
    assert alone.mean.tolist() == [0.1, 0.2]
    assert np.isnan(alone.low).all()
    late = Run("late", "ES", None, "T", {}, (Evaluated(9, "val", {"a": 1.0}, {}, Costs(rollouts=99)),))
    assert band([run([(1, 0.1)]), late], "rollouts", "val").costs.tolist() == []


def test_nothing_is_found_below_the_first_evaluation() -> None:
    late = [Evaluated(3, "val", {"a": 1.0}, {}, Costs(tokens=7))]
    assert last_within(late, "tokens", 6.0) is None
    assert nearest(late, "tokens", 6.0) is None
    assert last_within(late, "updates", 3.0) is late[0]
    assert [spent(late[0], axis) for axis in ("tokens", "updates")] == [7.0, 3.0]


def test_curves_are_of_validation_if_all_have_it() -> None:
    both = Run("b", "ES", None, "T", {}, (*run([(1, 0.5)]).evaluations, *run([(1, 0.5)], "test").evaluations))
    assert curve_split([both, run([(1, 0.5)])]) == "val"
    assert curve_split([both, run([(1, 0.5)], "test")]) == "test"
    assert curve_split([run([(1, 0.5)]), run([(1, 0.5)], "test")]) is None
