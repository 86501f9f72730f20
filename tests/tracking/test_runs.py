"""The trainings of an experiment, in a real database with real artifacts."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from es_lightning.analysis.comparison.comparing import compare
from es_lightning.analysis.comparison.folder import FILES
from es_lightning.cli.compared_experiment import runs_of_experiment
from es_lightning.errors import UsageError
from es_lightning.tracking.runs import trainings
from tests.helpers.compared_runs import baseline_folder, config, evaluation, fit_folder
from tests.helpers.tracked import no_trace

CURVES = [[[0.1, 0.3], [0.2, 0.5]], [[0.0, 0.2], [0.4, 0.4]], [[0.1, 0.1], [0.3, 0.2]]]


class Experiment:
    """A database with an experiment, to which runs are added as the loggers add them."""

    def __init__(self, place: Path, whole: bytes) -> None:
        (place / "mlflow.db").write_bytes(whole)
        self.place, self.uri = place, f"sqlite:///{place}/mlflow.db"
        self.client = MlflowClient(self.uri)
        self.id = self.client.create_experiment("sums", str(place / "artifacts"))

    def add(self, name: str, folder: Path | None, params: dict[str, str] | None = None, **tags: str) -> str:
        """Add a run with the files of a folder, and its validation rewards as metrics."""
        named = {key.replace("__", "."): value for key, value in tags.items()}
        run_id = str(self.client.create_run(self.id, tags=named, run_name=name).info.run_id)
        for key, value in (params or {}).items():
            self.client.log_param(run_id, key, value)
        if folder is not None:
            self.client.log_artifacts(run_id, str(folder))
            for line in (folder / "evaluations.jsonl").read_text().splitlines():
                row = json.loads(line)
                self.client.log_metric(
                    run_id, f"{row['split']}/reward", fmean(row["rewards"]), step=row["step"]
                )
        return run_id


@pytest.fixture
def experiment(whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Experiment]:
    made = Experiment(tmp_path, whole)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", made.uri)
    with no_trace():
        yield made


def rows(curve: list[list[float]]) -> list[dict[str, Any]]:
    return [evaluation(step, rewards) for step, rewards in enumerate(curve)]


def test_numbers_are_those_of_mlflows_own_metrics(
    experiment: Experiment, caplog: pytest.LogCaptureFixture
) -> None:
    made = experiment.place / "made"
    ids = [
        experiment.add(
            "es",
            fit_folder(made / f"es{seed}", rows(CURVES[seed]), config(seed_everything=seed)),
            es__command="fit",
        )
        for seed in range(2)
    ]
    ids.append(experiment.add("rl", baseline_folder(made / "rl", rows(CURVES[2])), kind="baseline"))
    experiment.add("es-test", made / "es0", es__command="test")
    experiment.add("probe", None, kind="probe")
    empty = experiment.add("killed", None, es__command="fit")
    begun = experiment.add("begun", fit_folder(made / "begun", []), es__command="fit")
    runs = runs_of_experiment("sums")
    assert [each.name for each in runs] == [f"es ({ids[0][:8]})", f"es ({ids[1][:8]})", f"rl ({ids[2][:8]})"]
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    names = f"killed ({empty[:8]}), begun ({begun[:8]})"
    assert warnings == [f"Left out, since they have left no evaluations in MLflow: {names}."]
    found = compare(runs, [None] * 3)
    history = [experiment.client.get_metric_history(run_id, "val/reward") for run_id in ids]
    for at in found.budgets:
        assert at.reached[0].reward.value == pytest.approx(fmean(each[1].value for each in history[:2]))
        assert at.reached[1].reward.value == pytest.approx(history[2][1].value)


def test_a_folder_that_is_still_there_is_read_instead(experiment: Experiment) -> None:
    tables = {"kl_drift.json": {"rows": []}, "other.json": {}}
    own = fit_folder(experiment.place / "runs" / "mine", rows(CURVES[0]), tables=tables)
    params = {"trainer/default_root_dir": "runs/mine"}
    mine = experiment.add("mine", None, params)
    (own / "mlflow-run.json").write_text(json.dumps({"run_id": mine}))
    other = experiment.add("other", own, params)  # the folder belongs to another run by now
    scratch = experiment.place / "scratch"
    scratch.mkdir()
    found = trainings("sums", experiment.uri, FILES, scratch)
    assert [(each.run_id, each.folder) for each in found] == [
        (mine, Path("runs/mine")),
        (other, scratch / other),
    ]
    fetched = {str(path.relative_to(scratch / other)) for path in (scratch / other).rglob("*.*")}
    assert fetched == {"evaluations.jsonl", "journal.jsonl", "config.yaml", "tables/kl_drift.json"}


def test_repeated_trainings_count_once_and_tasks_are_chosen(
    experiment: Experiment, caplog: pytest.LogCaptureFixture
) -> None:
    folder = fit_folder(experiment.place / "made" / "one", rows(CURVES[0]))
    first, again = experiment.add("first", folder), experiment.add("again", folder)
    assert [each.name for each in runs_of_experiment("sums")] == [f"again ({again[:8]})"]
    assert f"were repeated later with the same settings and seed: first ({first[:8]})." in caplog.text
    other = fit_folder(experiment.place / "made" / "two", rows(CURVES[1]), config(seed_everything=1))
    (other / "summary.json").write_text('{"task": "Countdown"}')
    experiment.add("other", other)
    with pytest.raises(UsageError, match="of the tasks Countdown, Sums: choose one with --task"):
        runs_of_experiment("sums")
    assert len(runs_of_experiment("sums", "Countdown")) == 1


def test_what_cannot_be_read_is_one_sentence(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="MLflow has no experiment sum: did you mean sums?"):
        runs_of_experiment("sum")
    (experiment.place / "torn.db").write_bytes(b"Dear diary" * 500)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{experiment.place}/torn.db")
    with pytest.raises(UsageError, match="torn.db cannot be read") as caught:
        runs_of_experiment("sums")
    assert "\n" not in str(caught.value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///none.db")
    with pytest.raises(UsageError, match="there is no .*none.db"):
        runs_of_experiment("sums")
    assert not (experiment.place / "none.db").exists()
