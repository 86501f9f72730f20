"""The lock on a run's folder, with real processes: the living are left alone, the dead are passed over."""

import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from es_lightning.errors import StorageError, UsageError
from es_lightning.system import lock
from es_lightning.system.lock import LOCK, Holder, hold

HOLD = """
import os, sys, time
from pathlib import Path
from es_lightning.system.lock import hold
{before}
release = hold(Path(sys.argv[1]))
print("held", flush=True)
{after}
sys.stdin.read()
release()
"""


@contextmanager
def another(folder: Path, before: str = "", after: str = "") -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the folder until its input ends."""
    command = [sys.executable, "-c", HOLD.format(before=before, after=after), str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "DYING_SECONDS", 0.0)
    monkeypatch.setattr(lock, "SILENT_SECONDS", 1.0)
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.1)


@pytest.mark.usefixtures("impatient")
def test_a_second_process_is_refused_and_told_who_holds_the_folder(tmp_path: Path) -> None:
    with another(tmp_path / "run") as process:
        words = rf"run is in use by another run \(process {process.pid} on {socket.gethostname()}, since 20"
        with pytest.raises(UsageError, match=words) as caught:
            hold(tmp_path / "run")
        assert "another folder with --trainer.default_root_dir." in str(caught.value)
        with pytest.raises(UsageError, match=r"another folder with --output\."):
            hold(tmp_path / "run", "--output")
        process.communicate("")
        hold(tmp_path / "run")()
    assert list(tmp_path.iterdir()) == []


def test_a_killed_process_leaves_a_lock_that_the_next_one_takes_over_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with another(tmp_path) as process:
        process.kill()
        hold(tmp_path)()
    assert caplog.text == ""


@pytest.mark.usefixtures("impatient")
def test_a_child_that_outlives_its_killed_parent_holds_nothing(tmp_path: Path) -> None:
    child = "if os.fork() == 0:\n    time.sleep(5)\n    os._exit(0)"
    with another(tmp_path, after=child) as process:
        with pytest.raises(UsageError, match="in use"):
            hold(tmp_path)
        process.kill()
        process.wait()
        hold(tmp_path)()


def test_of_many_that_begin_at_once_one_gets_the_folder(tmp_path: Path) -> None:
    code = HOLD.format(
        before="lock_at = float(sys.argv[2]); time.sleep(max(0, lock_at - time.time()))", after=""
    )
    command = [sys.executable, "-c", code, str(tmp_path), str(time.time() + 1)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    processes = [subprocess.Popen(command, text=True, **pipes) for _ in range(5)]
    losers = set(processes)
    deadline = time.monotonic() + 30
    while len(losers) > 1 and time.monotonic() < deadline:
        losers = {process for process in losers if process.poll() is None}
        time.sleep(0.05)
    [winner] = losers
    for process in set(processes) - losers:
        assert f"(process {winner.pid} on" in process.communicate()[1]
    assert winner.communicate("")[0] == "held\n"


def test_a_process_does_not_refuse_itself(tmp_path: Path) -> None:
    first, second = hold(tmp_path / "run"), hold(tmp_path / "run" / ".." / "run")
    first()
    first()
    assert (tmp_path / "run" / LOCK).exists()
    second()
    assert not (tmp_path / "run").exists()


def test_a_folder_with_something_in_it_stays(tmp_path: Path) -> None:
    release = hold(tmp_path / "deep" / "run")
    (tmp_path / "deep" / "run" / "journal.jsonl").touch()
    release()
    assert [path.name for path in (tmp_path / "deep" / "run").iterdir()] == ["journal.jsonl"]


def test_a_folder_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (Path("/sys/run"), tmp_path / "file" / "run", tmp_path / "file"):
        with pytest.raises(StorageError, match=r"cannot be written .*choose another folder"):
            hold(folder)


# Without the kernel's word --------------------------------------------------------------------------


def left(folder: Path, change: Callable[[Holder], Holder]) -> Path:
    path = folder / LOCK
    path.write_text(json.dumps(asdict(change(Holder.this()))))
    return path


@pytest.mark.parametrize("text", ["", '{"host": "a', "[]", '{"host": 1}', "\0\0"])
def test_a_name_that_was_not_written_to_its_end_is_no_holder(tmp_path: Path, text: str) -> None:
    (tmp_path / LOCK).write_text(text)
    release = hold(tmp_path)
    assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    release()


@pytest.mark.usefixtures("impatient")
def test_a_silent_holder_on_another_machine_is_dead(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    left(tmp_path, lambda this: replace(this, host="far", boot="another"))
    with caplog.at_level("INFO"):
        hold(tmp_path)()
    assert "waiting for a sign of its life, at most 1 s" in caplog.text


@pytest.mark.usefixtures("impatient")
def test_a_holder_on_another_machine_that_gives_signs_lives(tmp_path: Path) -> None:
    path, stop = (
        left(tmp_path, lambda this: replace(this, host="far", boot="another", pid=7)),
        threading.Event(),
    )

    def beat() -> None:
        while not stop.wait(0.1):
            os.utime(path)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(UsageError, match="process 7 on far"):
            hold(tmp_path)
    finally:
        stop.set()
        thread.join()


@pytest.mark.usefixtures("impatient")
def test_a_holder_gives_signs(tmp_path: Path) -> None:
    release = hold(tmp_path)
    before = (tmp_path / LOCK).stat().st_mtime_ns
    deadline = time.monotonic() + 10
    while (tmp_path / LOCK).stat().st_mtime_ns == before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert (tmp_path / LOCK).stat().st_mtime_ns > before
    release()


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch, impatient: None) -> None:
    """A file system that has no locks."""

    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)


@pytest.mark.usefixtures("no_locks")
def test_without_locks_a_process_of_this_machine_is_looked_up(tmp_path: Path) -> None:
    with another(tmp_path) as process:
        with pytest.raises(UsageError, match=rf"process {process.pid} on"):
            hold(tmp_path)
        process.kill()
        process.wait()
        hold(tmp_path)()


@pytest.mark.usefixtures("no_locks")
def test_without_locks_a_later_process_with_the_same_number_is_another(tmp_path: Path) -> None:
    path = left(tmp_path, lambda this: replace(this, pid=os.getppid(), started=1))
    release = hold(tmp_path)
    assert json.loads(path.read_text())["pid"] == os.getpid()
    release()
