"""The command line with several ranks, as users start it: by itself, under torchrun, and stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from es_lightning.journal.entry import read_journal

ROOT = Path(__file__).parents[2]
SMOKE = str(ROOT / "configs" / "smoke_cpu.yaml")
PYTHON = sys.executable

# A task of a user's own, which makes trouble where a file tells it to.
TROUBLE = '''
import os
import signal
from pathlib import Path
from es_lightning import Prompt, Task

class Trouble(Task):
    """Earns by the letters; rank 1 may be struck in its seventh reward."""

    calls = 0

    def problems(self, split):
        return [Prompt(f"{split}/{i}", f"{split} {i}") for i in range(4)]

    def reward(self, prompt, completion):
        self.calls += 1
        trap = Path("trap")
        if os.environ.get("LOCAL_RANK") == "1" and self.calls == 7 and trap.exists():
            blow = trap.read_text()
            trap.unlink()
            os.kill(os.getpid(), getattr(signal, blow))
        return float(sum(map(ord, completion)) % 97)
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "trouble.py").write_text(TROUBLE)
    return tmp_path


def command(*arguments: str) -> list[str]:
    fixed = {
        "trainer.logger": "false",
        "data": "null",
        "data.task": "trouble.Trouble",
        "trainer.devices": "2",
        "data.grading.workers": "0",  # the blow is for the rank, not for a grader of its
    }
    fixed |= {"trainer.val_check_interval": "1", "report.export": "false"}
    options = [f"--{name}={value}" for name, value in fixed.items() if value != "null"]
    return ["-m", "es_lightning", "fit", "-c", SMOKE, "--data.prompts_per_generation=4", *options, *arguments]


def start(folder: Path, *words: str) -> "subprocess.Popen[str]":
    clean = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT", "OMP_NUM_THREADS")
    environment = {name: value for name, value in os.environ.items() if name not in clean}
    pipe = subprocess.PIPE
    return subprocess.Popen(words, cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True)


def checksums(folder: Path) -> list[str]:
    return [entry.checksum for entry in read_journal(folder / "journal.jsonl")[1]]


def ranks_of(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def gone(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=5)
    return not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.ddp
@pytest.mark.slow
@pytest.mark.long
def test_a_hung_rank_ends_the_run_and_leaves_no_process_behind(folder: Path) -> None:
    (folder / "trap").write_text("SIGSTOP")
    strategy = '{"class_path": "PopulationStrategy", "init_args": {"timeout_seconds": 5}}'
    process = start(folder, PYTHON, *command(f"--trainer.strategy={strategy}"))
    while (folder / "trap").exists() or not (ranks := ranks_of(process)):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    struck = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - struck < 20
    assert process.returncode == 1, errors
    assert "es-lightning: rank 1 died, or did not come within 5 s" in errors
    assert ranks
    assert gone(ranks)


@pytest.mark.ddp
@pytest.mark.slow
@pytest.mark.long
def test_a_hung_rank_dies_with_the_one_that_launched_it(folder: Path) -> None:
    (folder / "trap").write_text("SIGSTOP")
    process = start(folder, PYTHON, *command())
    while (folder / "trap").exists() or not (ranks := ranks_of(process)):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    process.kill()
    assert ranks
    assert gone(ranks)


@pytest.mark.ddp
@pytest.mark.slow
@pytest.mark.long
def test_sigterm_to_the_command_stops_all_ranks_with_a_checkpoint(folder: Path) -> None:
    process = start(folder, PYTHON, *command("--trainer.max_steps=10000", "--trainer.limit_val_batches=0"))
    journal = folder / "runs" / "smoke_cpu" / "journal.jsonl"
    while not journal.exists() or len(journal.read_text().splitlines()) < 4:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    ranks = ranks_of(process)
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert time.monotonic() - started < 10
    assert process.returncode == 143, errors
    assert "es-lightning: stopped by SIGTERM" in errors
    assert gone(ranks)
    stopped = list((journal.parent / "checkpoints").glob("stopped-step=*.ckpt"))
    assert [path.stem.split("=")[1] for path in stopped] == [str(len(checksums(journal.parent)))]


@pytest.mark.ddp
@pytest.mark.slow
@pytest.mark.long
def test_torchrun_restarts_a_killed_rank_and_the_bits_are_those_of_one_rank(folder: Path) -> None:
    alone = start(folder, PYTHON, *command("--trainer.devices=1", "--trainer.default_root_dir=alone"))
    assert alone.wait(120) == 0, alone.communicate()[1]
    (folder / "trap").write_text("SIGKILL")
    torchrun = [
        PYTHON,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "--max-restarts=2",
    ]
    arguments = command("--trainer.default_root_dir=restarted", "--ckpt_path=last")
    process = start(folder, *torchrun, *arguments)
    _, errors = process.communicate(timeout=180)
    assert process.returncode == 0, errors
    assert not (folder / "trap").exists()
    assert "exitcode  : -9" in errors or "exitcode: -9" in errors
    assert checksums(folder / "restarted") == checksums(folder / "alone")
    summary = json.loads((folder / "restarted" / "summary.json").read_text())
    assert summary["centre_checksum"] == checksums(folder / "alone")[-1]
