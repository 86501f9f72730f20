"""Threads that wait spin on a quiet machine, and sleep beside a busy process."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from es_lightning.system import neighbours
from es_lightning.system.neighbours import NeighbourWatch, busy_seconds


def wait_for(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def stat(path: Path, busy_ticks: int) -> None:
    """As in /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal, guest, guest nice."""
    lines = [f"cpu{core} {busy_ticks} 0 0 {100 - core} 7 0 0 0 0 0" for core in (0, 1, 2)]
    path.write_text("\n".join(["cpu 9 9 9 9 9 9 9 9 9 9", *lines, "intr 5 0 0"]), encoding="ascii")


def teams() -> int:
    return sum(thread.name == "team" for thread in threading.enumerate())


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in neighbours.OPENMP_VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_threads_sleep_while_others_use_the_cores_and_spin_again_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "STAT", tmp_path / "stat")
    stat(tmp_path / "stat", 0)
    watch = NeighbourWatch((0, 1), interval_seconds=0.01)
    watch.start()
    assert not wait_for(lambda: not watch.quiet.is_set(), seconds=0.1)
    stat(tmp_path / "stat", 10_000)  # 200 s of two cores, within moments
    assert wait_for(lambda: not watch.quiet.is_set())
    assert wait_for(lambda: watch.quiet.is_set())  # nothing has come since
    assert wait_for(lambda: teams() == 0)
    watch.stop()
    assert watch.quiet.is_set()


def test_only_the_own_cores_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "STAT", tmp_path / "stat")
    stat(tmp_path / "stat", 300)
    assert busy_seconds((0, 2)) == pytest.approx(600 / os.sysconf("SC_CLK_TCK"))


@pytest.mark.parametrize("name", neighbours.OPENMP_VARIABLES)
def test_a_users_own_variable_wins(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1")
    before = threading.active_count()
    NeighbourWatch((0, 1)).start()
    assert threading.active_count() == before


def test_one_core_needs_no_watch() -> None:
    before = threading.active_count()
    watch = NeighbourWatch((0,))
    watch.start()
    assert threading.active_count() == before
    watch.stop()


TEAMS = """
import os, sys, threading
from pathlib import Path
import torch
from es_lightning.system.neighbours import _keep_a_team_until

def threads():
    return len(list(Path("/proc/self/task").iterdir()))

torch.set_num_threads(2)
torch.ones(1 << 20).exp_()
before, end = threads(), threading.Event()
thread = threading.Thread(target=_keep_a_team_until, args=(end,))
thread.start()
while threads() < before + 2: pass  # the thread, and the second one of its team
end.set()
thread.join()
while threads() > before: pass  # both are gone
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads as Linux does")
@pytest.mark.slow
@pytest.mark.faults
def test_a_team_of_openmp_comes_and_goes_with_its_thread() -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", TEAMS], check=False, timeout=60, env=environment)
    assert done.returncode == 0
