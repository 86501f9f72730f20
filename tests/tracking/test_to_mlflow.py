"""Runs made by hand, put into MLflow from their folders."""

import json
import logging
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from es_lightning.cli import entry
from es_lightning.cli.compared_experiment import runs_of_experiment
from es_lightning.cli.to_mlflow import put
from tests.helpers.compared_runs import MACHINE, baseline_folder, config, evaluation, fit_folder
from tests.helpers.tracked import no_trace

UPDATES = [{"reward/mean": 0.1, "cost/rollouts": 240, "val/reward": 0.25}, {"reward/mean": 0.3}]


@pytest.fixture
def uri(whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "mlflow.db").write_bytes(whole)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address := f"sqlite:///{tmp_path}/mlflow.db")
    return address


def histories(uri: str, experiment: str) -> dict[str, dict[str, list[tuple[int, float]]]]:
    client = MlflowClient(uri)
    runs = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    return {
        run.info.run_name: {
            key: [(each.step, each.value) for each in client.get_metric_history(run.info.run_id, key)]
            for key in run.data.metrics
        }
        for run in runs
    }


def test_fits_and_baselines_are_found_there_as_in_their_folders(uri: str, tmp_path: Path) -> None:
    evaluations = [evaluation(0, [0, 0, 0, 1]), evaluation(2, [0, 1, 1, 1]), evaluation(2, [1, 1], "test")]
    fit_folder(tmp_path / "es", evaluations, trained=[0.1, 0.4])
    ended = {"task": "Sums", "held_out_before": 0.5, "held_out_after": 1.0, "centre_checksum": "x"}
    (tmp_path / "es" / "summary.json").write_text(json.dumps(ended), encoding="utf-8")
    analysis = {"centre_checksum": "x", "task": "Sums", "divergence": {"kl_base_tuned": 0.2}}
    analysis |= {"geometry": {"metrics": {"geometry/norm": 3.0}}}
    kinds = {"change": -0.5, "change_se": None, "accuracy": {"change": 0.25, "change_se": 0.1}}
    analysis |= {"forgetting": {"kinds": kinds}}
    (tmp_path / "es" / "analysis.json").write_text(json.dumps(analysis), encoding="utf-8")
    baseline_folder(tmp_path / "grpo", evaluations, UPDATES)
    with no_trace():
        put(["es", "grpo"], "mine")
        found = histories(uri, "mine")
        compared = runs_of_experiment("mine")
    es, grpo = found["es"], found["grpo"]
    assert es["reward/mean"] == [(0, 0.1), (1, 0.4)]
    assert es["val/reward"] == [(0, 0.25), (2, 0.75)]
    assert es["cost/rollouts"] == [(1, 480)]  # two generations of 240
    assert (es["held_out/before"], es["held_out/reward"]) == ([(2, 0.5)], [(2, 1.0)])
    assert (es["kl_base_tuned/Sums"], es["geometry/norm"]) == ([(2, 0.2)], [(2, 3.0)])
    assert es["prior/kinds_change"] == [(2, -0.5)]
    assert "prior/kinds_change_se" not in es
    assert es["prior/kinds_accuracy_change"] == [(2, 0.25)]
    assert es["prior/kinds_accuracy_change_se"] == [(2, 0.1)]
    assert grpo["reward/mean"] == [(1, 0.1), (2, 0.3)]
    assert (grpo["cost/rollouts"], grpo["val/reward"]) == ([(1, 240)], [(0, 0.25), (1, 0.25), (2, 0.75)])
    assert [(run.method, run.seed, len(run.evaluations)) for run in compared] == [
        ("ES", "0", 3),
        ("GRPO", "0", 3),
    ]
    assert [run.machine for run in compared] == [MACHINE, MACHINE]
    client = MlflowClient(uri)
    runs = client.search_runs([client.get_experiment_by_name("mine").experiment_id])
    assert [run.data.tags["hardware"] for run in runs] == [MACHINE, MACHINE]


@pytest.mark.parametrize("along", [True, False])
def test_tests_are_named_as_runs_name_them(along: bool, uri: str, tmp_path: Path) -> None:
    tested = [evaluation(step, [0.1 * step], "test") for step in ((0, 1, 2) if along else (0, 2))]
    rows = [tested[0], *(evaluation(step, [0.2]) for step in (1, 2)), *tested[1:]]
    fit_folder(tmp_path / "es", rows, config(**{"data.test_with_val": along}), trained=[0.1, 0.4])
    with no_trace():
        put(["es"], "mine")
        found = histories(uri, "mine")["es"]
    assert found["held_out/reward"] == [(0, 0.0), (2, pytest.approx(0.2))]
    of_validations = [(1, pytest.approx(0.1)), (2, pytest.approx(0.2))]
    assert found.get("test/reward") == (of_validations if along else None)


def test_a_run_that_is_there_is_left_out_and_one_that_went_on_is_not(
    uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    evaluations = [evaluation(0, [0, 1])]
    fit_folder(tmp_path / "es", evaluations)
    with no_trace(), caplog.at_level(logging.INFO):
        put(["e*", "es"], "mine")
        put(["es"], "mine")
        assert "es is there already." in caplog.text
        fit_folder(tmp_path / "es", [*evaluations, evaluation(1, [1, 1])], trained=[0.5])
        put(["es"], "mine")
    client = MlflowClient(uri)
    runs = client.search_runs([client.get_experiment_by_name("mine").experiment_id])
    assert sorted(len(client.get_metric_history(run.info.run_id, "val/reward")) for run in runs) == [1, 2]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["es", "nothing"], "nothing is no folder: give the folder of a run, such as runs/demo."),
        (["es", "empty"], "empty has no evaluations.jsonl: give the folder of a fit or a baseline"),
        (["es", "none-*"], "no folder matches none-*: give folders of runs."),
        (["es", "torn"], "torn/config.yaml is damaged"),
    ],
)
def test_bad_input_ends_in_one_line_and_stores_nothing(
    uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], names: list[str], said: str
) -> None:
    for name in ("es", "torn"):
        fit_folder(tmp_path / name, [evaluation(0, [0, 1])], config())
    (tmp_path / "torn" / "config.yaml").write_text("a: [", encoding="utf-8")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit) as caught, no_trace():
        entry.main(["to-mlflow", *names, "--experiment", "mine"])
    assert caught.value.code == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert MlflowClient(uri).get_experiment_by_name("mine") is None


def test_an_mlflow_that_is_away_ends_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fit_folder(tmp_path / "es", [evaluation(0, [0, 1])])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(SystemExit) as caught, no_trace():
        entry.main(["to-mlflow", str(tmp_path / "es")])
    assert caught.value.code == 2
    assert "MLflow at http://127.0.0.1:9" in " ".join(capsys.readouterr().err.split())
