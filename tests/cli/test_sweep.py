"""What a sweep checks before its first trial, with the fit's own parser, and the config that it leaves."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from es_lightning.cli.planned import FitSettings
from es_lightning.cli.short_names import read_short_names
from es_lightning.cli.sweep_logging import CONTEXT, SweepLog, is_mlflow
from es_lightning.cli.sweep_run import added_options, best_yaml, checked, keep_what_decides, plain
from es_lightning.errors import UsageError
from es_lightning.sweeps.settings import SweepSettings, read_settings

FIT = {
    "model": {"base": "tiny", "engine": {"class_path": "HFEngine"}},
    "data": {"task": "Conciseness"},
    "trainer": {"max_steps": 4, "val_check_interval": 2, "accelerator": "cpu", "logger": False},
}


@pytest.fixture(autouse=True)
def _folder_with_a_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    read_short_names()
    Path("fit.yaml").write_text(json.dumps(FIT))


def settings(**given: Any) -> SweepSettings:
    space = {"model.sigma": [0.1, 0.2], "model.optimizer.lr": {"low": 0.01, "high": 0.1, "step": 0.01}}
    return read_settings({"config": "fit.yaml", "space": space, "output": "out", **given}, "mine.yaml")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"space": {"model.sigmaa": [0.1]}}, "Did you mean model.sigma?"),
        ({"space": {"model.sigma": [0.1, "large"]}}, "model.sigma"),
        ({"space": {"model.population": [4, 2.5]}}, "model.population"),
        ({"overrides": {"model.noise": "Gaussain"}}, "Gaussain"),
    ],
)
def test_what_the_fits_parser_refuses_is_refused_before_any_trial(
    given: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        checked(settings(**given))
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"space": {"model.sigma": [0.1, -0.2]}}, "sigma is -0.2"),
        ({"overrides": {"trainer.max_steps": 1}}, "no trial would be validated"),
        ({"overrides": {"trainer.limit_val_batches": 0}}, "no trial would be validated"),
    ],
)
def test_what_the_fit_itself_would_refuse_is_refused_before_any_trial(
    given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        checked(settings(**given))


def test_the_best_config_is_the_fits_with_the_best_point(tmp_path: Path) -> None:
    made = settings(overrides={"model.shaping": "centered_rank"}, prune="early_peak", take="best")
    added = added_options(made, checked(made))
    best = {"trial": 1, "objective": 0.5, "model.sigma": 0.2, "model.optimizer.lr": 0.03}
    Path("best.yaml").write_text(best_yaml(made, best, added))
    again = FitSettings(["-c", "best.yaml"])
    model = plain(again)["model"]
    assert (model["sigma"], model["optimizer"]["init_args"]["lr"]) == (0.2, 0.03)
    assert model["shaping"].endswith(".centered_rank")
    assert again.callbacks == ["EarlyPeak"]
    assert added_options(made, again) == [], "a config that has the callback gets no second one"
    first = yaml.safe_load(Path("best.yaml").read_text())
    assert first["trainer"]["max_steps"] == 4
    assert "default_root_dir" not in first["trainer"]


def test_the_best_config_tests_and_exports_as_the_fit_does_and_not_as_the_trials_do() -> None:
    made = settings(overrides={"report.held_out": False, "report.export": False, "trainer.max_steps": 6})
    best = {"trial": 1, "objective": 0.5, "model.sigma": 0.2, "model.optimizer.lr": 0.03}
    told = yaml.safe_load(best_yaml(made, best))
    assert (told["report"]["held_out"], told["report"]["export"]) == (True, True)
    assert told["trainer"]["max_steps"] == 6
    quiet = {"held_out": True, "export": False}
    Path("fit.yaml").write_text(json.dumps({**FIT, "report": quiet}))
    told = yaml.safe_load(best_yaml(made, best))
    assert {name: told["report"][name] for name in quiet} == quiet


def test_a_folder_takes_only_the_sweep_that_it_holds() -> None:
    made, fit = settings(), {"model": {"base": "tiny"}}
    keep_what_decides(made, fit)
    keep_what_decides(settings(at_once=1, trials=3), fit)
    with pytest.raises(UsageError, match="another seed and another seeds"):
        keep_what_decides(settings(seed=1, seeds=[4]), fit)
    with pytest.raises(UsageError, match="another fit"):
        keep_what_decides(made, {"model": {"base": "embedded"}})


def test_a_fits_run_is_put_below_the_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    log = SweepLog(False, settings())
    assert log.environment(7, 0) == {}
    log._parent = "abc"
    monkeypatch.setenv(CONTEXT, '{"mine": "kept"}')
    tags = json.loads(log.environment(7, 2)[CONTEXT])
    assert tags["mlflow.parentRunId"] == "abc"
    assert tags["mlflow.runName"] == "trial-007-seed-2"
    assert tags["mine"] == "kept"


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (None, True),
        (True, True),
        (False, False),
        ([], False),
        ({"class_path": "lightning.pytorch.loggers.CSVLogger"}, False),
        ([{"class_path": "lightning.pytorch.loggers.MLFlowLogger"}], True),
    ],
)
def test_which_loggers_are_mlflow(asked: Any, expected: bool) -> None:
    assert is_mlflow(asked) is expected
