"""The numbers of a comparison against those that are computed anew from the files' lines."""

import json
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev

import pytest
from scipy.stats import ttest_1samp, ttest_rel

from es_lightning.analysis.comparison.comparing import Comparison, compare
from es_lightning.analysis.comparison.folder import read_run
from es_lightning.errors import UsageError
from es_lightning.reports.comparison_page import lines as said
from es_lightning.reports.comparison_tables import budget_table, stability_table
from tests.helpers.compared_runs import MACHINE, baseline_folder, config, evaluation, fit_folder

DEAR = {"rollouts": 600, "tokens": 100, "seconds": 7.0, "flops": 1e9}


def curve(offset: float, steps: int = 3) -> list[dict[str, object]]:
    """A test before and after, and validations of 4 problems between."""
    rows = [
        evaluation(step, [round(offset + 0.1 * step + 0.01 * n * (step + 1), 6) for n in range(4)])
        for step in range(steps)
    ]
    ends = [evaluation(step, [offset, offset + 0.07 * step, offset + 0.1], "test") for step in (0, steps - 1)]
    return [ends[0], *rows, ends[1]]


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    made = [
        fit_folder(tmp_path / f"es{seed}", curve(0.3 + 0.05 * seed**2), config(seed_everything=seed))
        for seed in range(3)
    ]
    rows = [evaluation(step, [0.2 + 0.02 * step, 0.4, 0.1, 0.3], each=DEAR) for step in range(4)]
    rows += [evaluation(step, [0.2, 0.3, 0.1 * step], "test", each=DEAR) for step in (0, 3)]
    return [*made, baseline_folder(tmp_path / "rl", rows)]


@pytest.fixture
def found(folders: list[Path]) -> Comparison:
    return compare([read_run(folder) for folder in folders], [None] * 4)


def lines(folder: Path, split: str) -> list[dict[str, object]]:
    every = [json.loads(line) for line in (folder / "evaluations.jsonl").read_text().splitlines()]
    return [each for each in every if each["split"] == split]


def test_arms_axes_and_split(found: Comparison) -> None:
    assert [(arm.label, arm.seeds) for arm in found.arms] == [("ES", 3), ("GRPO", 1)]
    assert found.split == "val"
    assert [at.axis for at in found.budgets] == ["rollouts", "tokens", "seconds", "flops", "updates"]


@pytest.mark.parametrize(
    ("axis", "budget", "ours", "theirs"),
    [("rollouts", 480, 2, 0), ("tokens", 300, 0, 3), ("seconds", 5.0, 2, 0)],
)
def test_rewards_at_equal_cost(
    folders: list[Path], found: Comparison, axis: str, budget: float, ours: int, theirs: int
) -> None:
    """Fits end at 480 rollouts, 2000 tokens, 5 s; the baseline at 1800, 300 and 21 s."""
    [at] = [each for each in found.budgets if each.axis == axis]
    assert at.budget == budget
    assert [each.step for each in at.reached[0].evaluations] == [ours] * 3
    assert [each.step for each in at.reached[1].evaluations] == [theirs]
    tables = [[lines(folder, "val")[ours]["rewards"] for folder in folders[:3]]]
    tables.append([lines(folders[3], "val")[theirs]["rewards"]])
    means = [fmean(row) for row in tables[0]]
    assert at.reached[0].reward.value == pytest.approx(fmean(means))
    interval = ttest_1samp(means, 0).confidence_interval()
    assert at.reached[0].reward.low == pytest.approx(interval.low)
    versus = at.reached[1].versus
    assert versus is not None
    assert versus.estimate.value == pytest.approx(fmean(tables[1][0]) - fmean(means))
    per_problem = [fmean(column) for column in zip(*tables[0], strict=True)]
    paired = ttest_rel(tables[1][0], per_problem)
    assert versus.problems_error == pytest.approx(versus.estimate.value / paired.statistic)
    assert versus.seeds_error == pytest.approx(stdev(means) / 3**0.5)
    assert at.reached[0].versus is None


def test_a_test_reward_is_that_of_the_same_model_or_none(found: Comparison) -> None:
    by_axis = {each.axis: each for each in found.budgets}
    ours, theirs = by_axis["rollouts"].test
    assert ours is not None
    assert ours.reward.value == pytest.approx(fmean(0.3 + 0.05 * s**2 + (0.14 + 0.1) / 3 for s in range(3)))
    assert theirs is not None
    assert theirs.reward.value == pytest.approx(0.5 / 3)
    assert theirs.versus is not None
    tokens = by_axis["updates"].test
    assert tokens[0] is not None
    assert tokens[1] is None, "the baseline was not tested after 2 updates"


def test_the_end_is_the_last_test_of_each_run(found: Comparison) -> None:
    split, ends = found.ends
    assert split == "test"
    assert [each.step for each in ends[0].evaluations] == [2, 2, 2]
    assert ends[1].reward.value == pytest.approx(fmean([0.2, 0.3, 0.3]))


def test_a_stopped_run_that_has_tested_its_base_alone_ends_with_its_validation(tmp_path: Path) -> None:
    whole = fit_folder(tmp_path / "whole", curve(0.3), config(seed_everything=0))
    stopped = fit_folder(tmp_path / "stopped", curve(0.5)[:-1], config(seed_everything=1))
    split, ends = compare([read_run(whole), read_run(stopped)], ["whole", "stopped"]).ends
    assert split == "val"
    assert [each.evaluations[0].step for each in ends] == [2, 2]


def test_a_test_of_other_weights_at_the_same_update_does_not_count(tmp_path: Path) -> None:
    """EarlyPeak puts the peak back after the last validation, and then the test is made."""
    rows = [evaluation(2, [0.1] * 4, centre="fallen"), evaluation(2, [0.9] * 3, "test", centre="peak")]
    back = fit_folder(tmp_path / "back", [evaluation(0, [0.2] * 3, "test"), *rows], config(seed_everything=0))
    other = fit_folder(tmp_path / "other", curve(0.3), config(seed_everything=1))
    found = compare([read_run(back), read_run(other)], ["back", "other"])
    ours, theirs = next(each for each in found.budgets if each.axis == "updates").test
    assert ours is None
    assert theirs is not None
    assert found.ends[1][0].reward.value == pytest.approx(0.9)


def test_stability_is_of_the_last_validations(folders: list[Path], found: Comparison) -> None:
    last = [fmean(lines(folder, "val")[-1]["rewards"]) for folder in folders[:3]]
    ours, theirs = found.stability
    assert (ours.worst, ours.best) == pytest.approx((min(last), max(last)))
    assert ours.deviation == pytest.approx(stdev(last))
    assert (ours.below_start, ours.largest_fall) == (0, 0.0)
    assert theirs.below_start == 0


def test_a_run_that_falls_from_its_best_is_counted(tmp_path: Path) -> None:
    rows = [evaluation(step, [reward] * 4) for step, reward in enumerate([0.5, 0.9, 0.4])]
    runs = [read_run(fit_folder(tmp_path / str(n), rows, config(seed_everything=n))) for n in range(2)]
    [stable] = compare(runs, [None, None]).stability
    assert (stable.below_start, stable.largest_fall) == (2, pytest.approx(0.5))


def test_a_start_is_the_model_before_its_first_update_and_else_it_is_named(tmp_path: Path) -> None:
    """A fit is validated after some generations and tested before them; a baseline is validated before it."""
    fallen = [evaluation(step, [reward] * 4) for step, reward in ((2, 0.3), (4, 0.4))]
    tests = [evaluation(step, [reward] * 3, "test") for step, reward in ((0, 0.8), (4, 0.4))]
    rows = {"tested": [tests[0], *fallen, tests[1]], "half": [tests[0], *fallen], "untested": fallen}
    folders = [
        fit_folder(tmp_path / name, each, config(seed_everything=n))
        for n, (name, each) in enumerate(rows.items())
    ]
    policy = [evaluation(0, [0.6] * 4), *fallen, *tests]
    folders.append(baseline_folder(tmp_path / "rl", policy))
    runs = [read_run(folder, folder.name) for folder in folders]
    found = compare(runs, ["tested", "half", "untested", "rl"])
    assert [each.below_start for each in found.stability] == [1, 0, 0, 1]
    assert [each.largest_fall for each in found.stability] == pytest.approx([0, 0, 0, 0.2])
    table = stability_table(found)
    assert table.notes[-1] == "Without such an evaluation the start is the first validation: half, untested."
    alone = compare([runs[0], runs[3]], ["tested", "rl"])
    assert len(stability_table(alone).notes) == 1


def test_an_arm_without_a_test_at_equal_cost_is_told_of(found: Comparison) -> None:
    tables = {each.axis: budget_table(found, each) for each in found.budgets}
    said_of = "others at their two ends alone. Elsewhere the validation reward is the held-out reward"
    assert said_of in " ".join(tables["updates"].notes)
    assert said_of not in " ".join(tables["rollouts"].notes)


def test_an_axis_on_which_runs_never_meet_is_left_out_and_named(tmp_path: Path, folders: list[Path]) -> None:
    slow = {"rollouts": 240, "tokens": 1000, "seconds": 90.0, "flops": 1e9}
    rows = [evaluation(step, [0.1] * 4, each=slow) for step in (1, 2)]
    late = fit_folder(tmp_path / "late", rows, config(seed_everything=9))
    found = compare([read_run(folders[0]), read_run(late)], [None, None])
    assert [at.axis for at in found.budgets] == ["rollouts", "tokens", "flops", "updates"]
    assert list(found.apart) == ["seconds"]
    reason = "late had already cost 90 seconds at its first val evaluation, more than another run in all (5)"
    assert found.apart["seconds"].endswith(reason)
    assert any(line.startswith("Nothing at equal seconds: ") for line in said(found))


def test_that_seconds_are_of_different_machines_is_said(folders: list[Path]) -> None:
    runs = [read_run(folder) for folder in folders]
    assert not any("machines" in line for line in said(compare(runs, [None] * 4)))
    other = [*runs[:3], replace(runs[3], machine="8 x H200, 2,000 GiB")]
    told = said(compare(other, [None] * 4))
    assert f"At equal seconds machines are compared as well: {MACHINE}; 8 x H200, 2,000 GiB." in told
    unknown = [replace(runs[0], machine=""), *runs[1:]]
    told = said(compare(unknown, [None] * 4))
    assert f"At equal seconds machines are compared as well: one that is not known; {MACHINE}." in told


def test_what_cannot_be_compared_is_refused(tmp_path: Path, folders: list[Path]) -> None:
    with pytest.raises(UsageError, match="give the folders of two runs"):
        compare([read_run(folders[0])], [None])
    late = fit_folder(tmp_path / "late", [evaluation(9, [0.1] * 4)], config(seed_everything=9))
    with pytest.raises(UsageError, match=r"late had already cost 2,160 rollouts at its first val evaluation"):
        compare([read_run(folders[0]), read_run(late)], [None, None])
    tested = fit_folder(
        tmp_path / "tested", [evaluation(0, [0.1, 0.1, 0.1], "test")], config(seed_everything=8)
    )
    (folders[0] / "evaluations.jsonl").write_text(json.dumps(evaluation(0, [0.1] * 4)) + "\n")
    with pytest.raises(UsageError, match="tested has no validation"):
        compare([read_run(folders[0]), read_run(tested)], [None, None])
