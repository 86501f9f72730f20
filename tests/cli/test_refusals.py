"""What Lightning fails on, or accepts and does not do: one sentence, before anything starts."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.strategies import DDPStrategy

from es_lightning.cli import command_line as cli
from es_lightning.cli.refusals import refused_by_lightning
from es_lightning.datamodule import TaskDataModule
from es_lightning.distributed.ranks import Ranks
from es_lightning.errors import UsageError
from es_lightning.grading.forker import Forker
from es_lightning.rollout import HFEngine
from es_lightning.system.trainer_options import check_options
from tests.helpers.fits import Letters, module, trainer

SMOKE = str(Path(__file__).parents[2] / "configs" / "smoke_cpu.yaml")


@pytest.fixture
def nothing_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's own folder, where no grader and no engine may start."""

    def started(*args: Any) -> None:
        raise AssertionError("something was started before the refusal")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["es-lightning"])
    monkeypatch.setattr(Forker, "__init__", started)
    monkeypatch.setattr(HFEngine, "start", started)
    return tmp_path


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The sentence of a refused command, which is all that it writes to stderr."""
    common = ["fit", "-c", SMOKE, "--trainer.logger", "false", "--trainer.max_steps", "2"]
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        cli.main([*common, *arguments])
    assert caught.value.code == 2
    written = capsys.readouterr().err.strip()
    assert "Traceback" not in written
    last = written.splitlines()[-1]
    assert last.startswith("es-lightning: ")
    return last.removeprefix("es-lightning: ")


GENERATIONS = "whole number of generations"
RANKS = "the number of ranks on this machine"
TIME = "00:00:10:00"
NOT_ONE_OF_OURS = "give population, which spreads the members"
DTYPE = "the centre is float32"
OURS = [
    ("max_steps", "-5", "the number of generations"),
    ("max_epochs", "-2", "the number of passes"),
    ("min_steps", "-5", "a number of generations"),
    ("max_time", "abc", TIME),
    ("max_time", "-1", TIME),
    ("max_time", "00:00:00:00", TIME),
    ("val_check_interval", "0", GENERATIONS),
    ("val_check_interval", "-1", GENERATIONS),
    ("val_check_interval", "0.5", GENERATIONS),
    ("val_check_interval", "1.5", GENERATIONS),
    ("val_check_interval", "1.0", GENERATIONS),
    ("val_check_interval", "abc", TIME),
    ("check_val_every_n_epoch", "0", "give null and set val_check_interval"),
    ("devices", "0", RANKS),
    ("devices", "abc", RANKS),
    ("devices", "1.5", RANKS),
    ("devices", "[]", RANKS),
    ("num_nodes", "0", "the number of machines"),
    ("strategy", "populaton", NOT_ONE_OF_OURS),
    ("strategy", "ddp", NOT_ONE_OF_OURS),
    ("strategy", "fsdp", NOT_ONE_OF_OURS),
    ("accumulate_grad_batches", "2", "raise model.population"),
    ("gradient_clip_val", "1.0", "lower the optimizer's lr"),
    ("gradient_clip_algorithm", "value", "lower the optimizer's lr"),
    ("barebones", "true", "leave it out"),
    ("precision", "16-mixed", DTYPE),
    ("precision", "bf16-true", DTYPE),
    ("precision", "64", DTYPE),
    ("limit_train_batches", "0", "there would be no generation"),
    ("limit_train_batches", "1.5", "whole number of batches"),
    ("limit_train_batches", "-1", "whole number of batches"),
    ("limit_val_batches", "0.5", "one batch"),
    ("limit_test_batches", "-3", "whole number of batches"),
    ("overfit_batches", "1", "use fewer problems"),
    ("detect_anomaly", "true", "leave it out"),
    ("sync_batchnorm", "true", "leave it out"),
    ("num_sanity_val_steps", "-5", "give 0"),
    ("log_every_n_steps", "-1", "give 1"),
    ("reload_dataloaders_every_n_epochs", "-1", "leave it out"),
    ("fast_dev_run", "-1", "the number of generations to try"),
]


@pytest.mark.parametrize(("option", "value", "advice"), OURS, ids=lambda text: text[:24])
def test_an_option_of_the_trainer_is_refused_by_its_name(option: str, value: str, advice: str) -> None:
    options = {"check_val_every_n_epoch": None, option: yaml.safe_load(value)}
    with pytest.raises(UsageError, match=rf"^trainer\.{option} is .*{re.escape(advice)}"):
        check_options(options)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("max_steps", -1),
        ("max_steps", 0),
        ("max_time", "00:01:00:00"),
        ("max_time", {"hours": 2}),
        ("val_check_interval", 2),
        ("val_check_interval", "00:00:10:00"),
        ("devices", "auto"),
        ("devices", "2"),
        ("devices", "0,1"),
        ("devices", [1]),
        ("strategy", "population"),
        ("precision", "32-true"),
        ("gradient_clip_val", None),
        ("limit_train_batches", 0.5),
        ("limit_train_batches", 3.0),
        ("limit_val_batches", 0.0),
        ("limit_val_batches", 1.0),
        ("profiler", "simple"),
        ("deterministic", True),
    ],
)
def test_an_option_that_works_stays(option: str, value: Any) -> None:
    check_options({"check_val_every_n_epoch": None, option: value})


def test_a_share_of_an_epoch_works_where_epochs_count() -> None:
    check_options({"check_val_every_n_epoch": 1, "val_check_interval": 0.5})


@pytest.mark.parametrize(
    ("option", "value", "advice"),
    [
        ("max_steps", "-5", "the number of generations"),
        ("val_check_interval", "0", GENERATIONS),
        ("precision", "bf16-true", DTYPE),
        ("strategy", "ddp", NOT_ONE_OF_OURS),
        ("devices", "-1", "should be an int > 0"),
        ("devices", "[0,1]", "should be an int > 0"),
        ("accelerator", "tpuu", "Available names are"),
        ("enable_checkpointing", "false", "checkpoint.every_n_train_steps"),
        ("profiler", "simpel", "'simple', 'advanced'"),
        ("default_root_dir", "s3://bucket/run", "a folder of this machine"),
    ],
)
def test_a_run_is_refused_before_anything_starts(
    nothing_starts: Path, capsys: pytest.CaptureFixture[str], option: str, value: str, advice: str
) -> None:
    sentence = refusal(capsys, f"--trainer.{option}", value)
    assert sentence.startswith(f"trainer.{option} is ")
    assert advice in sentence
    assert not list(nothing_starts.iterdir())


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("precision", "bf16-true", DTYPE),
        ("val_check_interval", 0, GENERATIONS),
    ],
)
def test_a_trainer_made_by_hand_is_refused_too(
    nothing_starts: Path, option: str, value: Any, words: str
) -> None:
    made = trainer(nothing_starts, **{option: value})
    with pytest.raises(UsageError, match=words):
        made.fit(module(), TaskDataModule(Letters(), prompts_per_generation=3))


def test_the_folder_of_a_trainer_made_by_hand_is_tried(nothing_starts: Path) -> None:
    Path("file").touch()
    with pytest.raises(UsageError, match=r"trainer.default_root_dir is .*file"):
        trainer(Path("file")).fit(module(), TaskDataModule(Letters(), prompts_per_generation=3))


def test_a_strategy_that_reduces_gradients_is_refused() -> None:
    with pytest.raises(UsageError, match=r"trainer.strategy is DDPStrategy, .* set it to population"):
        Ranks(DDPStrategy(parallel_devices=[torch.device("cpu")])).check(population=4)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="this machine has one")
@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("trainer.accelerator", "gpu"),
        ("model.engine.init_args.device", "cuda"),
        ("model.engine.init_args.device", "gpuu"),
    ],
)
def test_a_device_that_is_not_there_is_refused(
    nothing_starts: Path, capsys: pytest.CaptureFixture[str], option: str, value: str
) -> None:
    sentence = refusal(capsys, f"--{option}", value)
    assert f"{option.removeprefix('model.').replace('init_args.', '')} is {value}" in sentence


@pytest.mark.parametrize("seed", ["-1", f"{10**23}", "true"])
def test_a_seed_that_is_none_is_refused(
    nothing_starts: Path, capsys: pytest.CaptureFixture[str], seed: str
) -> None:
    assert "give an integer from 0 to 4294967295" in refusal(capsys, "--seed_everything", seed)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("best", "--ckpt_path is best: give a checkpoint's file, or `last`"),
        ("hpc", "--ckpt_path is hpc"),
        ("registry:model", "--ckpt_path is registry:model"),
        ("", "--ckpt_path is empty"),
        ("no/such.ckpt", "there is no checkpoint no/such.ckpt"),
        ("folder.ckpt", "--ckpt_path is folder.ckpt, which is no file"),
        ("text.ckpt", "text.ckpt was not read"),
        ("empty.ckpt", "empty.ckpt"),
    ],
)
def test_what_is_no_checkpoint_is_refused_without_advice_to_run_its_code(
    nothing_starts: Path, capsys: pytest.CaptureFixture[str], path: str, words: str
) -> None:
    Path("folder.ckpt").mkdir()
    Path("text.ckpt").write_text("a story")
    Path("empty.ckpt").touch()
    sentence = refusal(capsys, "--ckpt_path", path)
    assert words in sentence
    assert "weights_only" not in sentence


@pytest.mark.parametrize("option", ["trainer.default_root_dir", "checkpoint.dirpath"])
def test_a_folder_that_is_a_file_is_refused(
    nothing_starts: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    Path("file").touch()
    sentence = refusal(capsys, f"--{option}", "file/below")
    assert sentence.startswith(f"{option} is file/below, but ")
    assert [path.name for path in nothing_starts.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [("save_top_k", "-5", "save_top_k=-5"), ("mode", "foo", "`mode` can be min, max but got foo")],
)
def test_what_lightnings_callbacks_refuse_is_one_sentence_too(
    nothing_starts: Path, capsys: pytest.CaptureFixture[str], option: str, value: str, words: str
) -> None:
    assert words in refusal(capsys, f"--checkpoint.{option}", value)


def test_an_error_of_another_library_keeps_its_traceback() -> None:
    assert refused_by_lightning(MisconfigurationException("a\n  b")) == "a b"
    with pytest.raises(ValueError, match="invalid literal") as caught:
        int("x")
    assert refused_by_lightning(caught.value) is None


@pytest.mark.slow
def test_no_generation_at_all_ends_cleanly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["es-lightning"])
    common = ["fit", "-c", SMOKE, "--trainer.logger", "false", "--report.export", "false"]
    cli.main([*common, "--trainer.max_steps", "0"])
    cli.main([*common, "--trainer.max_steps", "1", "--ckpt_path", "last", "--data.test_prompts", "1"])
    finished = Path("runs/smoke_cpu/journal.jsonl").read_text()
    cli.main([*common, "--trainer.max_steps", "1", "--ckpt_path", "last", "--data.test_prompts", "1"])
    assert Path("runs/smoke_cpu/journal.jsonl").read_text() == finished
    assert len(finished.splitlines()) == 2


TORCHRUN = {"RANK": "0", "LOCAL_RANK": "0", "GROUP_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}


@pytest.mark.parametrize(("devices", "nodes"), [("1", "1"), ("auto", "1")])
def test_a_number_of_ranks_that_is_not_that_of_torchrun(
    devices: str,
    nodes: str,
    nothing_starts: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {**TORCHRUN, "TORCHELASTIC_RUN_ID": "x", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    said = refusal(capsys, "--trainer.devices", devices, "--trainer.num_nodes", nodes)
    assert said.startswith("torchrun has started 2 ranks, but trainer.devices and trainer.num_nodes ask for ")
    assert "give --trainer.devices 2 --trainer.num_nodes 1, or start es-lightning without torchrun" in said


@pytest.mark.parametrize(
    ("backend", "drawn"),
    [
        ("module://matplotlib_inline_is_not_here.backend_inline", "agg"),
        ("module://no_such_module", "agg"),
        ("module://json", "module://json"),
        ("svg", "svg"),
    ],
)
def test_the_backend_of_a_notebook_is_not_taken_where_it_is_not_installed(
    backend: str, drawn: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``!es-lightning fit`` in a notebook inherits MPLBACKEND, and matplotlib refused to be imported."""
    monkeypatch.setenv("MPLBACKEND", backend)
    cli.main(["--version"])
    assert os.environ["MPLBACKEND"] == drawn
