"""Runs that are killed, stopped or struck at every moment of a generation, and then resumed: same bits."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.faults import MOMENTS, Fault
from tests.helpers.ranks import Run, fit, start, wait


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run that every resumed one must end like."""
    run = Run(tmp_path_factory.mktemp("undisturbed"))
    assert fit(run) == [0], run.log()
    return run


def at(moment: str, **options: object) -> Fault:
    return Fault(moment, generation=4 if moment == "checkpoint" else 3, **options)  # type: ignore[arg-type]


def resume(folder: Path, undisturbed: Run, world: int = 1, **options: Any) -> Run:
    """Resume a run and hold it against the undisturbed one."""
    run = Run(folder, resume=True, **options)
    assert fit(run, world) == [0] * world, run.log()
    assert run.lines() == undisturbed.lines()
    for rank in range(world):
        report, whole = run.report(rank), undisturbed.report()
        assert report["checksum"] == whole["checksum"]
        assert report["val"] in ({}, whole["val"])  # none if the last validation came before the end
    return run


SELDOM = [pytest.mark.slow, pytest.mark.faults]  # too slow for every day
NEVER_IN_CI = [*SELDOM, pytest.mark.long]


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param(moment, marks=() if moment == "generate" else SELDOM)
        for moment in (*MOMENTS, "journal", "validate")
    ],
)
def test_a_killed_run_ends_like_the_undisturbed_one(tmp_path: Path, undisturbed: Run, moment: str) -> None:
    fault = Fault("validate", generation=4) if moment == "validate" else at(moment)
    assert fit(Run(tmp_path, fault=fault)) == [-9]
    run = resume(tmp_path, undisturbed)
    assert run.report()["restored_from"] is not None
    # What the journal knows is not rolled out again.
    assert run.report()["rolled_out"] == ([4] if fault.generation == 4 else [3, 4])
    assert not list((tmp_path / "checkpoints").glob("*.part"))


STRUCK = [*((moment, 1) for moment in MOMENTS), ("generate", 0), ("update", 0)]
DAILY = [("gather", 1)]
STRUCK_IN_CI = [*DAILY, ("update", 0), ("generate", 1)]


@pytest.mark.ddp
@pytest.mark.parametrize(
    ("moment", "rank"),
    [
        pytest.param(*each, marks=() if each in DAILY else SELDOM if each in STRUCK_IN_CI else NEVER_IN_CI)
        for each in STRUCK
    ],
)
def test_one_of_two_ranks_is_killed(tmp_path: Path, undisturbed: Run, moment: str, rank: int) -> None:
    started = time.monotonic()
    run = Run(tmp_path, fault=at(moment, rank=rank))
    codes = fit(run, world=2)
    assert codes[rank] == -9
    assert codes[1 - rank] == 1, "the other one has to stop by itself"
    assert time.monotonic() - started < 20
    if moment in {"perturb", "generate", "gather"} and rank == 1:
        assert "RankError: rank 1 died" in run.log(0)
    resume(tmp_path, undisturbed, world=2)


@pytest.mark.ddp
@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.parametrize(
    ("moment", "rank"),
    [
        ("update", 0),
        ("send", 1),
        pytest.param("update", 1, marks=pytest.mark.long),
        pytest.param("send", 0, marks=pytest.mark.long),
    ],
)
def test_one_of_two_ranks_is_killed_in_a_shared_update(
    tmp_path: Path, undisturbed: Run, moment: str, rank: int
) -> None:
    """While it makes its share of the noise, and while gradients are sent; half of the centre has moved."""
    started = time.monotonic()
    run = Run(tmp_path, share_update=True, fault=at(moment, rank=rank))
    codes = fit(run, world=2)
    assert codes[rank] == -9
    assert codes[1 - rank] == 1
    assert time.monotonic() - started < 20
    assert f"RankError: rank {rank} died" in run.log(1 - rank)
    assert len(journal_lines(tmp_path)) == 4  # header and generations 0, 1, 2
    resume(tmp_path, undisturbed, world=2, share_update=True)


@pytest.mark.parametrize(
    ("moment", "name"),
    [
        ("generate", "SIGTERM"),
        pytest.param("update", "SIGTERM", marks=SELDOM),
        pytest.param("validate", "SIGTERM", marks=SELDOM),
        pytest.param("generate", "SIGINT", marks=SELDOM),
    ],
)
def test_a_signal_leaves_a_checkpoint_behind(
    tmp_path: Path, undisturbed: Run, moment: str, name: str
) -> None:
    started = time.monotonic()
    fault = Fault(moment, action=name, generation=4 if moment == "validate" else 3)
    assert fit(Run(tmp_path, fault=fault)) == [128 + getattr(signal, name)]
    assert time.monotonic() - started < 10
    stopped = 4 if moment in {"update", "validate"} else 3  # an update is finished, a rollout abandoned
    assert (tmp_path / "checkpoints" / f"stopped-step={stopped}.ckpt").is_file()
    run = resume(tmp_path, undisturbed)
    assert run.report()["restored_from"] == f"stopped-step={stopped}.ckpt"


@pytest.mark.slow
@pytest.mark.faults
def test_a_second_run_in_the_folder_is_refused_and_harms_nothing(tmp_path: Path, undisturbed: Run) -> None:
    first = Run(tmp_path, fault=Fault("generate", action="SIGSTOP", generation=3))
    [process] = start(first)
    wait_until(lambda: len(journal_lines(tmp_path)) == 4)
    for resumes in (True, False):
        second = Run(tmp_path, resume=resumes)
        assert fit(second) == [1]
        assert f"UsageError: {tmp_path} is in use by another run (process {process.pid} on" in second.log()
    os.kill(process.pid or 0, signal.SIGCONT)
    assert wait([process]) == [0]
    assert first.lines() == undisturbed.lines()
    resume(tmp_path, undisturbed)


@pytest.mark.ddp
@pytest.mark.parametrize("name", ["SIGINT", pytest.param("SIGTERM", marks=SELDOM)])
def test_a_signal_stops_all_ranks(tmp_path: Path, undisturbed: Run, name: str) -> None:
    run = Run(tmp_path, fault=Fault("generate", action="SIGSTOP", generation=3, rank=1))
    ranks = start(run, world=2)
    wait_until(lambda: len(journal_lines(tmp_path)) == 4)  # header and generations 0, 1, 2
    time.sleep(1)  # rank 0 waits for rank 1, which stands still
    started = time.monotonic()
    for rank in ranks:
        os.kill(rank.pid or 0, getattr(signal, name))
    os.kill(ranks[1].pid or 0, signal.SIGCONT)
    assert wait(ranks) == [128 + getattr(signal, name)] * 2
    assert time.monotonic() - started < 10
    resume(tmp_path, undisturbed, world=2)


@pytest.mark.ddp
@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, pytest.param(1, marks=pytest.mark.long)])
def test_a_rank_that_hangs_is_named_within_the_time_out(tmp_path: Path, rank: int) -> None:
    run = Run(tmp_path, timeout_seconds=4, fault=Fault("generate", action="hang", rank=rank))
    ranks = start(run, world=3)
    others = [process for index, process in enumerate(ranks) if index != rank]
    wait_until(lambda: len(journal_lines(tmp_path)) == 4)
    started = time.monotonic()
    for process in others:
        process.join(10)
    assert time.monotonic() - started < 8
    assert [process.exitcode for process in others] == [1, 1]
    assert wait(ranks, 0)[rank] is None  # to end a process that stands still is the launcher's part
    # Rank 0 looks for the missing one; the others learn from it, or miss rank 0.
    assert f"rank {rank} died, or did not come within 4 s" in run.log(0 if rank else 1)


@pytest.mark.slow
@pytest.mark.faults
def test_an_engine_that_fails_stops_the_run_with_the_centre_intact(tmp_path: Path, undisturbed: Run) -> None:
    run = Run(tmp_path, fault=Fault("generate", action="raise"))
    assert fit(run) == [1]
    assert "the engine failed on member 0 of generation 3 (RuntimeError: injected)" in run.log()
    assert len(journal_lines(tmp_path)) == 4
    resume(tmp_path, undisturbed)


@pytest.mark.slow
@pytest.mark.faults
def test_a_member_is_tried_once_more_if_so_configured(tmp_path: Path, undisturbed: Run) -> None:
    retry = {"retry_member": True}
    once = Run(tmp_path / "once", fault=Fault("generate", action="raise"), options=retry)
    assert fit(once) == [0], once.log()
    assert once.lines() == undisturbed.lines()
    assert "tried once more" in once.log()
    twice = Run(tmp_path / "twice", fault=Fault("generate", action="raise", times=2), options=retry)
    assert fit(twice) == [1]
    assert "member 0 of generation 3 twice" in twice.log()


@pytest.mark.ddp
@pytest.mark.slow
@pytest.mark.faults
def test_a_failure_on_one_rank_is_told_to_the_others(tmp_path: Path) -> None:
    run = Run(tmp_path, fault=Fault("generate", action="raise", rank=1))
    assert fit(run, world=2) == [1, 1]
    assert "RankError: rank 1 failed in generation 3: the engine failed on member 1" in run.log(0)
    assert "RolloutError: the engine failed on member 1" in run.log(1)


def journal_lines(folder: Path) -> list[str]:
    path = folder / "journal.jsonl"
    return path.read_text().splitlines() if path.exists() else []


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.02)
