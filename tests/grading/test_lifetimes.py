"""No grading process, and nothing that one has started, outlives the run; and all of them end in silence."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress

import psutil
import pytest

from es_lightning.grading.scorer import Grading, Scorer
from tests.helpers.graders import PROMPTS, TOLERANT, Spawning, comes_true, completions

MARK = "ES_LIGHTNING_TEST_OF_LIFETIMES"
RUN = """
import os, signal, sys, time
from es_lightning.grading.scorer import Grading, Scorer
from tests.helpers.graders import *
state, end, delay = sys.argv[1], sys.argv[2], float(sys.argv[3])
signal.signal(signal.SIGINT, signal.SIG_DFL)
scorer = Scorer(Spawning(100.0 if state == "preparing" else 0.0), Grading(workers=2, timeout_seconds=100))
scorer.start()
if state == "idle":
    scorer.submit(PROMPTS[:1], ["x"])[0].result()
if state == "busy":
    scorer.submit(PROMPTS, ["hang", "hang"])
time.sleep(delay)
if end == "close":
    scorer.close()
elif end == "exit":
    sys.exit(2)
else:
    os.kill(os.getpid(), int(end))
"""
ENDS = ["close", "exit", *(str(int(signum)) for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL))]


def _marked(mark: str) -> Iterator[psutil.Process]:
    """Living processes that have inherited a mark, whatever their parent, group and session are."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                yield process


def _sleeping(mark: str) -> set[psutil.Process]:
    """Processes with the mark that are `sleep` by now: a moment after their start, and some end meanwhile."""
    sleeping = set()
    for process in _marked(mark):
        with suppress(psutil.Error):
            if process.name() == "sleep":
                sleeping.add(process)
    return sleeping


def _survivors(mark: str) -> list[str]:
    comes_true(lambda: not any(_marked(mark)))
    left = list(_marked(mark))
    for process in left:
        process.kill()
    return [str(process) for process in left]


@pytest.mark.faults
@pytest.mark.parametrize("seed", ["", pytest.param("other ", marks=pytest.mark.slow)])
@pytest.mark.parametrize("state", ["starting", "preparing", "idle", "busy"])
def test_nothing_outlives_a_run_that_ends_at_a_random_moment(state: str, seed: str) -> None:
    delays, mark = random.Random(seed + state), f"{os.getpid()} {seed}{state}"
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", RUN, state, end, str(delays.uniform(0.0, 0.4))],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, MARK: mark},
        )
        for end in ENDS
    ]
    said = [run.communicate(timeout=60)[1] for run in runs]
    assert _survivors(mark) == []
    assert said == [""] * len(runs)


@pytest.mark.faults
@pytest.mark.parametrize("victims", ["keeper", "forker", "both"])
def test_nothing_outlives_grading_processes_that_are_killed(
    victims: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = f"{os.getpid()} {victims}"
    monkeypatch.setenv(MARK, mark)
    scorer = Scorer(Spawning(prepares=False), Grading(timeout_seconds=100))
    scorer.start()
    futures = scorer.submit(PROMPTS[:1] * 3, ["x", "hang", "hang"])
    while len(_sleeping(mark)) < 9:  # three of each job
        time.sleep(0.02)
    keeper = next(process for process in _marked(mark) if process.ppid() == os.getpid())
    [forker] = keeper.children()
    for process in {"keeper": [keeper], "forker": [forker], "both": [keeper, forker]}[victims]:
        process.kill()
    assert [future.result(timeout=60)[0].failure for future in futures[1:]] == ["crash", "crash"]
    scorer.close()
    assert _survivors(mark) == []


def test_what_a_hung_grader_started_in_other_sessions_dies_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MARK, str(os.getpid()))
    scorer = Scorer(Spawning(), Grading(workers=1, timeout_seconds=1.0, **TOLERANT))
    scorer.start()
    scorer.submit(PROMPTS[:1], ["x"])[0].result()
    sleeping: set[psutil.Process] = set()

    def all_have_their_names() -> bool:
        sleeping.update(_sleeping(str(os.getpid())))
        return len(sleeping) == 6  # three of prepare, three of the first reward

    assert comes_true(all_have_their_names)
    [first, second] = scorer.round(2).add(PROMPTS, completions("hang", "x")).scores()
    assert (first["failed_timeout"], second["reward"]) == (1, 1)
    # Those of prepare are the task's own, until the run ends.
    assert comes_true(lambda: sum(p.is_running() for p in sleeping) == 3)
    scorer.close()
    assert not any(p.is_running() for p in sleeping)
    assert not list(_marked(str(os.getpid())))
