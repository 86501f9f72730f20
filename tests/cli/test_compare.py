"""``es-lightning compare``: which folders, what is refused, what is said and written."""

import json
import logging
from pathlib import Path

import pytest

from es_lightning.cli.compare_command import compare_parser
from es_lightning.cli.compared import runs_of_folders
from es_lightning.cli.entry import run
from es_lightning.errors import UsageError
from tests.helpers.compared_runs import baseline_folder, config, evaluation, fit_folder

CURVE = [evaluation(step, [0.1 * step, 0.2 * step]) for step in range(3)]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for seed in range(2):
        fit_folder(tmp_path / "runs" / f"es-{seed}", CURVE, config(seed_everything=seed))
    baseline_folder(tmp_path / "runs" / "rl", CURVE)
    return tmp_path


def test_patterns_and_labels_name_arms(here: Path) -> None:
    fit_folder(here / "runs" / "a=b", CURVE, config(seed_everything=9))
    runs, labels = runs_of_folders(["ours=runs/es-*", "runs/rl", "runs/a=b"])
    assert [each.name for each in runs] == ["runs/es-0", "runs/es-1", "runs/rl", "runs/a=b"]
    assert labels == ["ours", "ours", None, None]


def test_a_report_is_written_and_the_verdict_is_said(here: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "es_lightning")
    run(["compare", "runs/es-0", "runs/es-1", "runs/rl", "--output", "out"])
    assert {path.name for path in (here / "out").iterdir()} == {
        *("report.html", "report.md", "numbers.json", "figures"),
    }
    told = json.loads((here / "out" / "numbers.json").read_text())
    assert [each["label"] for each in told["arms"]] == ["ES", "GRPO"]
    assert "GRPO against ES: at equal rollouts no difference can be told, +0 (+0 to +0)" in caplog.text
    assert "out/report.html holds the report." in caplog.text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give either the folders of runs"),
        (["runs/es-0", "--experiment", "x"], "give either the folders of runs"),
        (["runs/es-0", "--task", "x"], "give --experiment NAME with it"),
        (["runs/es-0", "--kl_limit", "0"], "give a number above 0"),
        (["runs/es-0"], "give the folders of two runs or more"),
        (["runs/es-0", "x=runs/es-0"], "is given twice"),
        (["runs/none-*"], "no folder matches runs/none-*"),
        (["=runs/es-0"], "write for example ours=runs/demo"),
        (["runs/es-0", "runs/es-1", "--output", "runs/rl/updates.jsonl"], "which is a file"),
        (["--experiment", "x"], "mlflow.db"),
    ],
)
def test_bad_input_is_one_sentence(
    here: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UsageError) as caught:
        run(["compare", *arguments])
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (here / "compared").exists()
    assert not (here / "mlflow.db").exists()


def test_the_help_names_every_option() -> None:
    text = compare_parser().format_help()
    for name in ("RUN", "LABEL=FOLDER", "--experiment", "--task", "--output", "--kl_limit"):
        assert name in text
