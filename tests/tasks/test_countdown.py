"""Countdown: problems against brute force, the grader against hand-made replies, faults in own data."""

import hashlib
import json
import math
import os
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from functools import cache
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from es_lightning.errors import UsageError
from es_lightning.records import Prompt
from es_lightning.tasks import Countdown
from tests.helpers.timing import fastest

SPLITS = ("train", "val", "test")
TASK = Countdown(n_train=60, n_val=40, n_test=80)
PREFILL = "Let me solve this step by step.\n<think>"
PROMPT = Prompt(id="x", text="?", reference={"numbers": [3, 7, 8], "target": 32}, prefill=PREFILL)


@cache
def reachable(numbers: tuple[int, ...]) -> frozenset[Fraction]:
    """Every value that the numbers, all used once, can make: by brute force, splitting them in two."""
    if len(numbers) == 1:
        return frozenset({Fraction(numbers[0])})
    values = set()
    for size in range(1, len(numbers)):
        for chosen in combinations(range(len(numbers)), size):
            rest = tuple(n for i, n in enumerate(numbers) if i not in chosen)
            for a in reachable(tuple(numbers[i] for i in chosen)):
                for b in reachable(rest):
                    values |= {a + b, a - b, a * b} | ({a / b} if b else set())
    return frozenset(values)


def keys(task: Countdown, split: str) -> list[tuple]:
    return [(*sorted(p.reference["numbers"]), p.reference["target"]) for p in task.problems(split)]


def answer(expression: str) -> dict[str, float]:
    return TASK.reward(PROMPT, f"thoughts</think>\n<answer>{expression}</answer>")


# Problems


@pytest.mark.parametrize("count", [2, 3, 4])
def test_every_problem_has_a_solution(count):
    task = Countdown(n_train=15, n_val=5, n_test=20, numbers=[count])
    for split in SPLITS:
        for problem in task.problems(split):
            numbers, target = problem.reference["numbers"], problem.reference["target"]
            assert len(numbers) == count
            assert target in reachable(tuple(sorted(numbers)))


def test_numbers_and_targets_are_in_range_and_both_counts_occur():
    references = [p.reference for p in TASK.problems("test")]
    assert all(1 <= number <= 99 for r in references for number in r["numbers"])
    assert all(10 <= r["target"] <= 100 for r in references)
    counts = Counter(len(r["numbers"]) for r in references)
    assert set(counts) == {3, 4}
    assert min(counts.values()) > 20  # 80 fair coins: fewer than once in a million


def test_default_sizes_without_overlap_inside_or_between_splits():
    task = Countdown()
    found = {split: keys(task, split) for split in SPLITS}
    assert {split: len(rows) for split, rows in found.items()} == {"train": 200, "val": 200, "test": 2000}
    assert len(set().union(*found.values())) == 2400


def test_splits_share_not_even_numbers_whatever_the_seed():
    train = {key[:-1] for key in keys(Countdown(n_train=600, numbers=[2], seed=0), "train")}
    other = {key[:-1] for key in keys(Countdown(n_test=600, numbers=[2], seed=1), "test")}
    assert not train & other


def test_a_larger_split_begins_with_the_smaller_and_leaves_the_others_alone():
    larger = Countdown(n_train=90, n_val=3, n_test=0)
    assert larger.problems("train")[:60] == TASK.problems("train")
    assert larger.problems("val") == TASK.problems("val")[:3]
    assert larger.problems("test") == []


def test_seeds_give_other_problems():
    other = Countdown(n_train=60, seed=1)
    assert set(keys(other, "train")) != set(keys(TASK, "train"))


def test_another_process_makes_the_same_problems():
    code = (
        "import json; from es_lightning.tasks import Countdown; "
        "print(json.dumps([p.reference for p in Countdown(n_val=40).problems('val')]))"
    )
    root = str(Path(__file__).resolve().parents[2])
    env = {**os.environ, "PYTHONHASHSEED": "123", "PYTHONPATH": root}
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == [p.reference for p in TASK.problems("val")]


def test_the_problems_of_seed_0_never_change():
    """Runs can be compared over versions of this project and of Python only if the problems stay the same."""
    first = [(5, 30, 71, 81, 35), (10, 36, 66, 95, 17), (29, 29, 55, 63, 50)]
    assert keys(TASK, "train")[:3] == first
    digest = hashlib.sha256(json.dumps([keys(TASK, split) for split in SPLITS]).encode()).hexdigest()
    assert digest == "03038ceeb381947e67f04cd4294755ddf1cffe99e9cea4786867b8414f8b6b50"


def test_prompt_says_the_problem_and_opens_the_think_tag():
    problem = TASK.problems("train")[0]
    for number in (*problem.reference["numbers"], problem.reference["target"]):
        assert str(number) in problem.text
    assert problem.prefill == PREFILL
    assert (problem.system, problem.chat) == (None, True)


def test_raw_text_ends_its_line_before_the_prefill():
    chat, raw = TASK.problems("val")[0], Countdown(chat=False).problems("val")[0]
    assert (raw.text, raw.chat) == (chat.text + "\n", False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"numbers": [1]}, "counts from 2 to 6"),
        ({"numbers": [3, 7]}, "counts from 2 to 6"),
        ({"numbers": []}, "counts from 2 to 6"),
        ({"n_val": -1}, "must be 0 or more"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(UsageError, match=message):
        Countdown(**options)


def test_running_out_of_problems_is_an_error_after_the_last_one(monkeypatch):
    drawn = range(10, 13)
    monkeypatch.setattr("es_lightning.tasks.countdown._DRAWN", drawn)
    pairs = [(a, b) for a in drawn for b in drawn if a <= b]
    there_are = sum(len(reachable(pair) & set(range(10, 101))) for pair in pairs)
    found = 0
    for split in SPLITS:
        with pytest.raises(UsageError, match=f"problems of 2 numbers ran out .* lower n_{split}") as error:
            Countdown(200, 200, 200, numbers=[2]).problems(split)
        found += int(str(error.value).split("after ")[1].split()[0])
    assert found == there_are > 0


# The grader


@pytest.mark.parametrize(
    ("completion", "accuracy", "form"),
    [
        ("add</think>\n<answer>(7 - 3) * 8</answer>", 1, 1.0),
        ("add</think> so <answer>(7 - 3) * 8</answer> done", 1, 1.0),
        ("add</think>\n<answer>3 + 7 + 8</answer>", 0, 1.0),
        ("add</think>\n<answer></answer>", 0, 1.0),
        ("add <answer>(7 - 3) * 8</answer>", 1, 0.5),
        ("add <answer>(7 - 3) * 8</answer></think>", 1, 0.5),
        ("add</think> (7 - 3) * 8", 0, 0.1),
        ("add</think> <answer>(7 - 3) * 8", 0, 0.1),
        ("add</think> </answer>(7 - 3) * 8<answer>", 0, 0.1),
        ("(7 - 3) * 8", 0, 0.0),
        ("", 0, 0.0),
        ("</think><answer>1</answer><answer>(7 - 3) * 8</answer>", 1, 1.0),  # the last answer counts
        ("</think><answer>(7 - 3) * 8</answer><answer>1</answer>", 0, 1.0),
        ("</think><answer>(7 - 3) * 8</answer> <answer>1", 1, 1.0),  # the last complete one
        ("</think><answer>1 <answer>(7 - 3) * 8</answer></answer>", 1, 1.0),
        ("<answer>1</answer></think><answer>(7 - 3) * 8</answer>", 1, 1.0),
        ("</think><ANSWER>(7 - 3) * 8</ANSWER>", 0, 0.1),
    ],
)
def test_format_and_place_of_the_answer(completion, accuracy, form):
    expected = {"reward": pytest.approx(accuracy + 0.1 * form), "accuracy": accuracy, "format": form}
    assert TASK.reward(PROMPT, completion) == expected


def test_the_opening_think_tag_comes_from_the_prefill():
    bare = Prompt(id="x", text="?", reference=PROMPT.reference)
    completion = "add</think>\n<answer>(7 - 3) * 8</answer>"
    assert TASK.reward(bare, completion)["format"] == 0.5
    assert TASK.reward(bare, "<think>" + completion)["format"] == 1.0


@pytest.mark.parametrize(
    "expression",
    ["(7-3)*8", " 8 * (7 - 3)\n", "(7 - 3) * 8 = 32", "(7 - 3) * 8=32 ", "8 * -(3 - 7)", "((8))*((7)-(3))"],
)
def test_right_answers(expression):
    assert answer(expression)["accuracy"] == 1


@pytest.mark.parametrize(
    "expression",
    [
        "32",  # the target itself
        "8 * 8 / (7 - 3) * 2",  # other numbers
        "8 * 7 - 8 * 3",  # 8 twice
        "(8 - 3) * 7",  # another value
        "(7 - 3) * 8 + 0",  # a number too many
        "7 * 8 / 3 + 40 / 3",
        "(7 - 3) * 8 = 31",
        "(7 - 3) * 8 = 32 = 32",
        "32 = (7 - 3) * 8",
        "(7 - 3) * 8 =",
        "(7 - 3) * 8.",
        "$(7 - 3) * 8$",
        "(7 - 3) x 8",
        "(7 - 3)8",
        "73 - 8",  # 7 and 3 glued together
        "(7 - 3) * 8" + " " * 300,
    ],
)
def test_wrong_answers(expression):
    assert answer(expression) == {"reward": pytest.approx(0.1), "accuracy": 0, "format": 1.0}


def test_equality_is_exact():
    prompt = Prompt(id="x", text="?", reference={"numbers": [8, 3, 8, 3], "target": 24}, prefill=PREFILL)
    assert TASK.reward(prompt, "</think><answer>8/(3-8/3)</answer>")["accuracy"] == 1
    close = Prompt(id="x", text="?", reference={"numbers": [999999999, 999999999, 10], "target": 10})
    assert TASK.reward(close, "<answer>999999999/999999999*10</answer>")["accuracy"] == 1
    near = Prompt(id="x", text="?", reference={"numbers": [999999999, 999999998, 10], "target": 10})
    assert TASK.reward(near, "<answer>999999999/999999998*10</answer>")["accuracy"] == 0


pieces = st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", "(7-3)*8", "3", "-", "("])


@settings(max_examples=300)
@given(st.lists(pieces | st.text(max_size=5), max_size=30).map("".join))
def test_any_reply_gets_a_reward_in_range(completion):
    result = TASK.reward(PROMPT, completion)
    assert result["accuracy"] in (0.0, 1.0)
    assert result["format"] in (0.0, 0.1, 0.5, 1.0)
    assert math.isfinite(result["reward"])
    assert result["reward"] == pytest.approx(result["accuracy"] + 0.1 * result["format"])


@pytest.mark.parametrize(
    "completion",
    [
        "<answer>" * 125_000,
        "</answer>" * 110_000,
        "<answer></answer>" * 60_000,
        "<answer><think>" * 60_000 + "</answer>",
        "</think><answer>" + "9" * 1_000_000 + "</answer>",
        "</think><answer>9**9**9**9</answer>",
        "</think><answer>" + "(" * 10_000 + "1" + ")" * 10_000 + "</answer>",
        "<" * 1_000_000,
        "\0" * 1_000_000,
    ],
    ids=lambda text: f"{text[:24]!r}-{len(text)}",
)
def test_hostile_replies_take_no_time_and_earn_no_answer(completion):
    assert TASK.reward(PROMPT, completion)["accuracy"] == 0
    # Counting to 200,000 takes about 3 ms: a slow machine is slow at both.
    assert fastest(lambda: TASK.reward(PROMPT, completion)) < 2 * fastest(lambda: sum(range(200_000)))


@pytest.mark.parametrize(
    ("reply", "reward"),
    [
        ("a</think>\n<answer>(44 + 19) + 35</answer>", 1.1),
        ("a</think>\n<answer>44 + 19 + 35 = 98</answer>", 1.1),  # the paper refuses "= 98"
        ("a</think>\n<answer>44+19+36</answer><answer>44+19+35</answer>", 1.1),
        ("a</think>\n<answer>44+19+35</answer><answer>1</answer>", 0.1),
        ("a</think>\n<answer>98</answer>", 0.1),
        ("a</think>\n<answer>44+19+35+0</answer>", 0.1),
        ("a</think>\n<answer>44+44+10</answer>", 0.1),
        ("a</think>\n<answer>44+19+35 # ok</answer>", 0.1),
        ("a</think>\n<answer>\uff14\uff14+19+35</answer>", 0.1),
        ("a</think>\n<answer>4419//45</answer>", 0.1),
        ("a</think>\n<answer>44+19+35=98=98</answer>", 0.1),
        ("a</think>\n<answer></answer>", 0.1),
        ("<answer>44+19+35</answer>", 1.05),
        ("a</think>\n<answer>[44+19]+35</answer>", 0.1),
        ("a</think>\n<answer>35 - -44 + 19</answer>", 1.1),
        ("a</think>\n<answer>+44+19+35</answer>", 0.1),  # the paper takes a plus sign before a number
        ("a</think>\n<answer>44**1+19+35</answer>", 0.1),
        ("a</think>\n<answer>44+19+35\n</answer>", 1.1),
        ("a</think>\n<answer>98 = 44+19+35</answer>", 0.1),
        ("a</think>\n<answer>(44+19+35)/1</answer>", 0.1),
        ("a</think>\n<answer>44.0+19+35</answer>", 0.1),
        ("a</think>\n<answer>4 4+19+35</answer>", 0.1),
    ],
)
def test_rewards_beside_those_of_the_paper(reply, reward):
    prompt = Prompt(id="x", text="?", reference={"numbers": [44, 19, 35], "target": 98}, prefill=PREFILL)
    assert TASK.reward(prompt, reply)["reward"] == pytest.approx(reward)


# Own data


def write(folder: Path, *rows) -> str:
    path = folder / "own.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return str(path)


def test_own_rows_keep_their_split_order_and_numbers(tmp_path):
    rows = [
        {"numbers": [3, 7, 8], "target": 32, "split": "train"},
        {"numbers": [50, 8], "target": 42, "split": "test"},
        {"numbers": [1, 2, 3, 4], "target": -10, "split": "train", "note": "ignored"},
    ]
    task = Countdown(path=write(tmp_path, *rows[:2], "", rows[2]))
    references = {s: [p.reference for p in task.problems(s)] for s in SPLITS}
    plain = [{"numbers": row["numbers"], "target": row["target"]} for row in rows]
    assert references == {"train": [plain[0], plain[2]], "val": [], "test": [plain[1]]}
    negative = task.problems("train")[1]
    assert task.reward(negative, "<answer>-(1+2+3+4)</answer>")["accuracy"] == 1


@pytest.mark.parametrize("name", ["paper.jsonl", "paper.json"])
def test_targets_are_texts_in_the_data_of_the_paper(tmp_path, name):
    rows = [
        {"numbers": [44, 19, 35], "target": "98", "id": 1, "context": "...", "split": "test"},
        {"numbers": [60, 73, 5], "target": "26.6", "split": "test"},
        {"numbers": [2, 3, 800], "target": "266.6666666666667", "split": "test"},
        {"numbers": [7, 8], "target": 56.0, "split": "test"},
        {"numbers": [1, 8], "target": "-0.125", "split": "test"},
    ]
    path = tmp_path / name
    path.write_text(json.dumps(rows) if name.endswith(".json") else "\n".join(map(json.dumps, rows)))
    problems = Countdown(path=str(path)).problems("test")
    targets = [98, "26.6", "266.6666666666667", 56, "-0.125"]
    assert [problem.reference["target"] for problem in problems] == targets
    assert all(
        f"to make {target}." in problem.text for target, problem in zip(targets, problems, strict=True)
    )
    replies = ["44+19+35", "(60+73)/5 = 26.6", "800/3*2/2", "7*8", "-1/8"]
    earned = [
        TASK.reward(problem, f"</think><answer>{reply}</answer>")["accuracy"]
        for problem, reply in zip(problems, replies, strict=True)
    ]
    assert earned == [1, 1, 0, 1, 1]  # 2 is there once
    third = Prompt(id="x", text="?", reference={"numbers": [800, 3], "target": "266.6666666666667"})
    assert TASK.reward(third, "<answer>800/3</answer>")["accuracy"] == 1
    near = Prompt(id="x", text="?", reference={"numbers": [800, 3], "target": "266.66668"})
    assert TASK.reward(near, "<answer>800/3</answer>")["accuracy"] == 0


@pytest.mark.parametrize("text", ["{}", "[", "1", ""])
def test_a_json_file_that_holds_no_list_is_named(tmp_path, text):
    path = tmp_path / "own.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"own.json is not a JSON list; write"):
        Countdown(path=str(path))


def test_own_rows_without_a_split_go_where_generated_ones_are(tmp_path):
    generated = {split: [p.reference for p in TASK.problems(split)] for split in SPLITS}
    rows = [row for split in reversed(SPLITS) for row in generated[split]]
    task = Countdown(path=write(tmp_path, *rows))
    assert {split: [p.reference for p in task.problems(split)] for split in SPLITS} == generated


GOOD = {"numbers": [3, 7, 8], "target": 32}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "is not a JSON object"),
        ("[3, 7]", "is not a JSON object"),
        ("[" * 100_000, "is not a JSON object"),
        ({"nums": [3, 7, 8], "target": 32}, '"numbers" must list 2 to 10'),
        ({"numbers": "3 7 8", "target": 32}, '"numbers" must list 2 to 10'),
        ({"numbers": [3], "target": 3}, '"numbers" must list 2 to 10'),
        ({"numbers": [3, 7.0], "target": 10}, '"numbers" must list 2 to 10'),
        ({"numbers": [3, True], "target": 4}, '"numbers" must list 2 to 10'),
        ({"numbers": [3, -7], "target": 10}, '"numbers" must list 2 to 10'),
        ({"numbers": [3, 10**9], "target": 10}, "from 0 to 999999999"),
        ({"numbers": [3, 7]}, '"target" must be a whole number'),
        ({"numbers": [3, 7], "target": "ten"}, '"target" must be a whole number'),
        ({"numbers": [3, 7], "target": True}, '"target" must be a whole number'),
        ({"numbers": [3, 7], "target": "1e9"}, "or a number in quotes"),
        ({"numbers": [3, 7], "target": "1/2"}, "or a number in quotes"),
        ({"numbers": [3, 7], "target": float("nan")}, "or a number in quotes"),
        ({"numbers": [7, 3, 8], "target": "32.0"}, "repeats the problem of line 1"),
        ({**GOOD, "target": 31, "split": "dev"}, "\"split\" must be train, val or test, not 'dev'"),
        ({"numbers": [8, 3, 7], "target": 32, "split": "val"}, "repeats the problem of line 1"),
    ],
)
def test_a_bad_line_is_named_in_one_clear_line(tmp_path, row, message):
    path = write(tmp_path, GOOD, "", row)
    with pytest.raises(UsageError, match="line 3") as error:
        Countdown(path=path)
    assert str(error.value).startswith(f"{path} line 3")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_line_that_is_not_text_is_named(tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_bytes(b'{"numbers": [3, 7], "target": 10}\n\xff\xfe\x00\n')
    with pytest.raises(UsageError, match="own.jsonl line 2 is not a JSON object"):
        Countdown(path=str(path))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UsageError, match="none.jsonl: give a JSONL file that can be read"):
        Countdown(path=str(tmp_path / "none.jsonl"))


def test_an_empty_file_is_an_error(tmp_path):
    with pytest.raises(UsageError, match="holds no problem; write one"):
        Countdown(path=write(tmp_path, "", " "))
