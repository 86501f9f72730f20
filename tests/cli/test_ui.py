"""``es-lightning ui``: links to the newest runs, and MLflow's pages for one reader."""

import json
import logging
import os
import sys
from pathlib import Path

import pytest

from es_lightning.cli import command_line as cli
from es_lightning.cli.commands import run_links, ui


@pytest.mark.parametrize("arguments", [["--port", "many"], ["--prot", "5000"]])
def test_bad_options_of_ui_end_in_one_line(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.path", list(sys.path))
    with pytest.raises(SystemExit) as caught:
        cli.main(["ui", *arguments])
    assert caught.value.code == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert "port" in line or "--prot" in line


def test_the_pages_of_a_server_are_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "mine").mkdir()
    known = {"tracking_uri": "http://host:5000/", "experiment_id": "1", "run_id": "id"}
    (tmp_path / "mine" / "mlflow-run.json").write_text(json.dumps(known))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@host:5000/")
    monkeypatch.setattr(os, "execv", lambda *_: pytest.fail("there is nothing to serve"))
    with caplog.at_level(logging.INFO, "es_lightning"):
        ui(["--runs", str(tmp_path)])
    assert [line.split()[-1] for line in caplog.messages] == [
        "http://host:5000/#/experiments/1/runs/id?workflowType=machine_learning",
        "http://host:5000/#/experiments?workflowType=machine_learning",
    ]


def test_pages_for_one_reader_take_one_process_and_no_others_of_mlflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("PYTHONWARNINGS", "mine")
    monkeypatch.setenv("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "")  # put back afterwards
    monkeypatch.delenv("MLFLOW_SERVER_ENABLE_JOB_EXECUTION")
    monkeypatch.setattr(os, "execv", lambda _, command: commands.append(command))
    ui(["--runs", str(tmp_path), "--port", "5001"])
    assert commands[0][-6:] == ["--host", "127.0.0.1", "--port", "5001", "--workers", "1"]
    assert os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert os.environ["PYTHONWARNINGS"] == "mine"


def test_the_newest_runs_of_a_server_come_first(tmp_path: Path) -> None:
    for age, (name, uri) in enumerate([("new", "here"), ("other", "elsewhere"), ("old", "here")]):
        (tmp_path / name).mkdir()
        path = tmp_path / name / "mlflow-run.json"
        path.write_text(json.dumps({"tracking_uri": uri, "experiment_id": "1", "run_id": f"id-{name}"}))
        os.utime(path, (1000 - age, 1000 - age))
    links = run_links(tmp_path, "here", "http://host")
    assert [link.split() for link in links] == [
        ["new", "http://host/#/experiments/1/runs/id-new?workflowType=machine_learning"],
        ["old", "http://host/#/experiments/1/runs/id-old?workflowType=machine_learning"],
    ]
