"""What a run is worth, the median rule, and a study that was cut off in the middle of a line."""

import importlib.util
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from es_lightning.errors import UsageError
from es_lightning.journal.evaluations import EVALUATIONS, RecordedEvaluation
from es_lightning.records import Costs
from es_lightning.reports.sweep_picture import sweep_picture
from es_lightning.sweeps.objective import STRIDE, intermediate, mean_and_error, read_points, worth
from es_lightning.sweeps.process import FitProcess
from es_lightning.sweeps.results import best_row, trial_rows
from es_lightning.sweeps.settings import SweepSettings, read_settings
from es_lightning.sweeps.store import STUDY, TrialStore
from es_lightning.sweeps.trial import ActiveTrial

needs_optuna = pytest.mark.skipif(
    importlib.util.find_spec("optuna") is None, reason="Optuna is not installed: es-lightning[sweep]"
)
REWARD = st.floats(-1e6, 1e6)


def settings(folder: Path, **changes: Any) -> SweepSettings:
    given = {"config": "a.yaml", "space": {"model.sigma": [0.1, 0.2, 0.3]}, "output": str(folder)}
    return read_settings(given | changes, "mine.yaml")


def write_evaluations(folder: Path, rewards: dict[int, float], split: str = "val") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    costs = Costs(rollouts=1, tokens=1, seconds=1.0, flops=1.0)
    with (folder / EVALUATIONS).open("a") as file:
        for step, reward in rewards.items():
            scores = {"reward": reward, "accuracy": reward / 2}
            row = RecordedEvaluation(step, split, ("a",), (reward,), scores, 1, costs, (), f"{step}")
            file.write(row.line() + "\n")


# What a run is worth


def test_the_validations_of_a_run_are_read_without_that_of_the_base_model(tmp_path: Path) -> None:
    assert read_points(tmp_path, "val/reward") == []
    write_evaluations(tmp_path, {0: 9.0}, "val")
    write_evaluations(tmp_path, {0: 9.0}, "test")
    write_evaluations(tmp_path, {2: 0.5, 4: 0.25})
    assert read_points(tmp_path, "val/reward") == [(2, 0.5), (4, 0.25)]
    assert read_points(tmp_path, "val/accuracy") == [(2, 0.25), (4, 0.125)]
    with pytest.raises(UsageError, match="the validations have val/accuracy, val/reward"):
        read_points(tmp_path, "val/speed")


@given(st.lists(REWARD, min_size=2, max_size=6))
def test_mean_and_standard_error_are_those_of_scipy(values: list[float]) -> None:
    mean, error = mean_and_error(values)
    assert mean == pytest.approx(np.mean(values), abs=1e-6)
    assert error == pytest.approx(stats.sem(values), abs=1e-6)


def test_one_seed_has_no_standard_error() -> None:
    assert mean_and_error([0.5])[0] == 0.5
    assert math.isnan(mean_and_error([0.5])[1])


@given(
    st.lists(REWARD, max_size=3), st.lists(REWARD, min_size=1, max_size=5), st.sampled_from(["last", "best"])
)
def test_the_last_intermediate_value_is_the_objective_so_far(
    done: list[float], rewards: list[float], take: str
) -> None:
    points = list(enumerate(rewards, 1))
    values = intermediate(done, points, take)
    assert list(values) == [len(done) * STRIDE + step for step, _ in points]
    assert values[len(done) * STRIDE + len(rewards)] == mean_and_error([*done, worth(points, take)])[0]


# The study


@needs_optuna
def test_a_torn_line_is_dropped_and_the_study_goes_on(tmp_path: Path) -> None:
    store = TrialStore(tmp_path, settings(tmp_path))
    store.begin({"model.sigma": 0.1})
    store.report(0, 1, 0.5)
    path = tmp_path / STUDY
    whole = path.read_bytes()
    for length in range(whole.rfind(b"\n", 0, -1) + 2, len(whole)):
        path.write_bytes(whole[:length])
        (tmp_path / f"{STUDY}.lock").symlink_to(path)
        again = TrialStore(tmp_path, settings(tmp_path))
        assert again.trials[0].params == {"model.sigma": 0.1}
        again.report(0, 1, 0.25)
        assert TrialStore(tmp_path, settings(tmp_path)).trials[0].intermediate_values == {1: 0.25}


def looked(store: TrialStore, made: SweepSettings, number: int) -> ActiveTrial:
    return ActiveTrial(store.trials[number], made, store, [], [], lambda *_: {})


@needs_optuna
def test_a_trial_is_pruned_at_the_first_validation_below_the_median_however_late_one_looks(
    tmp_path: Path,
) -> None:
    from optuna.trial import TrialState

    made = settings(tmp_path, prune="median", prune_after=2)
    store = TrialStore(tmp_path, made)
    for number, curve in enumerate(({1: 0.5, 2: 0.6, 3: 0.9}, {1: 0.1, 2: 0.4, 3: 0.5})):
        store.begin({"model.sigma": made.space["model.sigma"].points()[number]})
        for step, value in curve.items():
            store.report(number, step, value)
        store.note(number, "seeds", [curve[3]])
        store.end(number, TrialState.COMPLETE, curve[3])
    # Medians of the two: 0.3, 0.5, 0.7. The trial's best so far: 0.35, 0.4, 2.0.
    store.begin({"model.sigma": 0.3})
    write_evaluations(tmp_path / "trial-002" / "seed-0", {1: 0.35, 2: 0.4, 3: 2.0})
    assert looked(store, made, 2).look()
    trial = store.trials[2]
    assert trial.state == TrialState.PRUNED
    assert trial.intermediate_values == {1: 0.35, 2: 0.4}
    row = trial_rows(made, store.trials)[2]
    assert (row["state"], row["generation"], row["objective"]) == ("pruned", 2, None)


@needs_optuna
def test_a_trial_that_has_all_its_seeds_is_complete_without_a_run(tmp_path: Path) -> None:
    made = settings(tmp_path, seeds=[0, 1])
    store = TrialStore(tmp_path, made)
    store.begin({"model.sigma": 0.1})
    store.note(0, "seeds", [0.25, 0.75])
    assert looked(store, made, 0).look()
    row = best_row(trial_rows(made, store.trials))
    assert row is not None
    assert (row["objective"], row["standard_error"], row["seed 1"]) == (0.5, 0.25, 0.75)
    assert not (tmp_path / "trial-000").exists()


def test_the_first_of_equals_is_best() -> None:
    rows = [{"trial": k, "objective": value} for k, value in enumerate((None, 0.5, 0.5, 0.25))]
    best = best_row(rows)
    assert best is not None
    assert best["trial"] == 1
    assert best_row(rows[:1]) is None


# Its process


def test_a_process_that_failed_says_its_last_line(tmp_path: Path) -> None:
    process = FitProcess(["no-such-command"], tmp_path / "a" / "run.log", [], {})
    while process.poll() is None:
        time.sleep(0.05)
    assert process.error.startswith("there is no command no-such-command")
    assert process.poll() not in (None, 0)


def test_the_picture_takes_numbers_words_and_no_complete_trial(tmp_path: Path) -> None:
    rows = [
        {"trial": k, "state": state, "lr": 10.0**-k, "kind": "ab"[k % 2], "objective": value}
        | {"standard_error": None if value is None else 0.1}
        for k, (state, value) in enumerate([("complete", 0.5), ("pruned", None), ("complete", 0.7)])
    ]
    for name, shown in {"all.png": rows, "none.png": rows[1:2]}.items():
        sweep_picture(tmp_path / name, shown, ["lr", "kind"], "val/reward", best_row(shown))
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
