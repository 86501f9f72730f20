"""The command line as a user meets it: run folders, refusals, one-line errors, own code by class_path."""

import json
import shutil
import subprocess
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
import yaml

from es_lightning.cli import command_line as cli
from es_lightning.cli import commands
from es_lightning.cli.explain import explained
from es_lightning.errors import UsageError

ROOT = Path(__file__).parents[2]
EARLY_TABLE = """
from pathlib import Path
from lightning.pytorch import Callback


class EarlyTable(Callback):
    def __init__(self, text: str) -> None:
        self.text = text

    def on_train_start(self, trainer, pl_module) -> None:
        path = Path(trainer.default_root_dir) / "tables" / "early.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.text)
"""
SMOKE = str(ROOT / "configs" / "smoke_cpu.yaml")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's own folder, with this process in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(sys.path))
    monkeypatch.setattr("sys.argv", ["es-lightning"])
    return tmp_path


def run(*arguments: str, subcommand: str = "fit") -> None:
    cli.main([subcommand, "-c", SMOKE, "--trainer.logger", "false", "--trainer.max_steps", "2", *arguments])


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a run was made, with what it said in the file ``said``."""
    place, said = tmp_path_factory.mktemp("once"), StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said):
        patch.chdir(place)
        patch.setattr("sys.path", list(sys.path))
        patch.setattr("sys.argv", ["es-lightning"])
        run()
    (place / "said").write_text(said.getvalue())
    return place


@pytest.fixture
def finished(folder: Path, once: Path) -> Path:
    """The finished run, in a user's own folder."""
    return Path(shutil.copytree(once / "runs" / "smoke_cpu", Path("runs/smoke_cpu")))


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line on stderr that a refused command ends with."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    assert caught.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("es-lightning: ")
    return lines[-1]


def test_a_fit_leaves_everything_in_its_folder(once: Path) -> None:
    root = once / "runs" / "smoke_cpu"
    assert {path.name for path in root.iterdir()} == {
        "config.yaml",
        "journal.jsonl",
        "rewards.jsonl",
        "evaluations.jsonl",
        "checkpoints",
        "model",
        "plots",
        "summary.json",
    }
    assert (root / "plots" / "reward.png").read_bytes().startswith(b"\x89PNG")
    assert list((root / "checkpoints").glob("*.ckpt"))
    summary = json.loads((root / "summary.json").read_text())
    assert summary["generations"] == 2
    assert len(summary["centre_checksum"]) == 16
    assert summary["held_out_before"] <= 0 >= summary["held_out_after"]
    assert summary["training_seconds"] > 0 < summary["tokens_per_second"]
    assert summary["settings"]["seed"] == 0
    card = (root / "model" / "README.md").read_text()
    assert summary["centre_checksum"] in card
    assert str(summary["held_out_after"]) in card
    said = (once / "said").read_text()
    assert "held-out reward" in said
    assert f"2 generations in {summary['seconds_with_validation']:.0f} s, validations included" in said


@pytest.mark.slow
def test_the_saved_config_repeats_the_run(finished: Path) -> None:
    config = str(finished / "config.yaml")
    assert yaml.safe_load(Path(config).read_text())["model"]["sigma"] == 0.02
    cli.main(["fit", "-c", config, "--trainer.default_root_dir", "two", "--checkpoint.dirpath", "null"])
    one, two = (json.loads(Path(name, "summary.json").read_text()) for name in (finished, "two"))
    assert one["centre_checksum"] == two["centre_checksum"]


@pytest.mark.slow
def test_a_second_run_into_the_same_folder_is_refused(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = (finished / "summary.json").read_text()
    (finished / "notes.txt").write_text("mine")
    message = refusal(capsys)
    for way_out in ("--ckpt_path last", "--overwrite true", "--trainer.default_root_dir"):
        assert way_out in message
    assert (finished / "summary.json").read_text() == first
    refusal(capsys, "--overwrite", "true", "--model.base", "no/such")
    assert (finished / "summary.json").read_text() == first  # what cannot start replaces nothing
    run("--overwrite", "true", "--seed_everything", "1")
    assert json.loads((finished / "summary.json").read_text())["settings"]["seed"] == 1
    assert (finished / "notes.txt").read_text() == "mine"


def test_a_run_does_not_replace_the_model_it_starts_from(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = ["--trainer.default_root_dir", "runs/smoke_cpu", "--overwrite", "true"]
    message = refusal(capsys, *again, "--model.base", "runs/smoke_cpu/model")
    assert "would delete the base model runs/smoke_cpu/model" in message
    assert (finished / "model" / "config.json").is_file()


def test_a_run_goes_on_by_the_same_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--trainer.default_root_dir", "here", "--ckpt_path", "last"]
    run(*where)  # nothing to go on with: it begins
    first = Path("here/journal.jsonl").read_text()
    run(*where, "--trainer.max_steps", "3")
    journal = Path("here/journal.jsonl").read_text()
    assert journal.startswith(first)
    assert len(journal.splitlines()) == 4
    assert json.loads(Path("here/summary.json").read_text())["generations"] == 3
    assert yaml.safe_load(Path("here/config.yaml").read_text()).get("ckpt_path") is None
    message = refusal(capsys, *where, "--model.optimizer.init_args.lr", "0.5", "--trainer.max_steps", "4")
    assert "model.optimizer.lr was 0.02 in the run and is 0.5 now" in message


@pytest.mark.parametrize("subcommand", ["validate", "test"])
def test_evaluation_alone(folder: Path, subcommand: str, capsys: pytest.CaptureFixture[str]) -> None:
    run(subcommand=subcommand)
    split = "val" if subcommand == "validate" else "test"
    assert f"{split}/reward" in capsys.readouterr().out.replace(" ", "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model.sigma", "0"], "sigma"),
        (["--model.population", "1"], "population"),
        (["--model.base", "no/such/folder"], "no model at"),
        (["--model.sigm", "1"], "Did you mean model.sigma?"),
        (["--data.task", "Concisenes"], "Did you mean Conciseness?"),
        (["--data.task.varant", "paper"], "Did you mean variant?"),
        (["--model.engine.init_args.batchsize", "3"], "Did you mean batch_size?"),
        (["--model.population", "many"], "population"),
        (["--seed_everything", "true"], "integer"),
        (["--model.sampling.max_tokens", "5000"], "lower max_tokens"),
    ],
)
def test_bad_input_ends_in_one_clear_line(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert words in refusal(capsys, *arguments)


def test_an_unknown_key_in_a_file_is_named_with_the_nearest(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine.yaml").write_text(Path(SMOKE).read_text().replace("population:", "populaton:"))
    with pytest.raises(SystemExit):
        cli.main(["fit", "-c", "mine.yaml"])
    assert "Did you mean model.population?" in capsys.readouterr().err


def test_valid_names_are_not_suggested_in_place_of_themselves() -> None:
    assert explained("sigma must be positive", {}, ()) == "sigma must be positive"


def test_a_folder_that_holds_no_run_loses_nothing(folder: Path) -> None:
    Path("model").mkdir()
    Path("plots").mkdir()
    Path("plots/mine.png").write_text("mine")
    run("--trainer.default_root_dir", ".", "--overwrite", "true", "--report.export", "false")
    assert Path("plots/mine.png").read_text() == "mine"
    assert Path("model").is_dir()


@pytest.mark.slow
def test_a_run_that_replaces_another_keeps_what_its_callbacks_wrote_at_its_start(folder: Path) -> None:
    Path("early_table.py").write_text(EARLY_TABLE)
    again = ["--trainer.default_root_dir", "here", "--report.export", "false", "--trainer.max_steps", "1"]
    run(*again, "--trainer.callbacks+=early_table.EarlyTable", "--trainer.callbacks.text=old")
    Path("here/tables/other.json").write_text("of the run before")
    new = [
        "--overwrite",
        "true",
        "--trainer.callbacks+=early_table.EarlyTable",
        "--trainer.callbacks.text=new",
    ]
    run(*again, *new)
    assert [path.name for path in Path("here/tables").iterdir()] == ["early.json"]
    assert Path("here/tables/early.json").read_text() == "new"


def test_fetch_reports_what_keeps_it_from_fetching(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Path:
        raise UsageError("the embedded model could not be fetched")

    monkeypatch.setattr(commands, "fetch_embedded", fail)
    with pytest.raises(SystemExit):
        cli.main(["fetch"])


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--model.sampling.n", "0", "sampling.n is 0: give at least 1."),
        ("--model.sampling.pass_k", "0", "sampling.pass_k is 0: give at least 1."),
        (
            "--model.sampling.pass_k",
            "4",
            "sampling.pass_k is 4 and sampling.n 1: the best of 4 needs as many completions of a prompt, "
            "so set n: 4 or more.",
        ),
        (
            "--model.kl_penalty.weight",
            "-1",
            "model.kl_penalty.weight is -1: give the reward that a nat costs, from 0 (measured, and nothing "
            "taken) to 1e+06.",
        ),
        ("--data.grading.workers", "-1", "data.grading.workers is -1: give 0 or more."),
    ],
)
def test_what_a_constructor_refuses_is_one_line_too(
    folder: Path, capsys: pytest.CaptureFixture[str], option: str, value: str, said: str
) -> None:
    assert refusal(capsys, option, value) == f"es-lightning: {said}"


OWN_TASK = '''
from es_lightning import Prompt, Task

class Shout(Task):
    """Earns one per capital letter."""

    def problems(self, split):
        return [Prompt(f"{split}/{i}", f"{split} {i}") for i in range(3)]

    def reward(self, prompt, completion):
        return float(sum(letter.isupper() for letter in completion)) + 0.001 * len(completion.encode())
'''
OWN_CALLBACK = '''
from lightning.pytorch import Callback

class Tell(Callback):
    """Writes down what it was given."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        with open("told.txt", "a") as file:
            file.write(f"{outputs['generation'].index}\\n")
'''


@pytest.mark.slow
@pytest.mark.callbacks
def test_a_users_own_task_and_callback_run_from_their_folder(folder: Path) -> None:
    Path("mine.py").write_text(OWN_TASK)
    Path("watch.py").write_text(OWN_CALLBACK)
    config = yaml.safe_load(Path(SMOKE).read_text())
    config["data"] = {"task": {"class_path": "mine.Shout"}}
    config["trainer"] |= {"callbacks": [{"class_path": "watch.Tell"}], "logger": False}
    Path("own.yaml").write_text(yaml.safe_dump(config))
    command = [str(Path(sys.executable).with_name("es-lightning")), "fit", "-c", "own.yaml"]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stderr[-2000:]
    assert Path("told.txt").read_text().split() == ["0", "1", "2"]
    assert Path("runs/own/summary.json").is_file()
