"""ProofWriter: rows, depths, labels and formats."""

import json
import math
import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from es_lightning.errors import UsageError
from es_lightning.records import Prompt
from es_lightning.tasks.proofwriter import ProofWriter

SPLITS = ("train", "val", "test")
LABELS = ("True", "False", "Unknown")
COLUMNS = {
    *("id", "maxD", "NFact", "NRule", "theory", "question", "answer", "QDep", "QLen", "allProofs", "config"),
}
TASK = ProofWriter("sample", format_reward=0.1)
PREFILL = "Let me reason step by step.\n<think>"
PROMPT = Prompt("x", "?", "Unknown", prefill=PREFILL)
ROW = {"theory": "Anne is kind.", "question": "Anne is kind.", "answer": "True", "QDep": 0, "split": "test"}


def everything(task: ProofWriter) -> list[Prompt]:
    return [prompt for split in SPLITS for prompt in task.problems(split)]


def read(folder: Path, *rows, **options) -> list[Prompt]:
    path = folder / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return ProofWriter(str(path), **options).problems("test")


def test_the_sample_has_the_columns_of_the_data_set_and_three_splits():
    path = Path(__file__).parents[2] / "tasks" / "datasets" / "samples" / "proofwriter.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert all(set(row) == {*COLUMNS, "split"} for row in rows)
    assert [len(TASK.problems(split)) for split in SPLITS] == [8, 4, 8]
    theories = [{row["theory"] for row in rows if row["split"] == split} for split in SPLITS]
    assert len(set.union(*theories)) == sum(map(len, theories)) == 7
    assert set(Counter(row["answer"] for row in rows)) == set(LABELS)


def test_problems_and_their_ids_are_in_one_split_alone():
    prompts = everything(TASK)
    assert len({p.text for p in prompts}) == len({p.id for p in prompts}) == len(prompts) == 20
    assert prompts[0].id == "proofwriter/train/0"


def test_the_prompt_holds_theory_statement_and_the_three_words():
    prompt = TASK.problems("train")[0]
    assert prompt.text.startswith(
        "Facts and rules:\nAda is kind. Ada is young. Ben is round. If someone is kind"
    )
    assert "\n\nStatement: Ada is cheerful.\n\n" in prompt.text
    assert all(label in prompt.text for label in LABELS)
    assert (prompt.reference, prompt.prefill, prompt.chat) == ("True", PREFILL, True)


def test_raw_text_ends_its_line_before_the_prefill():
    raw = ProofWriter("sample", chat=False).problems("val")[0]
    assert (raw.text, raw.chat) == (TASK.problems("val")[0].text + "\n", False)


def test_right_labels_earn_the_most_and_others_the_format_alone():
    for prompt in everything(TASK):
        for label in LABELS:
            right = float(label == prompt.reference)
            numbers = TASK.reward(prompt, f"So.</think>\n<answer>{label}</answer>")
            assert numbers == {"reward": pytest.approx(right + 0.1), "accuracy": right, "format": 1.0}


@pytest.mark.parametrize(
    ("completion", "accuracy", "form"),
    [
        ("Hm.</think><answer>Unknown</answer>", 1, 1.0),
        ("Hm.</think><answer> UNKNOWN\n</answer> done", 1, 1.0),
        ("Hm.</think><answer>unknown</answer>", 1, 1.0),
        ("Hm.</think><answer>False</answer><answer>Unknown</answer>", 1, 1.0),
        ("Hm.</think><answer>Unknown</answer><answer>False</answer>", 0, 1.0),
        ("Hm.<answer>Unknown</answer>", 1, 0.5),
        ("Hm.</think>Unknown", 0, 0.1),
        ("Unknown", 0, 0.0),
        ("", 0, 0.0),
        ("Hm.</think><answer></answer>", 0, 1.0),
        ("Hm.</think><answer>Unknown.</answer>", 0, 1.0),
        ("Hm.</think><answer>It is Unknown</answer>", 0, 1.0),
        ("Hm.</think><answer>True or Unknown</answer>", 0, 1.0),
        ("Hm.</think><answer>Un\u212anown</answer>", 0, 1.0),  # the sign of kelvin
        ("Hm.</think><answer>Unknow\u0578</answer>", 0, 1.0),
        ("Hm.</think><answer>Uncertain</answer>", 0, 1.0),
    ],
)
def test_label_and_format(completion, accuracy, form):
    numbers = {"reward": pytest.approx(accuracy + 0.1 * form), "accuracy": accuracy, "format": form}
    assert TASK.reward(PROMPT, completion) == numbers


def test_the_format_earns_nothing_unless_asked_for():
    numbers = ProofWriter("sample").reward(PROMPT, "Hm.</think><answer>True</answer>")
    assert numbers == {"reward": 0.0, "accuracy": 0.0, "format": 1.0}


def test_the_opening_think_tag_comes_from_the_prefill():
    bare = Prompt("x", "?", "True")
    assert TASK.reward(bare, "Hm.</think><answer>True</answer>")["format"] == 0.5
    assert TASK.reward(bare, "<think>Hm.</think><answer>True</answer>")["format"] == 1.0


def test_depths_keep_some_problems_of_each_split():
    counts = {depth: len(everything(ProofWriter("sample", depths=[depth]))) for depth in (0, 1, 2, 3, 4)}
    assert sum(counts.values()) == 20
    assert all(counts[depth] for depth in (0, 1, 2, 3))
    assert not counts[4]
    assert len(everything(ProofWriter("sample", depths=[0, 3]))) == counts[0] + counts[3]


@pytest.mark.parametrize(("answer", "label"), [("True", "True"), (True, "True"), ("unknown", "Unknown")])
def test_labels_of_rows(tmp_path, answer, label):
    assert read(tmp_path, {**ROW, "answer": answer})[0].reference == label


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**ROW, "answer": "maybe"}, "'maybe', not True, False or Unknown"),
        ({**ROW, "answer": None}, "not True, False or Unknown"),
        ({"theory": "x", "answer": "True", "split": "test"}, "KeyError: 'question'"),
        ({**ROW, "theory": 5}, "AttributeError"),
    ],
)
def test_a_bad_row_is_shown_in_one_clear_line(tmp_path, row, message):
    with pytest.raises(UsageError, match="task ProofWriter cannot read the row") as error:
        read(tmp_path, row)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format_reward": -0.1}, "format_reward is -0.1"),
        ({"format_reward": math.nan}, "format_reward is nan"),
        ({"format_reward": math.inf}, "format_reward is inf"),
        ({"depths": []}, "depths must list whole numbers"),
        ({"depths": [-1]}, "depths must list whole numbers"),
        ({"depths": ["3"]}, "depths must list whole numbers"),
        ({"n_test": -1}, "n_test is -1"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(UsageError, match=message):
        ProofWriter("sample", **options)


def test_depths_need_a_column(tmp_path):
    row = {key: value for key, value in ROW.items() if key != "QDep"}
    with pytest.raises(UsageError, match='depths needs rows with the column "QDep"'):
        read(tmp_path, row, depths=[1])


PIECES = [
    *(
        "<think>",
        "</think>",
        "<answer>",
        "</answer>",
        "True",
        "False",
        "Unknown",
        " ",
        "\0",
        "\ud800",
        "\u0661",
    ),
]


@settings(max_examples=300)
@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=30).map("".join))
def test_any_reply_gets_a_reward_in_range(completion):
    numbers = TASK.reward(PROMPT, completion)
    assert numbers["accuracy"] in (0.0, 1.0)
    assert numbers["format"] in (0.0, 0.1, 0.5, 1.0)
    assert numbers["reward"] == pytest.approx(numbers["accuracy"] + 0.1 * numbers["format"])


def test_a_few_hundred_random_replies_earn_finite_numbers():
    rng = random.Random(0)
    for _ in range(400):
        reply = "".join(rng.choices(PIECES, k=rng.randint(1, 60)))
        assert all(math.isfinite(value) for value in TASK.reward(PROMPT, reply).values())
