"""Checkpoints: whole or not at all, read without running code, kept as ModelCheckpoint is told."""

import os
import pickle
import re
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.optim.lr_scheduler import StepLR

from es_lightning.cli import command_line as cli
from es_lightning.datamodule import TaskDataModule
from es_lightning.errors import StorageError, UsageError
from es_lightning.system.checkpoint import (
    AtomicCheckpoint,
    check_checkpoint,
    newest,
    newest_step,
    read_checkpoint,
)
from tests.helpers.fits import Letters, Records, module, trainer


def save(path: Path, step: int, size: int = 10) -> None:
    AtomicCheckpoint().save_checkpoint({"global_step": step, "weights": torch.zeros(size)}, path)


def test_a_checkpoint_goes_round(tmp_path: Path) -> None:
    content = {"global_step": 3, "weights": torch.arange(5.0), "journal": ["{}"], "nested": {"a": (1, None)}}
    AtomicCheckpoint().save_checkpoint(content, tmp_path / "deep" / "one.ckpt")
    found = AtomicCheckpoint().load_checkpoint(tmp_path / "deep" / "one.ckpt")
    assert torch.equal(found.pop("weights"), torch.arange(5.0))
    assert found == {"global_step": 3, "journal": ["{}"], "nested": {"a": (1, None)}}
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["one.ckpt"]


@contextmanager
def full_disk() -> Iterator[None]:
    """No file of this process can grow beyond 8 kB: writes fail as on a full disk, a report's as well."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_previous_checkpoint_intact(tmp_path: Path) -> None:
    path = tmp_path / "one.ckpt"
    save(path, 1)
    before = path.read_bytes()
    said = r"one.ckpt could not be written .*; what one.ckpt held before is"
    with pytest.raises(StorageError, match=said), full_disk():
        save(path, 2, size=10**6)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["one.ckpt"]


def test_a_folder_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file where a folder should be")
    with pytest.raises(StorageError, match="could not be written"):
        save(tmp_path / "file" / "one.ckpt", 1)


def test_a_read_only_folder_says_so() -> None:
    with pytest.raises(StorageError, match="mend the folder's permissions"):
        save(Path("/sys/one.ckpt"), 1)  # a folder that not even root can write


def test_a_kernel_that_refuses_to_write_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "one.ckpt", 1)
    before = (tmp_path / "one.ckpt").read_bytes()

    def refuse(*_: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageError, match="Read-only file system"):
        save(tmp_path / "one.ckpt", 2)
    assert (tmp_path / "one.ckpt").read_bytes() == before


class Malicious:
    """Would make a folder when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_pickle_with_code_in_it_is_refused_and_not_run(tmp_path: Path, how: str) -> None:
    path, target = tmp_path / "evil.ckpt", tmp_path / "broken-into"
    content = {"global_step": 1, "state_dict": Malicious(target)}
    if how == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    with pytest.raises(UsageError, match=r"evil.ckpt was not read.*could run code"):
        trainer(tmp_path / "run", strategy="population").fit(
            module(), TaskDataModule(Letters()), ckpt_path=path
        )
    assert newest(tmp_path) is None
    assert not target.exists()


def test_a_missing_or_torn_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no checkpoint .*none.ckpt"):
        read_checkpoint(tmp_path / "none.ckpt")
    save(tmp_path / "one.ckpt", 1, size=10**5)
    (tmp_path / "torn.ckpt").write_bytes((tmp_path / "one.ckpt").read_bytes()[:1000])
    with pytest.raises(UsageError, match=r"torn.ckpt was not read: it is damaged"):
        read_checkpoint(tmp_path / "torn.ckpt")


def test_the_newest_is_the_one_of_the_latest_generation(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert newest(tmp_path) is None
    assert newest_step(tmp_path) is None
    for step in (10, 9, 2):
        save(tmp_path / f"{step}.ckpt", step)
    (tmp_path / "99.ckpt").write_bytes(b"torn")
    assert newest(tmp_path) == tmp_path / "10.ckpt"
    assert newest_step(tmp_path) == 10
    assert "99.ckpt cannot be read" in caplog.text


def fit(
    folder: Path, steps: int, checkpoint: ModelCheckpoint, path: Path | None = None, **options: Any
) -> Any:
    tuned, records = module(**options), Records()
    run = trainer(
        folder,
        steps,
        [records, checkpoint],
        strategy="population",
        enable_checkpointing=True,
        val_check_interval=1,
    )
    run.fit(tuned, TaskDataModule(Letters(), prompts_per_generation=3), ckpt_path=path)
    return tuned, records


def test_the_last_k_are_kept(tmp_path: Path) -> None:
    keep = ModelCheckpoint(tmp_path / "kept", monitor="step", mode="max", save_top_k=2, filename="{step}")
    fit(tmp_path, 4, keep)
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["step=3.ckpt", "step=4.ckpt"]


@pytest.mark.slow
def test_the_best_is_kept(tmp_path: Path) -> None:
    keep = ModelCheckpoint(tmp_path / "kept", monitor="val/reward", mode="max", filename="{step}")
    _, records = fit(tmp_path, 4, keep)
    assert len(list((tmp_path / "kept").iterdir())) == 1
    assert keep.best_model_score is not None
    best = read_checkpoint(Path(keep.best_model_path))
    assert len(best["journal"]) == best["global_step"] + 1
    assert records.checksums[1::2][best["global_step"] - 1] in best["journal"][-1]


@pytest.mark.slow
def test_checkpoints_between_validations_resume_to_the_same_bits(tmp_path: Path) -> None:
    keep = ModelCheckpoint(tmp_path / "kept", every_n_train_steps=1, save_top_k=-1, filename="{step}")
    whole, _ = fit(tmp_path / "whole", 4, keep)
    resumed, records = fit(
        tmp_path / "other", 4, ModelCheckpoint(tmp_path / "b"), tmp_path / "kept" / "step=2.ckpt"
    )
    assert resumed.checksum() == whole.checksum()
    assert [record.index for record in records.generations] == [2, 3]
    metrics = [
        {k: v for k, v in each.trainer.callback_metrics.items() if "time" not in k}
        for each in (whole, resumed)
    ]
    assert metrics[0]["val/reward"] == metrics[1]["val/reward"]


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["Adam", "momentum"])
def test_optimizer_scheduler_and_journal_resume_to_the_same_bits(tmp_path: Path, optimizer: str) -> None:
    makers: dict[str, Any] = {
        "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
        "Adam": lambda p: torch.optim.Adam(p, lr=0.01),
    }
    options: dict[str, Any] = {
        "optimizer": makers[optimizer],
        "lr_scheduler": lambda optimizer: StepLR(optimizer, 2, gamma=0.5),
    }
    whole, straight = fit(tmp_path / "whole", 5, ModelCheckpoint(tmp_path / "a"), **options)
    keep = ModelCheckpoint(tmp_path / "kept", save_top_k=-1, filename="{step}")
    fit(tmp_path / "run", 3, keep, **options)
    resumed, records = fit(tmp_path / "run", 5, keep, tmp_path / "kept" / "step=2.ckpt", **options)
    assert resumed.checksum() == whole.checksum()
    # Generation 2 came after the checkpoint and before the stop: the journal has it.
    assert [bool(record.evaluations) for record in records.generations] == [False, True, True]
    assert [record.lr for record in records.generations] == [r.lr for r in straight.generations[2:]]


# What is no checkpoint of a run ------------------------------------------------------------------------

OLD = Path(__file__).parents[1] / "data" / "run_of_0_1_0"
[KEPT] = (OLD / "checkpoints").iterdir()


def with_parts(**parts: Any) -> Callable[[Path], None]:
    """A real checkpoint with other parts; None leaves one out."""

    def write(path: Path) -> None:
        content = torch.load(KEPT, weights_only=True) | {
            name.replace("__", "-"): parts[name] for name in parts
        }
        torch.save({name: value for name, value in content.items() if value is not None}, path)

    return write


def holding(value: Any) -> Callable[[Path], None]:
    return lambda path: torch.save(value, path)


def made_of(content: bytes) -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(content)


ODD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "absent": (lambda path: None, "there is no checkpoint"),
    "folder": (lambda path: path.mkdir(), "is a folder and no checkpoint"),
    "pipe": (lambda path: os.mkfifo(path), "is no file"),
    "nothing": (made_of(b""), "is empty"),
    "text": (made_of(b"step 3\n"), "was not read: it is damaged"),
    "pickle": (made_of(pickle.dumps({"global_step": 3})), "."),
    "truncated": (made_of(KEPT.read_bytes()[:-1000]), "was not read: it is damaged"),
    "journal": (made_of((OLD / "journal.jsonl").read_bytes()), "is a journal and no checkpoint"),
    "list": (holding([1]), "holds a list and no checkpoint"),
    "tensor": (holding(torch.zeros(2)), "holds a Tensor and no checkpoint"),
    "weights of another program": (holding({"weight": torch.zeros(2)}), 'no "pytorch-lightning_version"'),
    "no version": (with_parts(**{"pytorch-lightning_version": None}), 'no "pytorch-lightning_version"'),
    "version": (with_parts(**{"pytorch-lightning_version": "new"}), "which has to be a version"),
    "step text": (with_parts(global_step="four"), "it has 'four' as \"global_step\""),
    "step tensor": (with_parts(global_step=torch.zeros(2)), 'it has a Tensor as "global_step"'),
    "step negative": (with_parts(global_step=-1), '-1 as "global_step"'),
    "no state": (with_parts(state_dict=None), 'no "state_dict"'),
    "state of texts": (with_parts(state_dict={"centre": "x"}), '"state_dict"'),
    "no journal": (with_parts(journal=None), "holds no journal, so it is none of this library's"),
    "journal text": (with_parts(journal="lines"), '"journal", which has to be a list of lines'),
    "journal empty": (with_parts(journal=[]), '"journal"'),
    "no optimizer": (with_parts(optimizer_states=None), "holds only weights"),
    "optimizers": (with_parts(optimizer_states=[]), '"optimizer_states"'),
    "no loops": (with_parts(loops=None), 'no "loops"'),
    "loops": (with_parts(loops={}), "a mapping with fit_loop"),
    "schedulers": (with_parts(lr_schedulers=[3]), '"lr_schedulers"'),
    "steered": (with_parts(steered={"after": None, "speed": 3}), '"steered"'),
}


@pytest.mark.parametrize("name", ODD)
def test_what_is_no_checkpoint_of_a_run_is_refused_in_one_sentence(tmp_path: Path, name: str) -> None:
    make, words = ODD[name]
    path = tmp_path / "odd.ckpt"
    make(path)
    with pytest.raises(UsageError, match=re.escape(words)) as caught:
        check_checkpoint(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "give" in str(caught.value).lower()


@pytest.mark.parametrize("path", [Path("x" * 300), Path("a\0b"), Path("/dev/zero")])
def test_a_name_that_leads_to_no_file_is_refused(path: Path) -> None:
    with pytest.raises(UsageError, match="there is no checkpoint|is no file"):
        check_checkpoint(path)


def test_a_checkpoint_of_0_1_0_is_one(tmp_path: Path) -> None:
    assert check_checkpoint(KEPT)["global_step"] == 4
    with_parts(optimizer_states=None, lr_schedulers=None, loops=None, callbacks=None)(
        tmp_path / "weights.ckpt"
    )
    assert check_checkpoint(tmp_path / "weights.ckpt", resumes=False)["global_step"] == 4


@given(position=st.integers(0, 3000), value=st.integers(0, 255))
@settings(max_examples=25)
def test_any_byte_may_be_wrong(tmp_path_factory: pytest.TempPathFactory, position: int, value: int) -> None:
    path = tmp_path_factory.mktemp("bytes") / "one.ckpt"
    save(path, 1)
    content = bytearray(path.read_bytes())
    content[position % len(content)] = value
    path.write_bytes(content)
    with suppress(UsageError):
        check_checkpoint(path)


def test_what_is_no_checkpoint_is_passed_over_by_last(tmp_path: Path) -> None:
    save(tmp_path / "3.ckpt", 3)
    (tmp_path / "9.ckpt").mkdir()
    os.mkfifo(tmp_path / "8.ckpt")
    for name, value in {"7": [7], "6": {"global_step": "six"}, "5": {"global_step": True}, "4": {}}.items():
        torch.save(value, tmp_path / f"{name}.ckpt")
    (tmp_path / "2.ckpt").touch()
    assert newest(tmp_path) == tmp_path / "3.ckpt"


@pytest.mark.parametrize("strategy", ["population", "auto"])
@pytest.mark.parametrize(
    "name", ["list", "journal", "no version", "no optimizer", "other model", "torn", "parent"]
)
def test_a_fit_refuses_it(tmp_path: Path, name: str, strategy: str) -> None:
    if strategy == "auto" and name in ("list", "journal", "no version"):
        pytest.skip("Lightning's own strategies read the file themselves")
    state = torch.load(KEPT, weights_only=True)["state_dict"]
    narrow = {key: value[..., :3] if "centre" in key else value for key, value in state.items()}
    lines = (OLD / "journal.jsonl").read_text().splitlines()[:5]
    make, words = {
        **ODD,
        "other model": (with_parts(state_dict=narrow), "holds another model than model.base: its centre."),
        "torn": (with_parts(journal=[*lines[:3], "{", lines[4]]), "is damaged in line 4"),
        "parent": (with_parts(steered={"after": 40}), "its centre is that after generation 40"),
    }[name]
    make(tmp_path / "odd.ckpt")
    with pytest.raises(UsageError, match=words) as caught:
        trainer(tmp_path / "run", strategy=strategy).fit(
            module(), TaskDataModule(Letters()), ckpt_path=tmp_path / "odd.ckpt"
        )
    assert str(tmp_path / "odd.ckpt") in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["list", "journal", "no version", "folder", "step text", "no optimizer"])
def test_the_command_line_refuses_it_before_anything_starts(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make, words = ODD[name]
    make(tmp_path / "odd.ckpt")
    monkeypatch.setattr(cli, "newest", lambda _: tmp_path / "odd.ckpt")
    with pytest.raises(SystemExit) as caught:
        cli.main(["fit", "-c", str(OLD / "config.yaml"), "--ckpt_path", "last"])
    assert caught.value.code == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
