"""Pictures and tables of ``simulate`` in MLflow: in a run of their own, or in that of the fitted run."""

import sys
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from es_lightning.cli import entry
from es_lightning.cli.run_loggers import logging_to, mlflow_logger
from tests.helpers.ascent_journal import entries_of, write_journal
from tests.helpers.tracked import no_trace

SMALL = "--dimension 20 --active 4 --soft 0.5 --steps 60 --runs 60 --mlflow"


@pytest.fixture
def uri(whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "mlflow.db").write_bytes(whole)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(sys.path))
    monkeypatch.setattr("es_lightning.landscape.theory.toy.HEIGHTS", (1.0, 30.0))
    monkeypatch.setattr("es_lightning.cli.simulated.WELL_STEPS", 300)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address := f"sqlite:///{tmp_path}/mlflow.db")
    return address


def test_a_simulation_is_a_run(uri: str) -> None:
    with no_trace():
        entry.main(["simulate", *SMALL.split(), "--output", "toy"])
    client = MlflowClient(uri)
    [run] = client.search_runs([client.get_experiment_by_name("es_lightning").experiment_id])
    assert (run.info.run_name, run.info.status, run.data.tags["kind"]) == ("toy", "FINISHED", "simulation")
    assert (run.data.params["simulate.dimension"], run.data.params["simulate.seed"]) == ("20", "0")
    kept = {Path(each.path).name for each in client.list_artifacts(run.info.run_id, "simulated")}
    pictures = {"rise_and_decay.png", "double_well.png"}
    assert kept == pictures | {"rise_and_decay.csv", "double_well.csv", "steady_state.csv"}


def test_a_fit_goes_to_the_run_that_was_fitted(uri: str) -> None:
    fitted = Path("runs/mine")
    write_journal(fitted, entries_of(0, 30, soft=0))
    with no_trace():
        with logging_to([mlflow_logger(fitted, "fit")], {"a": 1}):
            pass
        entry.main(["simulate", "--fit", str(fitted), "--output", "fitted"])
    client = MlflowClient(uri)
    [run] = client.search_runs([client.get_experiment_by_name("es_lightning").experiment_id])
    kept = {Path(each.path).name for each in client.list_artifacts(run.info.run_id, "simulated")}
    assert kept == {"fit.png", "fit.csv"}
