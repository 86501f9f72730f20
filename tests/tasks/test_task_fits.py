"""Every task trains: the shipped configurations, cut down to the tiny model and two generations."""

import json
from pathlib import Path

import pytest

from es_lightning.cli import command_line as cli

CONFIGS = Path(__file__).parents[2] / "configs"
SMALL = {
    "model.base": "tiny",
    "model.population": "4",
    "model.sampling.max_tokens": "6",
    "model.engine": "HFEngine",
    "data.prompts_per_generation": "6",
    "data.val_prompts": "2",
    "data.test_prompts": "2",
    "trainer.max_steps": "2",
    "trainer.val_check_interval": "1",
    "trainer.accelerator": "cpu",
    "trainer.devices": "1",
    "trainer.logger": "false",
    "checkpoint.every_n_train_steps": "2",
}
SAMPLE = {"data.task.data": "sample"}
FITS = {
    "countdown": ("countdown", {"data.task.n_train": "6"}),
    "gsm8k": ("gsm8k", SAMPLE),
    "math": ("math", SAMPLE),
    "boolq": ("boolq", SAMPLE),
    "boolq-loglikelihood": ("boolq", SAMPLE | {"data.task.mode": "loglikelihood", "data.task.dense": "true"}),
    "mini_sudoku": (
        "mini_sudoku",
        {"data.task.n_train": "6", "data.task.n_val": "2", "data.task.n_test": "2"},
    ),
    "number_sequence": (
        "mini_sudoku",
        {
            "data.task.dataset": "number_sequence",
            "data.task.n_train": "6",
            "data.task.n_val": "2",
            "data.task.n_test": "2",
        },
    ),
    "proofwriter": ("proofwriter", SAMPLE),
    "python_rewards": ("python_rewards", {}),
    "mixture": ("mixture", {}),
    "gsm8k-log-likelihood": ("gsm8k", SAMPLE | {"data.objective": "log_likelihood"}),
    "mixture-log-likelihood": ("mixture", {"data.objective": "log_likelihood"}),
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["es-lightning"])
    return tmp_path


@pytest.mark.slow
@pytest.mark.tasks
@pytest.mark.parametrize(("config", "options"), FITS.values(), ids=FITS)
def test_a_fit_runs_through_and_grades_everything(config: str, options: dict[str, str], here: Path) -> None:
    arguments = [part for key, value in {**SMALL, **options}.items() for part in (f"--{key}", value)]
    cli.main(["fit", "-c", str(CONFIGS / f"{config}.yaml"), *arguments])
    root = here / "runs" / config
    lines = [json.loads(line) for line in (root / "journal.jsonl").read_text().splitlines()]
    scores = [line["scores"] for line in lines if "scores" in line]
    assert json.loads((root / "summary.json").read_text())["generations"] == len(scores) == 2
    assert all("reward" in row and not any(key.startswith("failed_") for key in row) for row in scores)
