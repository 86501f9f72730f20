"""What is read of a run's folder, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from es_lightning.analysis.comparison.agreement import check_agreement
from es_lightning.analysis.comparison.folder import read_run
from es_lightning.errors import UsageError
from tests.helpers.compared_runs import HEADER, MACHINE, baseline_folder, config, evaluation, fit_folder

SCORES = {"reward": 0.75, "accuracy": 0.5}
CURVE = [evaluation(0, [0.0, 0.5]), evaluation(4, [0.5, 1.0], scores=SCORES, solved=[0, 1])]
TABLES: dict[str, Any] = {
    "update_geometry.json": {
        "generation": 4,
        "metrics": {
            "geometry/norm": 2.0,
            "geometry/norm_relative": 0.01,
            "geometry/sparsity_1e-6": 0.25,
            "geometry/sparsity_1e-6_tensors": 0.3,
            "geometry/max_change": 1.0,
        },
        "history": [{"generation": 4, "norm": 2.0}],
    },
    "kl_drift.json": {
        "rows": [
            {"generation": 4.0, "kl_base_tuned/Sums": 0.2, "kl_base_tuned/Sums_se": 0.01},
            {"generation": 8.0},
        ]
    },
    "forgetting.json": {
        "boolq": {"change": -0.1, "change_se": 0.02},
        "gsm8k": {"change": 0.0, "change_se": None},
    },
}


ANALYSIS: dict[str, Any] = {
    "task": "Sums",
    "centre_checksum": "c0ffee",
    "geometry": {"metrics": {"geometry/norm": 3.0, "geometry/norm_relative": 0.02, "geometry/max_change": 1}},
    "divergence": {"prompts": 5, "kl_tuned_base": 0.4, "kl_tuned_base_se": 0.1},
    "forgetting": {"piqa": {"base": 0.5, "final": 0.25, "change": -0.25, "change_se": 0.1}},
}


@pytest.mark.parametrize("is_of_final_model", [True, False])
def test_an_analysis_of_its_final_model_stands_in_for_callbacks(
    tmp_path: Path, is_of_final_model: bool
) -> None:
    folder = fit_folder(tmp_path / "es", CURVE)
    checksum = "c0ffee" if is_of_final_model else "another"
    (folder / "summary.json").write_text(json.dumps({"centre_checksum": checksum}))
    (folder / "analysis.json").write_text(json.dumps(ANALYSIS))
    run = read_run(folder)
    assert run.series == ({"kl_tuned_base/Sums": [(4, 0.4)]} if is_of_final_model else {})
    assert run.finals == ({"norm": 3.0, "norm_relative": 0.02} if is_of_final_model else {})
    assert run.forgotten == ({"piqa": (-0.25, 0.1)} if is_of_final_model else {})
    assert run.prior == {}


def test_accuracy_tells_what_was_forgotten_where_a_task_has_one(tmp_path: Path) -> None:
    folder = fit_folder(tmp_path / "es", CURVE)
    (folder / "summary.json").write_text(json.dumps({"centre_checksum": "c0ffee"}))
    row = {"change": 0.5, "change_se": 0.1, "accuracy": {"change": -0.5, "change_se": 0.2}}
    tasks = {"kinds": row | {"by_problem": {"b": -1.0, "a": 0.0}}, "boolq": {"change": 0.25}}
    (folder / "analysis.json").write_text(json.dumps(ANALYSIS | {"forgetting": tasks}))
    run = read_run(folder)
    assert run.forgotten["kinds"] == (-0.5, 0.2)
    assert run.forgotten["boolq"][0] == 0.25
    assert run.prior == {"kinds": {"b": -1.0, "a": 0.0}}


def test_what_callbacks_have_measured_is_taken_first(tmp_path: Path) -> None:
    folder = fit_folder(tmp_path / "es", CURVE, tables=TABLES)
    (folder / "summary.json").write_text(json.dumps({"centre_checksum": "c0ffee"}))
    (folder / "analysis.json").write_text(json.dumps(ANALYSIS))
    run = read_run(folder)
    assert (run.finals["norm"], run.forgotten["boolq"]) == (2.0, (-0.1, 0.02))
    assert run.series["kl_base_tuned/Sums"] == [(4, 0.2)]
    assert "piqa" not in run.forgotten
    (folder / "analysis.json").write_text('{"centre_checksum": "c0ffee", "divergence": 3}')
    with pytest.raises(UsageError, match="analysis.json is damaged"):
        read_run(folder)


def test_a_fit_is_its_journal_evaluations_tables_and_config(tmp_path: Path) -> None:
    folder = fit_folder(tmp_path / "es", CURVE, config(seed_everything=3), [0.1, 0.2], [0.3, 0.4], TABLES)
    run = read_run(folder)
    assert (run.method, run.seed, run.task, run.machine) == ("ES", "3", "Sums", MACHINE)
    assert [(each.step, each.split, each.reward) for each in run.evaluations] == [
        (0, "val", 0.25),
        (4, "val", 0.75),
    ]
    assert run.evaluations[1].rewards == {"sums/val/0": 0.5, "sums/val/1": 1.0}
    assert run.evaluations[1].spent("tokens") == 4000
    assert run.evaluations[1].scores["accuracy"] == 0.5
    assert [each.solved for each in run.evaluations] == [{}, {"sums/val/0": 0.0, "sums/val/1": 1.0}]
    assert run.series == {
        "reward": [(0, 0.1), (1, 0.2)],
        "reward/accuracy": [(0, 0.3), (1, 0.4)],
        "norm": [(1, 0.5), (2, 1.0)],
        "kl_base_tuned/Sums": [(4, 0.2)],
    }
    assert run.finals == {"norm": 2.0, "norm_relative": 0.01, "sparsity_1e-6": 0.25}
    assert run.forgotten["boolq"] == (-0.1, 0.02)
    assert run.forgotten["gsm8k"] == (0.0, pytest.approx(float("nan"), nan_ok=True))
    assert run.settings["model.sigma"] == 0.001
    assert "seed_everything" not in run.settings


def test_a_baseline_is_its_updates(tmp_path: Path) -> None:
    updates = [
        {
            "reward/mean": 0.1,
            "reward/std": 1.0,
            "reward/accuracy": 0.2,
            "train/kl": 0.0,
            "cost/peak_bytes": 2.0,
        },
        {
            "reward/mean": 0.3,
            "reward/std": 1.0,
            "reward/accuracy": 0.4,
            "train/kl": 0.5,
            "cost/peak_bytes": 3.0,
        },
    ]
    run = read_run(baseline_folder(tmp_path / "rl", CURVE, updates, beta=0.1, method="dr_grpo"))
    assert (run.method, run.machine) == ("Dr. GRPO", MACHINE)
    assert run.series == {
        "reward": [(0, 0.1), (1, 0.3)],
        "reward/accuracy": [(0, 0.2), (1, 0.4)],
        "kl_tuned_base_k3/training": [(0, 0.0), (1, 0.5)],
    }
    assert run.finals == {"peak_bytes": 3.0}
    # Without a price of the divergence nobody has measured one, and TRL's 0 is no number.
    free = read_run(baseline_folder(tmp_path / "free", CURVE, updates))
    assert "kl_tuned_base_k3/training" not in free.series


def test_a_run_without_a_config_has_the_settings_of_its_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = {"model.sigma": 0.5, "model.seed": 4, "data.seed": 4, "data.task": "Sums"}
    monkeypatch.setitem(HEADER, "identity", identity)
    folder = fit_folder(tmp_path / "es", CURVE)
    (folder / "config.yaml").unlink()
    run = read_run(folder)
    assert (run.seed, run.settings["model.sigma"]) == ("4", 0.5)
    assert "model.seed" not in run.settings


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("evaluations.jsonl", '{"step": 0}\n{"step": 1}\n', "line 1"),
        ("evaluations.jsonl", "", "holds no evaluation yet"),
        ("evaluations.jsonl", None, "has no evaluations.jsonl"),
        ("journal.jsonl", None, "has no journal.jsonl and no updates.jsonl"),
        ("journal.jsonl", "[]\n", "is no journal"),
        ("config.yaml", "a: [", "is damaged"),
        ("tables/update_geometry.json", '{"history": [3]}', "holds no such table"),
        ("tables/kl_drift.json", '{"rows": 3}', "holds no such table"),
        ("tables/forgetting.json", "[1]", "holds no such table"),
    ],
)
def test_what_cannot_be_read_is_named_in_one_sentence(
    tmp_path: Path, file: str, text: str | None, words: str
) -> None:
    folder = fit_folder(tmp_path / "es", CURVE, tables=TABLES)
    (folder / file).unlink() if text is None else (folder / file).write_text(text)
    with pytest.raises(UsageError, match=words) as caught:
        read_run(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_a_path_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no folder"):
        read_run(tmp_path / "none")


OTHER_TASK = config(**{"data.task": {"class_path": "es_lightning.tasks.Sums", "init_args": {"digits": 3}}})


@pytest.mark.parametrize(
    ("evaluations", "settings", "words"),
    [
        (CURVE, OTHER_TASK, "differ in data.task.digits, 2 and 3"),
        ([evaluation(0, [0.5])], None, "different val problems: .*first has sums/val/1"),
        ([evaluation(0, [0.5, 0.5, 1.0])], None, "second has sums/val/2"),
        ([*CURVE, evaluation(9, [0.5], prompts=["x/1"])], None, "second has x/1|first has sums"),
    ],
)
def test_runs_of_other_tasks_or_problems_are_refused(
    tmp_path: Path, evaluations: Any, settings: Any, words: str
) -> None:
    first = read_run(fit_folder(tmp_path / "first", CURVE), "first")
    check_agreement([first, read_run(fit_folder(tmp_path / "same", CURVE), "same")])
    second = read_run(fit_folder(tmp_path / "second", evaluations, settings), "second")
    with pytest.raises(UsageError, match=words):
        check_agreement([first, second])


def test_runs_of_tasks_with_other_names_are_refused(tmp_path: Path) -> None:
    first = read_run(fit_folder(tmp_path / "first", CURVE), "first")
    other = fit_folder(tmp_path / "second", CURVE)
    (other / "summary.json").write_text('{"task": "Countdown"}')
    with pytest.raises(UsageError, match="first is of the task Sums and second of Countdown"):
        check_agreement([first, read_run(other, "second")])


@pytest.mark.parametrize(
    "text", ["", "{}\n", '{"baseline": {}}\n{"reward/mean": "x", "update": 1}\n', "[1]\n"]
)
def test_damaged_updates_are_named_in_one_sentence(tmp_path: Path, text: str) -> None:
    folder = baseline_folder(tmp_path / "rl", CURVE)
    (folder / "updates.jsonl").write_text(text)
    with pytest.raises(UsageError, match=r"updates.jsonl is damaged") as caught:
        read_run(folder)
    assert "\n" not in str(caught.value)
