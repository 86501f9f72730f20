"""A fit and the evaluations of its model are runs of their own, and none of their files holds a secret."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from es_lightning.cli import command_line as cli
from es_lightning.tracking.parameters import deciding
from tests.helpers.tracked import no_trace
from tests.tracking.test_mlflow_run import SMOKE

LOGGER = "es_lightning.tracking.logger.DurableMLFlowLogger"


@pytest.fixture(scope="module")
def place(whole: bytes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where a run was made, and its checkpoint, its model and its base were evaluated."""
    folder = tmp_path_factory.mktemp("evaluated")
    (folder / "mlflow.db").write_bytes(whole)
    # SQLite ignores the token, as it does every word that it does not know.
    uri = f"sqlite:///file:{folder}/mlflow.db?uri=true&token=sesame"
    logger = ["--trainer.logger", LOGGER, "--trainer.logger.init_args.tracking_uri", uri]
    logger += ["--trainer.logger.init_args.run_name", "mine", "--trainer.max_steps", "1"]
    logger += ["--trainer.val_check_interval", "1"]
    with pytest.MonkeyPatch.context() as patch, no_trace():
        patch.chdir(folder)
        patch.setattr("sys.argv", ["es-lightning"])
        patch.setattr("sys.path", list(sys.path))
        cli.main(["fit", "-c", SMOKE, *logger, "--report.log_model", "false"])
        [checkpoint, *_] = sorted((folder / "runs" / "smoke_cpu" / "checkpoints").glob("*.ckpt"))
        cli.main(["test", "-c", SMOKE, *logger, "--ckpt_path", str(checkpoint)])
        cli.main(["validate", "-c", SMOKE, *logger, "--model.base", "runs/smoke_cpu/model"])
        cli.main(["test", "-c", SMOKE, *logger])
        with pytest.raises(SystemExit):  # refused: this folder holds a run
            cli.main(["fit", "-c", SMOKE, *logger])
        with pytest.raises(SystemExit):  # refused later, by the module
            cli.main(
                ["fit", "-c", SMOKE, *logger, "--overwrite", "true", "--model.sampling.max_tokens", "100000"]
            )
        yield folder


@pytest.fixture(scope="module")
def runs(place: Path) -> list[Run]:
    """Every run, in the order in which they were made."""
    client = MlflowClient(f"sqlite:///{place}/mlflow.db")
    assert [each.name for each in client.search_experiments()] == ["es_lightning", "Default"]
    return list(client.search_runs(["1"], order_by=["attributes.start_time"]))


@pytest.mark.slow
def test_evaluations_have_names_and_tags_of_their_own(runs: list[Run]) -> None:
    names = [(run.info.run_name, run.data.tags["es.command"], run.info.status) for run in runs]
    assert names == [
        ("mine", "fit", "FINISHED"),
        ("mine-test", "test", "FINISHED"),
        ("mine-validate", "validate", "FINISHED"),
        ("mine-test", "test", "FINISHED"),
    ], "refused runs leave nothing"
    fitted = runs[0].info.run_id
    assert [run.data.tags.get("mlflow.parentRunId") for run in runs] == [None, fitted, fitted, None]
    assert "test/reward" in runs[1].data.metrics
    assert "val/reward" in runs[2].data.metrics
    sets = [[each.dataset.name for each in run.inputs.dataset_inputs] for run in runs[1:]]
    assert sets == [["Conciseness test"], ["Conciseness val"], ["Conciseness test"]]
    assert all({"engine", "hardware", "base_model"} <= run.data.tags.keys() for run in runs)


def test_parameters_are_those_that_decide(runs: list[Run]) -> None:
    for run in runs:
        params = run.data.params
        assert {"seed_everything", "model/sigma", "model/population", "data/task/class_path"} <= params.keys()
        assert params["trainer/max_steps"] == "1"
        shown = {key for key in params if key.startswith(("checkpoint/", "trainer/"))}
        assert "checkpoint/auto_insert_metric_name" not in shown
        assert "trainer/logger" not in shown
        assert len(shown) < 8, shown


def test_every_run_is_watched(runs: list[Run]) -> None:
    assert all("system/cpu_utilization_percentage" in run.data.metrics for run in runs)


def test_no_file_holds_a_secret(place: Path) -> None:
    files = [path for path in place.rglob("*") if path.is_file()]
    assert {"config.yaml", "mlflow.db", "journal.jsonl", "mlflow-run.json"} <= {path.name for path in files}
    assert [path for path in files if b"sesame" in path.read_bytes()] == []
    saved = (place / "runs" / "smoke_cpu" / "config.yaml").read_text()
    assert f"tracking_uri: sqlite:///file:{place}/mlflow.db?uri=true&token=***" in saved


def test_settings_at_their_defaults_are_no_parameters() -> None:
    usual = {
        "model": {"sigma": 1},
        "trainer": {"max_steps": -1, "devices": 1, "logger": None},
        "seed_everything": 0,
    }
    config = {
        "model": {"sigma": 1},
        "trainer": {"max_steps": -1, "devices": 2, "logger": {"a": 1}},
        "config": ["x"],
    }
    config |= {"seed_everything": 0, "report": {"export": True}}
    assert deciding(config, usual) == {
        "model": {"sigma": 1},
        "trainer": {"max_steps": -1, "devices": 2},
        "seed_everything": 0,
        "report": {"export": True},
    }
