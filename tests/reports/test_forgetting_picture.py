"""The line of the picture of forgetting is where chance ends, and the legend has the p-value."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy import stats

from es_lightning.analysis.course import course
from es_lightning.reports import plots
from es_lightning.reports.forgetting_picture import draw_accuracy


def test_the_bound_of_one_look_is_students_t() -> None:
    generator = np.random.default_rng(1)
    before, after = generator.random((2, 12))
    followed = course(before.tolist(), [after.tolist()])
    expected = before.mean() + stats.sem(after - before) * stats.t.ppf(0.05, 11)
    bound = followed.lowest_bound()
    assert bound is not None
    assert bound - before.mean() == pytest.approx(expected - before.mean(), rel=0.05)
    assert course([0.5], [[0.4]]).lowest_bound() is None


@pytest.mark.parametrize("fall", [0.0, 0.05, 0.1, 0.2])
def test_the_lowest_look_is_below_the_bound_where_p_is_below_5_percent(fall: float) -> None:
    generator = np.random.default_rng(2)
    looks = [(0.5 - fall + 0.1 * generator.standard_normal(20)).tolist() for _ in range(6)]
    followed = course([0.5] * 20, looks)
    bound, null = followed.lowest_bound(), followed.lowest_by_chance()
    assert bound is not None
    assert null is not None
    assert (followed.base + followed.changes.min() < bound) == (null[1] < 0.05)


def test_5_of_100_runs_that_forget_nothing_have_a_look_below_the_bound() -> None:
    below, runs = 0, 400
    for seed in range(runs):
        looks = np.random.default_rng(seed).standard_normal((9, 30))
        followed = course(looks[0].tolist(), looks[1:].tolist())
        bound = followed.lowest_bound()
        assert bound is not None
        below += looks.mean(axis=1).min() < bound
    assert stats.binomtest(below, runs, 0.05).pvalue > 0.001


def test_line_and_legend_are_those_of_the_rows() -> None:
    key = "prior/boolq_accuracy"
    rows = [
        {"generation": 0.0, key: 0.6, f"{key}_change": 0.0, f"{key}_minimum_p": 1.0, f"{key}_null_bound": 0.6}
    ]
    rows += [
        {
            "generation": float(at),
            key: 0.6 + change,
            f"{key}_change": change,
            f"{key}_change_se": 0.02,
            f"{key}_minimum_p": p_value,
            f"{key}_null_bound": 0.6 - bound,
        }
        for at, change, p_value, bound in [(1, -0.02, 0.21, 0.03), (2, -0.09, 0.0, 0.05)]
    ]
    figure: Figure
    figure, [axes] = plots.sheet("title")
    draw_accuracy(axes, rows, ["boolq"])
    lines = {str(line.get_label()): line for line in axes.lines}
    assert lines["boolq: lowest -9.0, p < 0.001"].get_ydata() == pytest.approx([0, -2, -9])
    assert lines["lowest look by chance, 5 % quantile"].get_ydata() == pytest.approx([0, -3, -5])
    draw_accuracy(figure.add_subplot(), rows[:2], ["boolq"])
    assert "boolq: lowest -2.0, p = 0.21" in {line.get_label() for line in figure.axes[-1].lines}
