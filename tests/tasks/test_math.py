"""The maths benchmarks: rows, splits, prompts, and each benchmark's own rules, on the shipped rows."""

import json
import pickle
from collections import Counter
from importlib import resources

import pytest

from es_lightning.errors import UsageError
from es_lightning.records import Prompt
from es_lightning.tasks.answers.math_library import load_library
from es_lightning.tasks.math import MathTask

SPLITS = ("train", "val", "test")
DATASETS = ("gsm8k", "math", "math500", "minerva", "olympiadbench", "amc", "aime24")
COLUMNS = {
    "gsm8k": {"question": str, "answer": str},
    "math": {"problem": str, "level": str, "type": str, "solution": str},
    "math500": {
        "problem": str,
        "solution": str,
        "answer": str,
        "subject": str,
        "level": int,
        "unique_id": str,
    },
    "minerva": {"question": str, "answer": str},
    "olympiadbench": {"question": str, "final_answer": list, "is_multiple_answer": bool, "answer_type": str},
    "amc": {"problem": str, "answer": float},
    "aime24": {"problem": str, "answer": str, "solution": str},
}
REPLIES = ("\\boxed{5}", "\\boxed{5\\text{ m}}", "The answer is 5.")
INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."


def rows(dataset: str) -> list[dict]:
    path = resources.files("es_lightning.tasks.datasets").joinpath("samples", f"{dataset}.jsonl")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def own(tmp_path, dataset: str, *rows: dict, **options) -> MathTask:
    path = tmp_path / "own.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return MathTask(dataset, str(path), **options)


def style(dataset: str, gold: str) -> str:
    """A right reply as the benchmark's own solutions are written."""
    return f"We reckon.\n#### {gold}" if dataset == "gsm8k" else f"We reckon and get $\\boxed{{{gold}}}$."


@pytest.fixture(params=DATASETS)
def dataset(request) -> str:
    return request.param


def test_shipped_rows_have_the_columns_of_the_data_set_and_a_split(dataset):
    found = rows(dataset)
    assert Counter(row["split"] for row in found) == {"train": 8, "val": 4, "test": 8}
    for row in found:
        assert all(isinstance(row[name], kind) for name, kind in COLUMNS[dataset].items())


def test_right_answers_earn_one_and_the_neighbours_answers_nothing(dataset):
    task = MathTask(dataset, "sample")
    for split in SPLITS:
        for prompt in task.problems(split):
            gold = prompt.reference["answer"]
            right = {"reward": 1.0, "accuracy": 1.0, "boxed": 1.0}
            assert task.reward(prompt, style(dataset, gold)) == right
            assert task.reward(prompt, f"The answer is {gold}.") == {**right, "boxed": 0.0}
            assert task.reward(prompt, style(dataset, f"{gold}+1/7"))["reward"] == 0.0
            assert task.reward(prompt, "") == {"reward": 0.0, "accuracy": 0.0, "boxed": 0.0}


def test_own_solutions_earn_one():
    for dataset, column in (("gsm8k", "answer"), ("math", "solution"), ("math500", "solution")):
        task = MathTask(dataset, "sample", levels=(1, 2, 3, 4, 5))
        solutions = {row.get("question", row.get("problem")): row[column] for row in rows(dataset)}
        for prompt in (prompt for split in SPLITS for prompt in task.problems(split)):
            question = prompt.text.removesuffix(f"\n\n{INSTRUCTION}")
            assert task.reward(prompt, solutions[question])["reward"] == 1.0


def test_prompts_are_disjoint_json_and_named(dataset):
    task = MathTask(dataset, "sample")
    prompts = {split: task.problems(split) for split in SPLITS}
    for split, found in prompts.items():
        assert [p.id for p in found] == [f"{dataset}/{split}/{i}" for i in range(len(found))]
        assert all(json.loads(json.dumps(p.reference)) == p.reference for p in found)
    texts = [p.text for found in prompts.values() for p in found]
    assert len(texts) == len(set(texts)) > 0


def test_a_pickled_task_gives_the_same_problems_and_rewards(dataset):
    task = MathTask(dataset, "sample")
    again = pickle.loads(pickle.dumps(task))
    assert again.problems("test") == task.problems("test")


def test_chat_prompt():
    prompt = MathTask("gsm8k", "sample").problems("train")[0]
    assert prompt.text == f"{rows('gsm8k')[0]['question']}\n\n{INSTRUCTION}"
    assert prompt.chat
    assert (prompt.system, prompt.prefill) == (None, "")


def test_qwen_math_prompt():
    prompt = MathTask("math500", "sample", prompt="qwen_math").problems("train")[0]
    assert not prompt.chat
    assert prompt.text == (
        "<|im_start|>system\nPlease reason step by step, and put your final answer within \\boxed{}."
        "<|im_end|>\n"
        f"<|im_start|>user\n{rows('math500')[0]['problem']}<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(("levels", "train"), [((3, 4, 5), 6), ((1,), 1), ((1, 2, 3, 4, 5), 8)])
def test_levels_choose_the_training_problems_of_math_alone(levels, train):
    task = MathTask("math", "sample", levels=levels)
    assert [len(task.problems(split)) for split in SPLITS] == [train, 4, 8]
    assert len(MathTask("math500", "sample", levels=levels).problems("train")) == 8


def test_sizes_limit_each_split():
    task = MathTask("amc", "sample", n_train=3, n_val=0, n_test=5)
    assert [len(task.problems(split)) for split in SPLITS] == [3, 0, 5]


@pytest.mark.parametrize("dataset", ["math500", "minerva", "olympiadbench", "amc", "aime24"])
def test_rows_of_a_test_set_are_test(tmp_path, dataset):
    row = {name: value for name, value in rows(dataset)[0].items() if name != "split"}
    task = own(tmp_path, dataset, row)
    assert [len(task.problems(split)) for split in SPLITS] == [0, 0, 1]


# Each benchmark's own rules


@pytest.mark.parametrize(
    ("dataset", "row", "reference"),
    [
        ("gsm8k", {"question": "?", "answer": "a #### b\n#### 1,234"}, ("1234", None)),
        ("math", {"problem": "?", "level": "", "solution": "\\boxed{1} \\boxed{\\pi}"}, ("\\pi", None)),
        ("math", {"problem": "?", "level": "Level ?", "solution": "\\boxed 2"}, ("2", None)),
        ("math500", {"problem": "?", "answer": " x=4 "}, ("x=4", None)),
        ("olympiadbench", {"question": "?", "final_answer": ["$1$", "$2$."], "error": None}, ("1, 2", None)),
        ("olympiadbench", {"question": "?", "final_answer": ["1.5"], "error": "1e-1"}, ("1.5", 0.1)),
        ("olympiadbench", {"question": "?", "final_answer": ["1.5"], "error": "1e-1,1e-3"}, ("1.5", 0.001)),
        ("olympiadbench", {"question": "?", "final_answer": ["1.5"], "error": "about"}, ("1.5", None)),
        ("amc", {"problem": "?", "answer": 142.0}, ("142", None)),
        ("amc", {"problem": "?", "answer": 0.5}, ("0.5", None)),
        ("aime24", {"problem": "?", "answer": "033"}, ("33", None)),
    ],
)  # fmt: skip
def test_right_answers_are_read_as_the_data_set_writes_them(tmp_path, dataset, row, reference):
    task = own(tmp_path, dataset, {**row, "split": "test"})
    assert tuple(task.problems("test")[0].reference.values()) == reference


def test_olympiadbench_allows_its_error_and_no_more(tmp_path):
    row = {"question": "?", "final_answer": ["1.4"], "error": "1e-1", "split": "test"}
    task = own(tmp_path, "olympiadbench", row)
    prompt = task.problems("test")[0]
    verdicts = {
        text: task.reward(prompt, f"\\boxed{{{text}}}")["reward"] for text in ("1.45", "\\sqrt{2}", "1.6")
    }
    assert verdicts == {"1.45": 1.0, "\\sqrt{2}": 1.0, "1.6": 0.0}


def test_hashes_count_for_gsm8k_alone():
    for dataset, reward in (("gsm8k", 1.0), ("amc", 0.0)):
        task = MathTask(dataset, "sample", flexible=False)
        prompt = task.problems("test")[0]
        reply = f"it is 5\n#### {prompt.reference['answer']}"
        assert task.reward(prompt, reply) == {"reward": reward, "accuracy": reward, "boxed": reward}


def test_flexible_judges_the_last_number():
    reply = "so there are 6 * 5 = 30 birds"
    for flexible in (True, False):
        task = MathTask("gsm8k", "sample", flexible=flexible)
        prompt = next(p for p in task.problems("test") if p.reference["answer"] == "30")
        assert task.reward(prompt, reply)["reward"] == float(flexible)


def test_the_library_alone_may_judge():
    """It takes what the guards refuse, and reads no plain text, which SymPy would run."""
    prompt = Prompt("m/0", "?", {"answer": "5 cm", "tolerance": None})
    rewards = {
        judge: [MathTask("math", "sample", judge=judge).reward(prompt, reply)["reward"] for reply in REPLIES]
        for judge in ("math_verify", "library_alone")
    }
    assert rewards == {"math_verify": [1.0, 0.0, 1.0], "library_alone": [1.0, 1.0, 0.0]}


def test_the_task_loads_the_library_before_it_grades():
    load_library.cache_clear()
    MathTask("gsm8k", "sample").prepare()
    assert load_library.cache_info().currsize == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "gsm9k"}, "dataset must be one of gsm8k, math, .* not 'gsm9k'"),
        ({"prompt": "raw"}, "prompt must be chat or qwen_math, not 'raw'"),
        (
            {"judge": "exact"},
            "judge must be math_verify .* not 'exact'. exact, the rules of version 0.1, is gone",
        ),
        ({"judge": "sympy"}, "judge must be math_verify .* or library_alone, not 'sympy'.$"),
        ({"levels": [0, 3]}, "levels must list some of 1 to 5"),
        ({"levels": []}, "levels must list some of 1 to 5"),
        ({"n_val": -1}, "n_val is -1"),
    ],
)
def test_bad_options_end_in_one_sentence(options, message):
    with pytest.raises(UsageError, match=message) as error:
        MathTask(**{"data": "sample", **options})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("dataset", "row"),
    [
        ("gsm8k", {"problem": "?"}),
        ("math", {"problem": "?", "level": "Level 3", "solution": "no box"}),
        ("olympiadbench", {"question": "?", "final_answer": "12"}),
        ("amc", {"problem": "?", "answer": "many"}),
    ],
)
def test_a_row_that_cannot_be_read_is_shown(tmp_path, dataset, row):
    with pytest.raises(UsageError, match="cannot read the row"):
        own(tmp_path, dataset, {**row, "split": "test"}).problems("test")
