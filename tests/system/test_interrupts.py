"""Ctrl-C at any moment of a command: one line, exit code 130, no process left; a second one ends it now."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from es_lightning.cli import main
from tests.helpers.ranks import CONTEXT

SMOKE = str(Path(__file__).parents[2] / "configs" / "smoke_cpu.yaml")
PATIENCE_SECONDS = 60

# A callback of a user's own, which presses Ctrl-C at a moment, or hangs and waits for it.
PRESSES = """
import os
import signal
import time
from pathlib import Path

import psutil
from lightning.pytorch import Callback


class Presses(Callback):
    def __init__(self, moment: str) -> None:
        self.moment = moment
        self.reached("__init__")

    def reached(self, moment: str) -> None:
        if moment == self.moment:
            Path("children").write_text(" ".join(str(each.pid) for each in psutil.Process().children(True)))
            os.kill(os.getpid(), signal.SIGINT)

    def setup(self, trainer, pl_module, stage) -> None:
        self.reached("setup")

    def on_fit_start(self, trainer, pl_module) -> None:
        self.reached("on_fit_start")

    def on_train_start(self, trainer, pl_module) -> None:
        self.reached("on_train_start")

    def on_train_batch_end(self, trainer, pl_module, *_) -> None:
        if self.moment == "hang":
            Path("children").write_text(" ".join(str(each.pid) for each in psutil.Process().children(True)))
            Path("hangs").touch()
            while True:
                time.sleep(0.05)
"""


def run(folder: Path, moment: str) -> None:
    """Fit in this process, which is a child of the test's, as the command does."""
    os.chdir(folder)
    for descriptor in (1, 2):
        os.dup2(os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    sys.argv = ["es-lightning"]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the forking server ignores it
    callback = ["--trainer.callbacks+=presses.Presses", f"--trainer.callbacks.moment={moment}"]
    main(["fit", "-c", SMOKE, "--trainer.logger=false", "--report.export=false", *callback])


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.02)


def gone(pids: str) -> bool:
    """Whether processes end within seconds."""
    processes = []
    for pid in pids.split():
        with contextlib.suppress(psutil.NoSuchProcess):
            processes.append(psutil.Process(int(pid)))
    return not psutil.wait_procs(processes, timeout=5)[1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "presses.py").write_text(PRESSES)
    return tmp_path


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.parametrize("moment", ["__init__", "setup", "on_fit_start", "on_train_start"])
def test_ctrl_c_before_the_first_generation_is_one_line(folder: Path, moment: str) -> None:
    process = CONTEXT.Process(target=run, args=(folder, moment))
    process.start()
    process.join(PATIENCE_SECONDS)
    log = (folder / "log").read_text()
    assert process.exitcode == 130, log
    assert log.strip().splitlines()[-1] == "es-lightning: stopped by SIGINT"
    assert "Interrupt" not in log  # neither Python's exception nor ours
    assert not list(folder.rglob("*.ckpt"))
    children = (folder / "children").read_text()
    assert bool(children) == moment.startswith("on_")  # the graders run by then
    assert gone(children)


@pytest.mark.slow
@pytest.mark.faults
def test_a_second_ctrl_c_ends_a_run_that_hangs(folder: Path) -> None:
    process = CONTEXT.Process(target=run, args=(folder, "hang"))
    process.start()
    wait_until((folder / "hangs").exists)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    os.kill(process.pid, signal.SIGINT)  # the echo of a launcher is no second one
    wait_until(lambda: "Ctrl-C again ends the run at once" in (folder / "log").read_text())
    time.sleep(1)
    assert process.is_alive()
    pressed = time.monotonic()
    os.kill(process.pid, signal.SIGINT)
    process.join(PATIENCE_SECONDS)
    assert time.monotonic() - pressed < 10
    assert process.exitcode == 130
    assert "Traceback" not in (folder / "log").read_text()
    assert gone((folder / "children").read_text())


@pytest.mark.slow
@pytest.mark.faults
def test_ctrl_c_while_modules_load_is_one_line(folder: Path) -> None:
    command = [sys.executable, "-m", "es_lightning", "fit", "-c", SMOKE]
    process = subprocess.Popen(
        command,
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.SIG_DFL
        ),  # a shell in the background ignores it
    )
    wait_until(lambda: "libtorch_cpu" in Path(f"/proc/{process.pid}/maps").read_text())
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 130
    first, last = [line for line in errors.splitlines() if line.strip()]
    assert first.startswith("starting es-lightning fit")
    assert last == "es-lightning: stopped by SIGINT."
    assert not (folder / "runs").exists()
