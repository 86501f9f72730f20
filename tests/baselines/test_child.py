"""The process that TRL runs in: what it sees of the machine, and that it ends with its parent."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch

from es_lightning.baselines import child as child_module
from es_lightning.baselines.child import Child, seeing_only

BUSY = """
import signal, sys
from es_lightning.baselines import trl_process

def train(job, parent):
    parent.tell("busy")
    signal.pause()  # as in an update, it reads nothing

trl_process.train = train
trl_process.main(int(sys.argv[1]))
"""
PARENT = """
import sys
from pathlib import Path
from es_lightning.baselines import child as module
module.SCRIPT = Path(sys.argv[1])
with module.Child({}, Path(sys.argv[2])) as child:
    for message in child.messages():
        print(child._process.pid, flush=True)
"""


def has_ended(pid: int, within: float) -> bool:
    """Whether a process ends within some seconds; it may be a zombie then, if nobody asks after it."""
    try:
        process = psutil.Process(pid)
        process.wait(timeout=within)
    except psutil.TimeoutExpired:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
    return True


def test_it_ends_with_a_parent_that_is_killed_while_it_works(tmp_path: Path) -> None:
    script = tmp_path / "busy.py"
    script.write_text(BUSY)
    command = [sys.executable, "-c", PARENT, str(script), str(tmp_path / "trl.log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert not has_ended(pid, within=0)
        parent.send_signal(signal.SIGKILL)
    survived = not has_ended(pid, within=5)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    assert not survived


def test_it_does_nothing_for_a_parent_that_has_died_already(tmp_path: Path) -> None:
    script = tmp_path / "busy.py"
    script.write_text(BUSY)
    another = str(os.getppid())
    done = subprocess.run(
        [sys.executable, str(script), another], input="{}\n", capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("device", "seen", "wanted"),
    [
        ("cuda:0", None, "0"),
        ("cuda:5", None, "5"),
        ("cuda", None, "0"),
        ("cuda:0", "", "0"),
        ("cuda:1", "6,2", "2"),
        ("cuda:0", " GPU-1b2c , GPU-3d4e", "GPU-1b2c"),
        ("cpu", None, None),
        ("cpu", "0,1", "0,1"),
    ],
)
def test_it_sees_the_gpu_that_its_parent_uses(
    device: str, seen: str | None, wanted: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "tells.py"
    script.write_text("import json, os; print(json.dumps(dict(os.environ)))")
    monkeypatch.setattr(child_module, "SCRIPT", script)
    monkeypatch.setenv("A_VARIABLE_OF_THE_PARENT", "kept")
    if seen is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
    with Child({}, tmp_path / "trl.log", seeing_only(torch.device(device))) as child:
        [environment] = child.messages()
    assert environment.get("CUDA_VISIBLE_DEVICES") == wanted
    assert environment["A_VARIABLE_OF_THE_PARENT"] == "kept"
