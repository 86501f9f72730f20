"""What arms have forgotten, problem by problem: values from NumPy and SciPy."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from es_lightning.analysis.comparison.arms import Arm
from es_lightning.analysis.comparison.comparing import compare
from es_lightning.analysis.comparison.forgotten import forgotten
from es_lightning.analysis.comparison.runs import Evaluated, Run
from es_lightning.reports.comparison_files import numbers
from es_lightning.reports.comparison_tables import tables_of

EVALUATED = (Evaluated(0, "val", {"a": 0.0, "b": 0.5}), Evaluated(4, "val", {"a": 1.0, "b": 0.5}))
NAMES = [f"kinds/{index}" for index in range(30)]
GENERATOR = np.random.default_rng(0)
FIRST, OTHER = (GENERATOR.choice([-1.0, 0.0, 1.0], size=(2, 30)) for _ in range(2))


def run(name: str, changes: Any, names: list[str] = NAMES) -> Run:
    prior = {} if changes is None else {"kinds": dict(zip(names, map(float, changes), strict=True))}
    return Run(name, "ES", name, "Sums", {}, EVALUATED, prior=prior)


def arm(label: str, *runs: Run) -> Arm:
    return Arm(label, runs)


def test_a_single_run_has_the_paired_error_over_problems() -> None:
    found = forgotten([arm("es", run("0", FIRST[0])), arm("shuffled", run("1", OTHER[0]))])
    first, other = found["kinds"]
    assert first is not None
    assert other is not None
    assert first.versus is None
    assert first.change.estimate.value == pytest.approx(FIRST[0].mean())
    assert first.change.problems_error == pytest.approx(stats.sem(FIRST[0]))
    assert other.versus is not None
    between = stats.ttest_rel(OTHER[0], FIRST[0]).confidence_interval(0.95)
    assert (other.versus.estimate.low, other.versus.estimate.high) == pytest.approx(tuple(between))


def test_several_runs_have_errors_over_problems_and_over_seeds() -> None:
    [(first, _)] = forgotten(
        [
            arm("es", *(run(str(n), each) for n, each in enumerate(FIRST))),
            arm("shuffled", run("9", OTHER[0])),
        ]
    ).values()
    assert first is not None
    assert first.change.problems_error == pytest.approx(stats.sem(FIRST.mean(axis=0)))
    assert first.change.seeds_error == pytest.approx(stats.sem(FIRST.mean(axis=1)))


def test_problems_may_come_in_any_order_and_other_problems_are_not_compared() -> None:
    turned = run("1", OTHER[0][::-1], NAMES[::-1])
    straight = run("1", OTHER[0])
    one = forgotten([arm("es", run("0", FIRST[0])), arm("x", straight)])
    assert forgotten([arm("es", run("0", FIRST[0])), arm("x", turned)]) == one
    others = run("1", OTHER[0], [f"x/{index}" for index in range(30)])
    assert forgotten([arm("es", run("0", FIRST[0])), arm("x", others)]) == {}


def test_the_runs_that_were_measured_count() -> None:
    measured, other = arm("es", run("0", FIRST[0])), arm("x", run("2", OTHER[0]))
    with_more = arm("es", *measured.runs, run("1", None))
    assert forgotten([with_more, other]) == forgotten([measured, other])
    [(first, second)] = forgotten([arm("es", run("1", None)), other]).values()
    assert first is None
    assert second is not None
    assert second.versus is None


def test_the_report_has_a_row_for_each_task_and_arm() -> None:
    runs = [run("0", FIRST[0]), replace(run("1", OTHER[0]), method="GRPO")]
    found = compare(runs, [None, None])
    [table] = [each for each in tables_of(found) if each.title == "Forgetting, problem by problem"]
    assert [row[:3] for row in table.rows] == [["kinds", "ES", "1 of 1"], ["kinds", "GRPO", "1 of 1"]]
    assert table.rows[0][4] == "-"
    assert table.rows[1][4] != "-"
    assert "over the problems (30)" in table.notes[0]
    told = numbers(found)["forgotten"]["kinds"]
    assert told[0]["change"]["estimate"]["value"] == pytest.approx(FIRST[0].mean())
    assert told[1]["versus"]["estimate"]["value"] == pytest.approx(OTHER[0].mean() - FIRST[0].mean())
