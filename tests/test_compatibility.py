"""A run that version 0.1.0 made, before its modules moved: it replays, resumes and repeats bit for bit.

``tests/data/run_of_0_1_0`` is what ``es-lightning fit -c config.yaml`` left: SGD with momentum, a schedule,
antithetic pairs, and an EarlyPeak that went back to an earlier centre. The run does not depend on the last
bits of a logit: wherever a token was chosen, the two best logits are at least 2e-4 apart.
"""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from es_lightning.journal import read
from es_lightning.replay import replay
from tests.ranks import CONTEXT

OLD = Path(__file__).parent / "data" / "run_of_0_1_0"
RUN = Path("runs", "compat")  # as config.yaml has it


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's folder with the old run in it."""
    shutil.copytree(OLD, tmp_path / RUN)
    return tmp_path


def lines(path: Path) -> list[str]:
    """The entries of a journal, without what a clock decides."""
    entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[1:]]
    return [json.dumps({key: entry[key] for key in entry if key != "seconds"}) for entry in entries]


def fit(folder: Path, *arguments: str) -> None:
    """``es-lightning fit`` in a process of its own, which forks from a warm one."""
    process = CONTEXT.Process(
        target=_fit, args=(folder, [*arguments, "--trainer.enable_progress_bar", "false"])
    )
    process.start()
    process.join(120)
    process.kill()
    assert process.exitcode == 0, (folder / "log.txt").read_text(encoding="utf-8")


def _fit(folder: Path, arguments: list[str]) -> None:
    from es_lightning.cli import main

    os.chdir(folder)
    log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.argv = ["es-lightning"]
    main(["fit", "-c", str(RUN / "config.yaml"), *arguments])


def test_the_run_holds_what_it_is_kept_for() -> None:
    header, entries = read(OLD / "journal.jsonl")
    assert header["optimizer"]["settings"]["momentum"] > 0
    assert len({entry.hyper["lr"] for entry in entries}) == len(entries), "a schedule"
    assert all([member.sign for member in entry.members] == [1, -1] * 3 for entry in entries)
    assert any(json.loads(line).get("after") is not None for line in lines(OLD / "journal.jsonl"))


def test_it_replays(tmp_path: Path) -> None:
    entry = replay(OLD / "journal.jsonl", tmp_path / "model")  # compares the checksum of every generation
    assert entry.checksum == json.loads(lines(OLD / "journal.jsonl")[-1])["checksum"]


def test_it_resumes_with_its_journal(folder: Path) -> None:
    before = [(folder / RUN / name).read_text() for name in ("journal.jsonl", "rewards.jsonl")]
    fit(folder, "--ckpt_path", "last")
    assert [(folder / RUN / name).read_text() for name in ("journal.jsonl", "rewards.jsonl")] == before


def test_it_resumes_from_its_checkpoint_alone(folder: Path) -> None:
    for name in ("journal.jsonl", "rewards.jsonl"):
        (folder / RUN / name).unlink()
    fit(folder, "--ckpt_path", "last")
    assert lines(folder / RUN / "journal.jsonl") == lines(OLD / "journal.jsonl")


def test_its_configuration_gives_the_same_run_again(folder: Path) -> None:
    fit(folder, "--overwrite", "true")
    assert lines(folder / RUN / "journal.jsonl") == lines(OLD / "journal.jsonl")
    assert (folder / RUN / "rewards.jsonl").read_text() == (OLD / "rewards.jsonl").read_text()
