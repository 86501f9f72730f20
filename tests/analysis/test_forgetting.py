"""Paired changes and the lowest value with its null, against repeated experiments without forgetting."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm, t

from es_lightning.analysis.course import Course, course, mean_course
from es_lightning.analysis.forgetting import Look, measured, problem_table

PROBLEMS, LOOKS = 200, 20


@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=2))
def test_pairs_give_the_standard_error_of_their_differences(pairs: list[tuple[float, float]]) -> None:
    before, after = [a for a, _ in pairs], [b for _, b in pairs]
    found, differences = course(before, [after]), np.array(after) - np.array(before)
    assert found.changes[-1] == pytest.approx(differences.mean(), abs=1e-9)
    assert found.error() == pytest.approx(differences.std(ddof=1) / np.sqrt(len(pairs)), abs=1e-9)


def test_one_problem_has_a_change_and_no_standard_error() -> None:
    found = course([1.0], [[3.0]])
    assert (found.base, list(found.changes), found.error(), found.lowest_by_chance()) == (
        1,
        [0, 2],
        None,
        None,
    )
    assert measured({"x": Look(0, [1.0], None)}, {"x": [Look(1, [3.0], None)]}, []) == {
        "prior/x": 3.0,
        "prior/x_minimum": 1.0,
        "prior/x_change": 2.0,
        "prior/mean": 3.0,
    }


def test_the_lowest_of_twenty_independent_looks_is_187_standard_errors_down() -> None:
    """The figure that one gets with an accuracy of 0.6 on 1,000 problems is -0.029."""
    error = (0.6 * 0.4 / 1000) ** 0.5
    found = Course(0.6, np.zeros(21), np.diag([0.0, *[error**2] * 20]), 999).lowest_by_chance()
    assert found is not None
    x = np.linspace(-8, 8, 20001)
    expected = np.trapezoid(x * 20 * norm.pdf(x) * norm.sf(x) ** 19, x)  # E[min of 20 normals]
    assert expected == pytest.approx(-1.867, abs=0.001)
    assert found[0] - 0.6 == pytest.approx(expected * error, abs=0.001)
    assert found[0] - 0.6 == pytest.approx(-0.029, abs=0.001)


def test_a_single_look_has_the_p_value_of_the_paired_t_test() -> None:
    rng = np.random.default_rng(0)
    before, after = rng.normal(size=(2, 12))
    found = course(before.tolist(), [(after - 1).tolist()])
    chance = found.lowest_by_chance()
    assert chance is not None
    d = after - 1 - before
    assert chance[1] == pytest.approx(t.cdf(d.mean() / d.std(ddof=1) * 12**0.5, 11), abs=0.01)


def experiment(rng: Any, stays: float) -> Course:
    """Problems that each centre solves with the chance that the base model has; centres may be alike."""
    chance = rng.beta(1, 1, PROBLEMS)
    solved = [(rng.random(PROBLEMS) < chance) * 1.0]
    for _ in range(LOOKS):
        new = (rng.random(PROBLEMS) < chance) * 1.0
        solved.append(np.where(rng.random(PROBLEMS) < stays, solved[-1], new))
    return course(solved[0].tolist(), [each.tolist() for each in solved[1:]])


@pytest.mark.parametrize("stays", [0.0, 0.9], ids=["fresh luck at each look", "neighbours alike"])
def test_where_nothing_is_forgotten_the_lowest_is_that_of_its_null(stays: float) -> None:
    rng, lowest, nulls, p_values = np.random.default_rng(2), [], [], []
    for _ in range(300):
        found = experiment(rng, stays)
        chance = found.lowest_by_chance()
        assert chance is not None
        lowest.append(found.base + found.changes.min())
        nulls.append(chance[0])
        p_values.append(chance[1])
    spread = np.std(np.subtract(lowest, nulls)) / 300**0.5
    assert abs(np.mean(lowest) - np.mean(nulls)) < 3 * spread + 0.001
    assert np.mean(np.array(p_values) < 0.05) <= 0.05 + 3 * (0.05 * 0.95 / 300) ** 0.5
    assert np.mean(np.array(p_values) < 0.5) == pytest.approx(0.5, abs=0.1)
    assert np.mean(lowest) < 0.5 - 0.01, "which looks like forgetting"


def test_what_is_forgotten_for_a_while_is_found_though_the_last_centre_is_as_good_as_the_base() -> None:
    rng = np.random.default_rng(3)
    chance, found = rng.beta(1, 1, PROBLEMS), 0
    for _ in range(40):
        before = (rng.random(PROBLEMS) < chance) * 1.0
        looks = [(rng.random(PROBLEMS) < chance - (0.2 if 8 <= i < 12 else 0)) * 1.0 for i in range(LOOKS)]
        told = course(before.tolist(), [each.tolist() for each in looks]).lowest_by_chance()
        found += told is not None and told[1] < 0.05
    assert found >= 38


def test_the_mean_of_tasks_has_the_spread_of_repeated_experiments() -> None:
    rng, changes, errors = np.random.default_rng(4), [], []
    for _ in range(400):
        parts = []
        for size, chance in ((40, 0.3), (160, 0.7), (80, 0.5)):
            before, after = (rng.random((2, size)) < chance) * 1.0
            parts.append(course(before.tolist(), [after.tolist()]))
        found = mean_course(parts)
        changes.append(found.changes[-1])
        errors.append(found.error())
    assert np.mean(errors) == pytest.approx(np.std(changes), rel=0.1)
    assert abs(np.mean(changes)) < 3 * np.std(changes) / 20


def test_unlike_units_are_never_averaged() -> None:
    """A summed log-softmax, one per byte, and a share of problems solved."""
    sums = Look(0, [-12.0, -3.0], [0.0, 1.0]), Look(5, [-10.0, -4.0], [0.0, 1.0])
    per_byte = Look(0, [-0.4, -0.1], [0.0, 1.0]), Look(5, [-0.6, -0.2], [0.0, 0.0])
    solved = Look(0, [1.0, 0.0], [1.0, 0.0]), Look(5, [1.0, 1.0], [1.0, 1.0])
    found = measured({"a": sums[0], "b": per_byte[0]}, {"a": [sums[1]], "b": [per_byte[1]]}, [])
    assert "prior/mean" not in found
    assert found["prior/accuracy"] == pytest.approx((0.5 + 0.0) / 2)
    assert found["prior/accuracy_change"] == pytest.approx((0.0 - 0.5) / 2)
    assert found["prior/accuracy_change_se"] == pytest.approx(0.5 / 2), "sd 0.71 / sqrt 2, and none of a"
    alike = measured({"b": solved[0], "c": solved[0]}, {"b": [solved[1]], "c": [solved[1]]}, [])
    assert alike["prior/mean"] == alike["prior/accuracy"] == 1.0
    alone = measured({"a": sums[0]}, {"a": [sums[1]]}, [])
    assert alone["prior/mean"] == alone["prior/a"] == -7.0


def test_a_task_that_stops_saying_what_is_right_has_no_accuracy_any_more() -> None:
    graded = Look(0, [1.0, 0.0], [1.0, 0.0]), Look(5, [0.1, 1.0], None)
    found = measured({"a": graded[0]}, {"a": [graded[1]]}, [])
    assert not [name for name in found if "accuracy" in name]


def test_rewards_of_0_alone_do_not_tell_whether_they_are_shares() -> None:
    nothing = Look(0, [0.0, 0.0], [0.0, 0.0])
    assert "prior/a_accuracy" not in measured({"a": nothing}, {"a": []}, [])
    later = measured({"a": nothing}, {"a": [Look(5, [1.0, 0.0], [1.0, 0.0])]}, [])
    assert later["prior/a_accuracy_change"] == 0.5
    named = Look(0, [-3.0, -2.0], [0.0, 0.0], named=True)
    assert measured({"a": named}, {"a": []}, [])["prior/a_accuracy"] == 0.0


def test_problems_are_laid_out_one_by_one() -> None:
    base, later = Look(0, [1.0, 0.5], None), Look(5, [0.0, 0.5], None)
    found = problem_table({"a": ["p", "q"]}, {"a": base}, {"a": [later]})
    assert found == {
        "task": ["a"] * 4,
        "problem": ["p", "q", "p", "q"],
        "look": [0, 0, 1, 1],
        "generation": [0, 0, 5, 5],
        "reward": [1.0, 0.5, 0.0, 0.5],
        "solved": [None] * 4,
    }
