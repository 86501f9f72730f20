"""What graders print is heard in the log, under a name and in small doses, and never blocks them."""

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from ctypes import CDLL
from typing import Any

import pytest

from es_lightning.grading.scorer import Grading, Scorer
from es_lightning.records import Completion, Prompt
from es_lightning.task import Task
from es_lightning.tasks import PythonRewards
from tests.helpers.graders import PROMPTS, TOLERANT, Returns, completions


class Loud(Returns):
    """Prints in the way that the completion says."""

    def reward(self, prompt: Prompt, completion: str) -> float:
        how, _, rest = completion.partition(" ")
        if how == "print":
            sys.stdout.write(f"{rest}\n")
        if how == "many":
            for i in range(int(rest)):
                sys.stderr.write(f"line {i}\n")
        if how == "C":
            CDLL(None).puts(rest.encode())
        if how == "shell":
            os.system(f"echo {rest}")
            subprocess.run(["sh", "-c", f"echo {rest} again >&2"], check=True)
        if how == "flood":
            subprocess.run(["head", "-c", rest, "/dev/zero"], check=True)
            subprocess.run(["sh", "-c", f"yes | head -c {rest}"], check=True)
        if how == "hang":
            sys.stdout.write(rest)
            sys.stdout.flush()
            time.sleep(100)
        return 1.0


def said(caplog: pytest.LogCaptureFixture, task: Task, *rounds: list[str]) -> list[str]:
    """What the log says of some rounds of completions, up to the end of the grading processes."""
    scorer = Scorer(task, Grading(workers=1, timeout_seconds=60, **TOLERANT))
    with caplog.at_level(logging.INFO):
        for texts in rounds:
            scorer.round(len(texts)).add(PROMPTS[:1] * len(texts), completions(*texts)).scores()
            time.sleep(0.1)
        scorer.close()
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["print a", "x", "print b"], ["Task Loud printed: a", "Task Loud printed: b"]),
        (["C from C"], ["Task Loud printed: from C"]),
        (["shell hello"], ["Task Loud printed: hello", "Task Loud printed: hello again"]),
        (["print \x1b[2J\rgone\ud800"], [r"Task Loud printed: \x1b[2J\rgone\ud800"]),
        (["print " + "x" * 500], ["Task Loud printed: " + "x" * 197 + "..."]),
        (["print ", "print  "], []),
        (
            ["many 3000", "print later"],
            [*(f"Task Loud printed: line {i}" for i in range(5)), "Task Loud printed 2996 more lines,"],
        ),
    ],
)
def test_prints_go_to_the_log(
    texts: list[str], expected: list[str], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    lines = said(caplog, Loud(0.0), texts)
    assert [line.partition(" which are")[0] for line in lines] == expected
    assert capfd.readouterr().out == ""


def test_every_round_has_lines_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    lines = said(caplog, Loud(0.0), ["many 7"], ["x"], ["many 6", "print x"])
    assert len(lines) == 5 + 1 + 5 + 1
    assert ["2 more" in lines[5], "2 more" in lines[11]] == [True, True]


def test_a_flood_of_output_blocks_nobody(caplog: pytest.LogCaptureFixture) -> None:
    # 1.5 MB, twice: no user's pipe holds more than 1 MiB (fs.pipe-max-size).
    lines = said(caplog, Loud(0.0), ["flood 1500000"], ["print after"])
    assert not any("failed" in line for line in lines)
    assert "Task Loud printed: after" in lines
    assert sum(int(line.split()[3]) for line in lines if "more lines" in line) > 700_000


def test_what_a_hung_grader_had_printed_is_heard(caplog: pytest.LogCaptureFixture) -> None:
    scorer = Scorer(Loud(0.0), Grading(workers=1, timeout_seconds=0.6, **TOLERANT))
    with caplog.at_level(logging.INFO):
        scorer.round(1).add(PROMPTS[:1], completions("hang half a line")).scores()
        scorer.close()
    assert "Task Loud printed: half a line" in caplog.messages


def talkative(prompt: str, completion: str) -> float:
    sys.stdout.write(f"about {completion}\n")
    return 1.0


def muttering(prompt: str, completion: str) -> float:
    sys.stdout.write("unfinished")
    return 1.0


async def whispering(prompt: str, completion: str) -> float:
    os.system("echo from a shell")
    return 1.0


@pytest.mark.parametrize(
    ("functions", "expected"),
    [
        ([talkative], ["Reward talkative printed: about x"]),
        (
            [muttering, talkative, whispering],
            [
                "Reward muttering printed: unfinished",
                "Reward talkative printed: about x",
                "Reward whispering printed: from a shell",
            ],
        ),
    ],
)
def test_lines_bear_the_name_of_the_function(
    functions: list[Callable[..., Any]], expected: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    task = PythonRewards("never-read.jsonl", functions)
    scorer = Scorer(task, Grading(workers=1))
    with caplog.at_level(logging.INFO):
        scorer.round(1).add([Prompt("p", "p", {})], [Completion("x", (1,), "stop")]).scores()
        scorer.close()
    assert caplog.messages == expected


def test_what_a_debugger_prints_stays_where_it_is(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    scorer = Scorer(PythonRewards("never-read.jsonl", [talkative, muttering]), Grading(workers=0))
    scorer.round(1).add([Prompt("p", "p", {})], [Completion("x", (1,), "stop")]).scores()
    assert capfd.readouterr().out == "about x\nunfinished"
    assert caplog.messages == []


def test_escape_sequences_of_an_exception_are_shown(caplog: pytest.LogCaptureFixture) -> None:
    def red(prompt: str, completion: str) -> float:
        raise ValueError("\x1b[31mred\x07\r\ud800")

    task = PythonRewards("never-read.jsonl", [red])
    for workers in (0, 1):
        scorer = Scorer(task, Grading(workers=workers, **TOLERANT))
        scorer.round(1).add([Prompt("p", "p", {})], [Completion("x", (1,), "stop")]).scores()
        scorer.close()
    assert len(caplog.messages) == 2
    for message in caplog.messages:
        assert r"ValueError: \x1b[31mred\x07\r\ud800" in message
        assert message.replace("\n", "").isprintable()
