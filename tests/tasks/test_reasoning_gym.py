"""Reasoning Gym: every generator's answers through our extractor, hostile text, splits, processes, faults."""

import ast
import json
import os
import pickle
import random
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import reasoning_gym as library
from hypothesis import given
from hypothesis import strategies as st
from jsonargparse import ArgumentParser
from reasoning_gym.factory import DATASETS

from es_lightning.errors import UsageError
from es_lightning.records import Prompt
from es_lightning.task import Task
from es_lightning.tasks.puzzles import formula
from es_lightning.tasks.puzzles.answers import last_answer
from es_lightning.tasks.reasoning_gym import ReasoningGym

SPLITS = ("train", "val", "test")
FEW = [
    "arc_agi",
    "boxnet",
    "countdown",
    "game_of_life_halting",
    "gsm_symbolic",
    "mini_sudoku",
    "n_queens",
    "number_sequence",
    "polynomial_multiplication",
    "propositional_logic",
    "puzzle24",
    "rubiks_cube",
    "simple_integration",
    "spiral_matrix",
    "zebra_puzzles",
]
ALL = [
    pytest.param(name, marks=[] if name in FEW else [pytest.mark.slow, pytest.mark.tasks])
    for name in sorted(DATASETS)
]
NO_SINGLE_ANSWER = {"boxnet", "graph_color", "propositional_logic", "rubiks_cube", "rush_hour"}
CONFIG = {"composite": {"datasets": [{"name": "mini_sudoku"}, {"name": "countdown", "weight": 2.0}]}}


@cache
def built(name: str) -> tuple[ReasoningGym, list[Prompt]]:
    task = ReasoningGym(name, n_train=1, n_val=1, n_test=2, **CONFIG.get(name, {}))
    return task, [prompt for split in SPLITS for prompt in task.problems(split)]


def everything(task: Task) -> list[Prompt]:
    return [prompt for split in SPLITS for prompt in task.problems(split)]


def block(text: str) -> str:
    return f"<answer>{text}</answer>"


def reward(name: str, answer: str, number: int = 0) -> float:
    task, prompts = built(name)
    return task.reward(prompts[number], block(answer))["reward"]


# Every generator


def test_this_is_the_version_that_was_audited():
    """A new version needs another look at its graders: which of them run text, or work on it for long."""
    names, methods = {"eval", "exec", "compile", "parse_expr", "sympify"}, {"parse_expr", "sympify"}
    root = Path(library.__file__).parent
    found = {
        f"{path.relative_to(root)}:{name}"
        for path in root.rglob("*.py")
        if "contrib" not in path.parts
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and (
            (name := getattr(node.func, "id", "")) in names
            or (name := getattr(node.func, "attr", "")) in methods
        )
    }
    of_model_text = {
        "algebra/intermediate_integration.py:parse_expr",
        "algebra/polynomial_multiplication.py:parse_expr",
        "algebra/simple_integration.py:parse_expr",
        "algorithmic/binary_matrix.py:eval",
        "algorithmic/spiral_matrix.py:eval",
        "algorithmic/string_insertion.py:eval",
        "games/countdown.py:parse_expr",
        "games/n_queens.py:eval",
        "games/puzzle24.py:parse_expr",
    }
    of_own_text = {
        "algorithmic/number_sorting.py:eval",  # the right answer, which is always JSON
        "arithmetic/basic_arithmetic.py:eval",
        "arithmetic/bitwise_arithmetic.py:eval",
        "arithmetic/gsm_symbolic/generators_00_49.py:eval",
        "arithmetic/gsm_symbolic/generators_50_99.py:eval",
        "code/codeio.py:exec",
        "logic/propositional_logic.py:parse_expr",  # its own parser
    }
    assert found == of_model_text | of_own_text
    assert len(DATASETS) == 106


@pytest.mark.parametrize("name", ALL)
def test_the_right_answer_earns_1_and_no_answer_0(name):
    task, prompts = built(name)
    for prompt in prompts:
        assert json.loads(json.dumps(prompt.reference)) == prompt.reference
        assert task.reward(prompt, "I do not know.") == {"reward": 0.0, "accuracy": 0.0}
        answer = prompt.reference["answer"]
        assert (answer is None) == (name in NO_SINGLE_ANSWER)
        # One answer in eight of intermediate_integration is an Integral(...), no more than the question.
        if answer is not None and "Integral" not in answer:
            assert task.reward(prompt, f"So: {block(answer)}.") == {"reward": 1.0, "accuracy": 1.0}
            assert task.answer(prompt) == block(answer)
        else:
            assert task.answer(prompt) is None


def hostile(longest: int, sentinel: Path) -> list[str]:
    """Answers that run code, nest deeply, grow, or loop, where a grader lets them; up to a length."""
    code = f"__import__('os').system('touch {sentinel}')"
    half, third = longest // 2, longest // 3
    return [
        code,
        f"[{code}]",
        f"[{code} for x in [1]]",
        f"sin({code})",
        f"x + {code}",
        f"(lambda: {code})()",
        f"open('{sentinel}', 'w')",
        f"[open('{sentinel}', 'w')]",
        f'exec("{code}")',
        f"f'{{{code}}}'",
        f"'{{0.__class__}}'.format({code})",
        *("(" * half + ")" * half, "[" * half + "]" * half, "[" * longest, '{"a":' * (longest // 5)),
        *("-" * longest + "1", "-" * longest + "x", "¬" * longest + "P", "not " * (longest // 4)),
        "(" * (half - 1) + "P" + ")" * half,
        *("9**9**9**9", "10**10**10", "((9**99)**99)**99", "2**99999", "9" * longest, "1e999999999"),
        *("x**99999999999", "x**(x**(x**x))", "exp(exp(exp(9999)))", "(x+1)**99999", "(x+y+z)**99*(x+y)**99"),
        *("*".join(["x"] * half), "+".join(["x"] * half), "*".join(["(x+1)"] * (longest // 6))),
        *("sin(" * (longest // 5) + "x" + ")" * (longest // 5), "*".join(["9**99"] * (longest // 6))),
        *("٣٣٣", "R٩٩٩٩٩٩٩٩", "R999999999", "R99 " * (longest // 4), "R3 " * third, "U " * half),
        *("F+99 " * (longest // 5), "F+999999999", "A+٩٩٩٩٩٩٩", "LR" * half, "ABC" * third, "٣/٤"),
        *(" " * longest, "\n" * longest, "1," * half, "1 " * half, "1×" * half, "{}" * half, "x\n" * half),
        *('[{"Agent[0.5, 0.5]": "move(' + ", " * (half - 40) + '"}]', '["' + 'a","' * (longest // 4) + '"]'),
        *('{"a":[' + "1," * (half - 10) + "1]}", '{"a":"' + "b" * (longest - 10) + '"}', '{"a":1,' * third),
        *(
            "\0" * longest,
            "1\0",
            "\ud800",
            "[\ud800]",
            "'\\N{BULLET}'",
            "nan",
            "inf",
            "nanj",
            "[NaN]",
            "null",
        ),
        *("∧".join(["A", "B", "AB", "BA", "ABA"] * (longest // 20)), "P∧" * half + "P", "A→" * half + "A"),
        *("Move disk 1 from Peg 1 to Peg 99999", "fill A", '["fill A"]', '["w,A1,B3"]', "A=1," * third),
    ]


LONG = [
    "<answer>" * 125_000,
    "</answer>" * 110_000,
    "<answer></answer>" * 60_000,
    "<answer>" * 60_000 + "</answer>" * 60_000,
    "\0" * 1_000_000,
    *map(block, ["9" * 10**6, "(" * 10**6, " " * 10**6, "x" + " " * 10**6 + "1", "\n" * 10**6, block("1")]),
    *map(block, ["R9 " * 330_000, "P∧" * 500_000, "1," * 500_000, '{"a":' * 200_000]),
]


@pytest.mark.parametrize("name", ALL)
def test_hostile_text_does_nothing_and_takes_no_time(name, tmp_path):
    task, prompts = built(name)
    for prompt in prompts[:2]:
        longest = 4 * len(prompt.reference["answer"] or " " * 250) + 900
        task.reward(prompt, block("1"))
        for text in [*map(block, hostile(longest, tmp_path / "sentinel")), *LONG]:
            times = []
            while len(times) < 5 and min(times, default=1.0) > 0.05:
                start = time.perf_counter()
                result = task.reward(prompt, text)
                times.append(time.perf_counter() - start)
            assert min(times) < 0.05, ascii(text[:60])
            assert 0 <= result["reward"] <= 1
            assert result["accuracy"] in (0.0, 1.0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["mini_sudoku", "simple_integration", "n_queens", "countdown"])
@given(text=st.text() | st.text(alphabet="x0123456789+-*/()[]'\"., \n_QC").map(block))
def test_any_reply_gets_a_reward_in_range(name, text):
    task, prompts = built(name)
    assert 0 <= task.reward(prompts[0], text)["reward"] <= 1


# Our own graders


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("<answer> 1\n</answer>", "1"),
        ("<answer>1</answer><answer>2</answer> done", "2"),
        ("<answer>1</answer><answer>2", "1"),
        ("<answer>1<answer>2</answer></answer>", "2"),
        ("<answer>1", None),
        ("</answer>1<answer>", None),
        ("", None),
    ],
)
def test_the_last_complete_block_is_the_answer(text, found):
    assert last_answer(text) == found


@pytest.mark.parametrize("name", ["spiral_matrix", "binary_matrix", "n_queens", "string_insertion"])
def test_a_python_list_earns_what_the_library_gives_it(name):
    task, prompts = built(name)
    for prompt in prompts:
        answer = prompt.reference["answer"]
        rows = list(answer) if name == "string_insertion" else [row.split() for row in answer.split("\n")]
        expected = 0.5 if name == "n_queens" else 0.1
        assert (
            task.reward(prompt, block(str(rows[0] if name == "spiral_matrix" else rows)))["reward"]
            == expected
        )
        assert task.reward(prompt, block(str([rows, 1])))["reward"] == 0


def test_24_needs_the_numbers_of_the_problem():
    """The library takes any four numbers from 1 to 10."""
    assert [reward("puzzle24", "6 * 4 * 1 * 1", i) for i in range(4)] == [0.01] * 4


def test_halting_needs_the_right_word():
    """The library takes any text."""
    task, prompts = built("game_of_life_halting")
    for prompt in prompts:
        right = prompt.reference["answer"]
        wrong = {"True": "False", "False": "True"}[right]
        assert [task.reward(prompt, block(text))["reward"] for text in (right.lower(), wrong, "x")] == [
            1,
            0,
            0,
        ]


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("x**3/3 + C", True),
        ("C + x*x*x*(1/3)", True),
        ("x**3/3 + x*0 - 7", True),
        ("(x**3 + 1)/3 + sin(x)**2 + cos(x)**2", True),
        ("0.333333333333*x**3", True),
        ("0.333*x**3", False),
        ("x**3", False),
        ("x**2", False),
        ("", None),
        ("Integral(x**2, x)", None),
        ("x^3/3", None),
        ("x**3/3 + y", None),
        ("x.real", None),
        ("2x", None),
        ("True*x", None),
        ("x if x else x", None),
        ("1/0", None),
    ],
)
def test_antiderivatives_of_a_square(text, right):
    if right is None:
        with pytest.raises((ValueError, SyntaxError, ArithmeticError)):
            formula.is_antiderivative(text, "x**2", "x")
    else:
        assert formula.is_antiderivative(text, "x**2", "x") == right


@pytest.mark.parametrize(
    ("answer", "integrand"),
    [
        ("-log(cos(x))", "tan(x)"),
        ("x*asin(3*x) + sqrt(1 - 9*x**2)/3", "asin(3*x)"),
        ("x*acos(x) - sqrt(1 - x**2)", "acos(x)"),
        ("x*atan(2*x) - log(1 + 4*x**2)/4 + C", "atan(2*x)"),
        ("x*ln(x**3) - 3*x", "log(x**3)"),
        ("2*(3*x - 7)**(3/2)/9", "sqrt(3*x - 7)"),
        ("E**(2*x)/2 + cosh(x)", "exp(2*x) + sinh(x)"),
        ("x**x", "x**x*(log(x) + 1)"),
        ("tanh(x) + sinh(x)", "1/cosh(x)**2 + cosh(x)"),
        ("-tan(-x)", "1/cos(x)**2"),
    ],
)
def test_antiderivatives_of_functions(answer, integrand):
    assert formula.is_antiderivative(answer, integrand, "x")
    assert not formula.is_antiderivative(answer + "+ x/1000", integrand, "x")


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("1 + 2*x*y**2 - x", True),
        ("-x + 2*y**2*x + 1", True),
        ("y**2*x + y*x*y + (1) - 2*x/2", True),
        ("2*x*y**2 - x", False),
        ("x*(2*y**2 - 1) + 1", None),  # a product of sums is what was to be multiplied out
        ("(x + 1)**2", None),
        ("x**y", None),
        ("x**100", None),
        ("1/x", None),
        ("xy", None),
    ],
)
def test_sums_of_monomials(text, same):
    if same is None:
        with pytest.raises(ValueError):  # noqa: PT011
            formula.polynomial(text)
    else:
        assert (formula.polynomial(text) == formula.polynomial("2*x*y**2 - x + 1")) == same


# Splits, processes, options


def test_splits_share_no_question_and_a_larger_train_split_begins_with_the_smaller():
    small, large = ReasoningGym("coin_flip", 20, 10, 30), ReasoningGym("coin_flip", 60, 10, 30)
    assert large.problems("train")[:20] == small.problems("train")
    assert (large.problems("val"), large.problems("test")) == (small.problems("val"), small.problems("test"))
    texts = [" ".join(prompt.text.casefold().split()) for prompt in everything(large)]
    assert len(set(texts)) == len(texts) == 100
    assert len({prompt.id for prompt in everything(large)}) == 100


def test_seeds_give_other_problems():
    """The library seeds entry i with seed + i: two of its data sets would share nearly all entries."""
    first, second = (everything(ReasoningGym("mini_sudoku", 20, 0, 20, seed=seed)) for seed in (0, 1))
    assert not {prompt.text for prompt in first} & {prompt.text for prompt in second}


def test_too_few_problems_is_an_error_that_says_how_many_there_are():
    task = ReasoningGym("tower_of_hanoi", n_train=500, n_val=5, n_test=5, max_disks=3)
    assert len(task.problems("val")) == 5
    with pytest.raises(UsageError, match=r"has only \d+ different problems in 3040 draws.*lower n_train"):
        task.problems("train")


VARYING = """
import json, sys
from es_lightning.tasks.reasoning_gym import ReasoningGym
names = ["isomorphic_strings", "ransom_note", "list_functions", "polynomial_multiplication", "codeio"]
tasks = [ReasoningGym(name, 30, 0, 30) for name in names]
prompts = [p for task in tasks for split in ("train", "test") for p in task.problems(split)]
print(json.dumps([[p.text, p.reference] for p in prompts]))
"""


@pytest.mark.slow
@pytest.mark.tasks
def test_other_processes_make_the_same_problems():
    """These generators would draw from sets of strings, or from random numbers without a seed."""
    outputs = []
    for seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
        run = subprocess.run(
            [sys.executable, "-c", VARYING], env=env, capture_output=True, text=True, check=True
        )
        outputs.append(json.loads(run.stdout))
    assert outputs[0] == outputs[1]


def test_making_problems_leaves_the_global_random_numbers_alone():
    random.seed(3)
    np.random.seed(3)
    expected = random.random(), np.random.random()
    random.seed(3)
    np.random.seed(3)
    for name in ("pool_matrix", "list_functions"):
        everything(ReasoningGym(name, 2, 2, 2))
    assert (random.random(), np.random.random()) == expected


def test_pickles_are_small_and_grade_the_same():
    task = ReasoningGym("mini_sudoku", 5, 5, 5, min_empty=8)
    prompts = everything(task)
    data = pickle.dumps(task)
    copy = pickle.loads(data)
    assert len(data) < 1000
    assert all(copy.reward(p, block(p.reference["answer"]))["reward"] == 1 for p in prompts)
    assert everything(copy) == prompts


def test_another_problem_of_the_same_number_is_an_error():
    task, prompts = built("mini_sudoku")
    strange = Prompt(id="mini_sudoku/test/0", text="Another question", reference=prompts[0].reference)
    with pytest.raises(RuntimeError, match="mini_sudoku/test/0 is another problem in this process"):
        task.reward(strange, "")


def test_raw_text_ends_its_line():
    raw = ReasoningGym("gcd", 1, 1, 1, chat=False).problems("val")[0]
    assert (raw.text, raw.chat) == (ReasoningGym("gcd", 1, 1, 1).problems("val")[0].text + "\n", False)


def from_yaml(text: str) -> Task:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Task, "task")
    return parser.instantiate_classes(parser.parse_string(text)).task


def test_a_yaml_file_can_set_the_generators_own_options():
    task = from_yaml("""
        task:
          class_path: es_lightning.tasks.reasoning_gym.ReasoningGym
          init_args: {dataset: composite, n_train: 4, n_val: 2, n_test: 10}
          dict_kwargs:
            datasets:
              - {name: mini_sudoku, config: {min_empty: 3, max_empty: 3}}
              - {name: gcd, weight: 2.0}
    """)
    boards = [p.text for p in task.problems("test") if "Sudoku" in p.text]
    assert 0 < len(boards) < 10
    assert all(text.split("puzzle:\n")[1].split("\n\n")[0].count("_") == 3 for text in boards)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"dataset": "mini_sudok"},
            "'mini_sudok' is not in reasoning-gym; did you mean mini_sudoku or sudoku",
        ),
        ({"dataset": "?"}, "is not in reasoning-gym; it has ab, acre, "),
        ({"min_emty": 3}, "has no option 'min_emty'; did you mean min_empty"),
        ({"min_empty": 99}, "mini_sudoku refuses {'min_empty': 99}: "),
        ({"min_empty": "a"}, "mini_sudoku refuses {'min_empty': 'a'}: "),
        ({"size": 3}, "size is no option of the data set mini_sudoku here; set seed, n_train"),
        ({"dataset": "composite"}, "composite refuses {}: Must specify at least one dataset"),
        ({"dataset": "composite", "datasets": 5}, "composite refuses {'datasets': 5}: "),
        ({"dataset": "composite", "datasets": [{"name": "gdc"}]}, "did you mean gcd"),
        ({"dataset": "composite", "datasets": [{"name": "composite"}]}, "cannot be part of another"),
        ({"n_val": -1}, "must be 0 or more, not"),
        ({"seed": -1}, "seed must be from 0 to 200000, not -1"),
        ({"n_train": 10**6}, "must be 4000 together at most"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(UsageError) as error:
        ReasoningGym(**options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_unknown_split_names_the_three():
    with pytest.raises(UsageError, match="train, val or test, not 'dev'"):
        built("mini_sudoku")[0].problems("dev")
