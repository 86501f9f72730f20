"""Answers that graders of other projects, or earlier ones of ours, judged wrongly; and more of every kind."""

import json
import re
from functools import cache
from pathlib import Path

import pytest

from es_lightning.records import Prompt
from es_lightning.tasks import MathTask
from tests.helpers.math_cases import CASES, MORE, cases, grade

ROWS = [
    json.loads(line) for line in (Path(__file__).parents[1] / "data" / "maths.jsonl").open(encoding="utf-8")
]
DOCS = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text(encoding="utf-8")


@cache
def task(name: str, flexible: bool) -> MathTask:
    return MathTask(name, "sample", flexible=flexible)


@pytest.mark.parametrize(
    "row", ROWS, ids=lambda row: f"{row['kind']}-{row['gold'][:30]}-{row['prediction'][:30]}"
)
def test_reported_cases(row):
    """``math flexible`` marks replies that state no answer; all others are judged alike either way."""
    name, _, falls_back = row["task"].partition(" ")
    prompt = Prompt("m/0", "?", {"answer": row["gold"], "tolerance": None})
    for flexible in [True] if falls_back else [False, True]:
        assert task(name, flexible).reward(prompt, row["prediction"])["reward"] == float(row["expected"])


@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=pytest.mark.slow) for part in range(1, 8))])
def test_more_of_every_kind(part):
    """Every eighth of them; all with the slow tests."""
    pairs = cases(MORE)
    assert len(pairs) > 690
    assert [(gold, reply) for gold, reply, right in pairs[part::8] if grade(gold, reply) is not right] == []


def test_what_is_right_and_refused_stands_in_the_docs():
    refused = [line.rsplit(" | ", 1)[0] for line in CASES.splitlines() if line.endswith("| refused")]
    assert refused
    assert all(f"`{part}`" in DOCS for line in refused for part in line.split(" | "))


def test_the_tables_in_the_docs_are_true():
    """The guards against wrong answers, and the right answers that do not count."""
    wrong = re.findall(r"`([^`]+)` for `([^`]+)`", DOCS.partition("| guard |")[2].partition("\n\n")[0])
    refused = re.findall(
        r"^\| `([^`]+)` \| `([^`]+)`", DOCS.partition("does not count | why |")[2].partition("\n\n")[0], re.M
    )
    assert (len(wrong), len(refused)) == (18, 8)
    for gold, answer in [(gold, answer) for answer, gold in wrong] + refused:
        assert not grade(gold, f"\\boxed{{{answer}}}"), (gold, answer)
