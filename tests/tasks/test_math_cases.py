"""Answers that graders of other projects, or earlier ones of ours, judged wrongly; and more of every kind."""

import json
from functools import cache
from pathlib import Path

import pytest

from es_lightning.records import Prompt
from es_lightning.tasks import MathTask
from tests.helpers.math_cases import CASES, MORE, cases, grade

ROWS = [
    json.loads(line) for line in (Path(__file__).parents[1] / "data" / "maths.jsonl").open(encoding="utf-8")
]
DOCS = Path(__file__).parents[2] / "docs" / "tasks.md"


@cache
def task(name: str, flexible: bool) -> MathTask:
    return MathTask(name, "sample", flexible=flexible)


@pytest.mark.parametrize("flexible", [False, True])
@pytest.mark.parametrize(
    "row", ROWS, ids=lambda row: f"{row['kind']}-{row['gold'][:30]}-{row['prediction'][:30]}"
)
def test_reported_cases(row, flexible):
    """``math flexible`` marks replies that state no answer; all others are judged alike either way."""
    name, _, falls_back = row["task"].partition(" ")
    if falls_back and not flexible:
        return
    prompt = Prompt("m/0", "?", {"answer": row["gold"], "tolerance": None})
    assert task(name, flexible).reward(prompt, row["prediction"])["reward"] == float(row["expected"])


@pytest.mark.parametrize(("gold", "reply", "right"), cases(MORE), ids=lambda value: str(value)[:60])
def test_more_of_every_kind(gold, reply, right):
    assert grade(gold, reply) is right


def test_what_is_right_and_refused_stands_in_the_docs():
    refused = [line.rsplit(" | ", 1)[0] for line in CASES.splitlines() if line.endswith("| refused")]
    text = DOCS.read_text(encoding="utf-8")
    assert refused
    assert all(f"`{part}`" in text for line in refused for part in line.split(" | "))
