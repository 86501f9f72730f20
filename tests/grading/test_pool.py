"""Graders that hang, crash, raise or cannot be loaded, and the processes they run in."""

import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from es_lightning.errors import RewardError
from es_lightning.evaluation.gather import sums
from es_lightning.evaluation.metrics import means
from es_lightning.grading.grade import grade, pack_grades, pack_job, unpack_grades, unpack_job
from es_lightning.grading.scorer import Grading, Scorer
from es_lightning.records import Choice, Completion, Evaluation, Prompt
from es_lightning.rollout import HFEngine, Sampling
from tests.helpers.fits import fit
from tests.helpers.graders import (
    PROMPTS,
    TOLERANT,
    Batches,
    Fragile,
    Length,
    Sleepy,
    Troubled,
    Unloadable,
    comes_true,
    completions,
    score,
)


@pytest.fixture(scope="module")
def pool():
    """Four workers that do what completions say, with a time-out that no test reaches."""
    yield from opened(60.0)


@pytest.fixture(scope="module")
def hasty():
    """The same, with a time-out that hung graders reach soon."""
    yield from opened(1.25)


def opened(timeout_seconds: float) -> Iterator[Scorer]:
    """A scorer that has started, and is closed afterwards."""
    scorer = Scorer(Troubled(0.0), Grading(timeout_seconds=timeout_seconds, **TOLERANT))
    scorer.start()
    yield scorer
    scorer.close()


def many(scorer: Scorer, *texts: str) -> tuple[dict[str, float], ...]:
    """Scores of any number of completions, half of them for each prompt."""
    return scorer.round(len(texts)).add(PROMPTS, completions(*texts)).scores()


def test_order_is_kept_where_some_take_longer(pool: Scorer) -> None:
    texts = ["slow" if i % 9 == 0 else "x" * i for i in range(40)]
    assert [row["reward"] for row in many(pool, *texts)] == [len(text) for text in texts]


# Graders that fail ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("raise", "exception"),
        ("recurse", "exception"),
        ("exit", "exception"),
        ("segfault", "crash"),
        ("leave", "crash"),
    ],
)
def test_a_failed_grader_costs_its_own_completion_alone(pool: Scorer, text: str, kind: str) -> None:
    first, second, third, last = many(pool, "x", text, "xxx", "xx")
    assert [first["reward"], third["reward"], last["reward"]] == [1, 3, 2]
    assert second == {"reward": -7.0, "accuracy": 0.0, f"failed_{kind}": 1.0}


def test_hung_graders_cost_their_own_completions_alone(hasty: Scorer) -> None:
    rows = many(hasty, "x", "hang", "xxx", "spin", "xx", "x")
    assert [rows[place]["reward"] for place in (0, 2, 4, 5)] == [1, 3, 2, 1]
    assert rows[1] == rows[3] == {"reward": -7.0, "accuracy": 0.0, "failed_timeout": 1.0}


def test_eight_hung_graders_hold_up_nobody_else() -> None:
    """With four workers the others are graded long before the first of the eight reaches its limit."""
    for scorer in opened(600.0):
        submitted = scorer.submit(PROMPTS[:1] * 208, ["hang"] * 8 + ["x"] * 200)
        for future in submitted[8:]:
            assert future.result(timeout=60)[0].scores["reward"] == 1
        assert not any(future.done() for future in submitted[:8])


def test_processes_return_to_their_number_after_hangs() -> None:
    others = _workers()
    for scorer in opened(1.25):
        futures = scorer.submit(PROMPTS[:1] * 36, ["hang"] * 6 + ["x"] * 30)
        assert comes_true(lambda: len(_workers() - others) > 4)  # stand-ins
        assert [future.result()[0].failure for future in futures] == ["timeout"] * 6 + [None] * 30
        many(scorer, *["x"] * 200)  # a thread that is too many ends after a job
        assert comes_true(lambda: len(_workers() - others) <= 4)


def test_slow_graders_are_no_hung_graders() -> None:
    """All take 0.3 s, and a worker that takes 0.1 s longer than usual gets a stand-in: few are needed."""
    scorer = Scorer(Troubled(0.0), Grading(workers=2))
    scorer.start()
    before, most = _workers(), 0
    futures = scorer.submit(PROMPTS[:1] * 16, ["slow"] * 16)
    while not all(future.done() for future in futures):
        most = max(most, len(_workers() - before))
        time.sleep(0.02)
    assert all(future.result()[0].scores["reward"] == 4 for future in futures)
    assert 2 <= most <= 2 + 2 * 3
    scorer.close()


def test_what_a_grader_started_dies_with_it(hasty: Scorer, tmp_path: Path) -> None:
    note = tmp_path / "pid"
    assert "failed_timeout" in many(hasty, f"child {note}", "x")[0]
    child = int(note.read_text())
    assert comes_true(lambda: _has_ended(child))


def test_each_kind_is_shown_once_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    scorer = Scorer(Troubled(0.0), Grading(timeout_seconds=1.0, **TOLERANT))
    with caplog.at_level(logging.WARNING):
        many(scorer, "raise", "raise", "segfault", "segfault", "hang", "spin")
        many(scorer, "raise", "segfault", "segfault", "x")
    scorer.close()
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 3
    assert any("KeyError: 'no such thing'" in text and "graders.py" in text for text in told)
    assert any("Segmentation fault" in text and "graders.py" in text for text in told)
    assert any("no reward in 1 s" in text and "graders.py" in text for text in told)
    assert all("es_lightning/grading" not in text for text in told)


@pytest.mark.parametrize("workers", [0, 2])
def test_more_failures_than_allowed_stop_the_run(workers: int) -> None:
    grading = Grading(workers=workers, max_failures=0.25)
    assert len(score(Troubled(0.0), completions("x", "raise", "x", "x"), grading)) == 4
    with pytest.raises(RewardError, match=r"2 of 4 completions \(2 exception\).*max_failures 0.25.*no such"):
        score(Troubled(0.0), completions("raise", "x", "raise", "x"), grading)


def test_a_broken_reward_stops_before_the_whole_population_is_generated() -> None:
    scorer = Scorer(Troubled(0.0), Grading(workers=0, max_failures=0.1))
    graded = scorer.round(100)
    graded.add(PROMPTS, completions(*["raise"] * 10), "member 0")
    graded.add(PROMPTS, completions("raise", "x"), "member 1")
    with pytest.raises(RewardError, match="11 of 100 .* with member 1"):
        graded.add(PROMPTS, completions("x", "x"), "member 2")


def test_failures_are_counted_per_kind_in_the_metrics(pool: Scorer) -> None:
    scores = many(pool, "x", "raise", "segfault", "raise")
    assert means(scores, "val")["val/failed_exception"] == 0.5
    assert means(scores, "val")["val/failed_crash"] == 0.25
    evaluation = Evaluation(tuple(PROMPTS), tuple(completions(*"abcd")), scores)
    assert sums([evaluation])["failed_exception"] == ("2", 4)


def test_the_failure_reward_is_the_runs_or_the_tasks() -> None:
    for value, expected in ((None, -7.0), (0.0, 0.0), (-3.5, -3.5)):
        grading = Grading(workers=0, failure_reward=value, **TOLERANT)
        assert score(Troubled(0.0), completions("raise", "x"), grading)[0]["reward"] == expected


class Dawdles(HFEngine):
    """Takes its time to generate."""

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
        time.sleep(0.5)
        return super().generate(prompts, sampling)


def test_members_are_graded_while_the_next_ones_generate(tmp_path: Path) -> None:
    """Four members of two prompts: half a second each to generate, a quarter each to grade."""
    grading = Grading(workers=2)
    engine = Dawdles(dtype="float32", device="cpu")
    _, records = fit(Sleepy(0.0), tmp_path, 1, {"grading": grading}, engine=engine)
    seconds = records.generations[0].seconds
    assert seconds["generate"] >= 4 * 0.5
    assert seconds["reward"] < 0.75  # one member after the other: 4 * 0.25


def test_a_fit_goes_on_when_graders_fail(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    grading = Grading(timeout_seconds=60, max_failures=0.5)
    tuned, records = fit(Fragile(0.0), tmp_path, 2, {"grading": grading})
    scores = records.generations[0].scores
    assert 0 < scores["failed_exception"] <= 0.5
    assert any("Grading failed (exception)" in record.getMessage() for record in caplog.records)
    assert len(records.generations) == 2


# Tasks and processes -------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1])
def test_a_task_may_grade_whole_batches(workers: int) -> None:
    grading = Grading(workers=workers, **TOLERANT)
    rewards = [row["reward"] for row in score(Batches(0.0), completions("a", "b", "one", "d"), grading)]
    assert rewards == [4, 4, 0, 4]
    for text, said in (("raise", "the batch"), ("short", "1 rewards for 4 completions")):
        scorer = Scorer(Batches(0.0), Grading(workers=workers))
        with pytest.raises(RewardError, match=f"4 of 4 .*{said}"):
            scorer.round(4).add(PROMPTS, completions("a", "b", text, "d")).scores()
        scorer.close()


def test_a_task_that_another_process_cannot_load_says_so() -> None:
    with pytest.raises(RewardError, match=r"no module named elsewhere.*data.grading.workers to 0"):
        score(Unloadable(0.0), completions("x", "y"), Grading())


def test_a_task_of_a_script_or_notebook_is_graded_too(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from es_lightning.records import Completion, Prompt\n"
        "from es_lightning.grading.scorer import Scorer\n"
        "from es_lightning.task import Task\n"
        "class Mine(Task):\n"
        "    def problems(self, split): return []\n"
        "    def reward(self, prompt, completion): return len(completion) * FACTOR\n"
        "FACTOR = 3\n"
        "scorer = Scorer(Mine())\n"
        "done = scorer.round(1).add([Prompt('a', 'a')], [Completion('ab', (1,), 'stop')]).scores()\n"
        "import sys; sys.stdout.write(str(done[0]['reward']))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert done.stdout == "6.0", done.stderr


def test_closing_leaves_no_process_behind() -> None:
    before = _graders()
    scorer = Scorer(Troubled(0.0), Grading(timeout_seconds=30, **TOLERANT))
    futures: list[Future] = scorer.submit(PROMPTS, ["hang", "x"])
    assert futures[1].result()[0].scores["reward"] == 1
    assert _graders() > before
    scorer.close()
    assert comes_true(lambda: _graders() <= before)
    assert score(Troubled(0.0), completions("x", "x"), Grading())[0]["reward"] == 1


@pytest.mark.faults
def test_a_worker_that_is_killed_while_idle_costs_nothing(pool: Scorer) -> None:
    many(pool, *["x"] * 20)
    idle = _workers()
    assert idle
    for process in idle:
        process.kill()
    assert comes_true(lambda: all(_has_ended(process.pid) for process in idle))
    assert [row["reward"] for row in many(pool, *["x"] * 20)] == [1.0] * 20


@pytest.mark.faults
def test_without_the_first_grading_process_the_run_stops_with_a_sentence() -> None:
    scorer = Scorer(Troubled(0.0), Grading(**TOLERANT))
    before = {process.pid for process in _processes()}
    many(scorer, "x", "x")
    own = [process for process in _processes() if process.pid not in before]
    for process in own:
        process.kill()
    assert comes_true(lambda: all(_has_ended(process.pid) for process in own))
    with pytest.raises(RewardError, match=r"no grading process can be started.*--ckpt_path last"):
        many(scorer, "x", "x")
    scorer.close()


@pytest.mark.faults
def test_graders_die_with_a_run_that_is_killed(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    code = (
        "import sys; from es_lightning.grading.scorer import *; from tests.helpers.graders import *\n"
        "s = Scorer(Troubled(0.0), Grading(timeout_seconds=100)); s.submit(PROMPTS, ['hang', 'spin'])\n"
        f"s.submit(PROMPTS[:1], ['x'])[0].result(); open({str(note)!r}, 'w').write('ready')\n"
        "import time; time.sleep(100)"
    )
    run = subprocess.Popen([sys.executable, "-c", code])
    while not note.exists():
        time.sleep(0.02)
    processes = psutil.Process(run.pid).children(recursive=True)
    assert len(processes) >= 3
    run.kill()
    run.wait()
    gone, alive = psutil.wait_procs(processes, timeout=60)
    assert not alive


def test_what_a_model_wrote_is_json_between_processes() -> None:
    prompt = Prompt("a", "t", {"n": [1, None]}, choices=(Choice(" b", " a", (1, 2), 1),), group="g")
    job = pack_job([prompt], ["\ud800\x00 text"])
    assert unpack_job(job) == (
        [Prompt("a", "t", {"n": [1, None]}, choices=(Choice(" b", " a", scored=1),), group="g")],
        ["\ud800\x00 text"],
    )
    assert b"\\ud800" in job


@given(st.lists(st.text(), min_size=1, max_size=5))
def test_a_round_trip_between_processes_changes_nothing(texts: list[str]) -> None:
    prompts = PROMPTS[:1] * len(texts)
    there = grade(Length(0.0), *unpack_job(pack_job(prompts, texts)))
    assert unpack_grades(pack_grades(there)) == grade(Length(0.0), prompts, texts)


def _has_ended(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    return True


def _graders() -> int:
    """How many processes grade for this one, keepers included."""
    return len(_processes())


def _workers() -> set[psutil.Process]:
    """Those of them that call a reward: each leads a process group, and no session."""
    workers = set()
    for process in _processes():
        with suppress(ProcessLookupError):
            if os.getpgid(process.pid) == process.pid != os.getsid(process.pid):
                workers.add(process)
    return workers


def _processes() -> list[psutil.Process]:
    found = []
    for child in psutil.Process(os.getpid()).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # a zombie, too, has no command line
            if "es_lightning.grading.worker" in child.cmdline():
                found.append(child)
    return found
