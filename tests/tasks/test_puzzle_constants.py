"""What puzzles pay for text that answers nothing, and for right answers written in other ways."""

import contextlib
import re
from functools import cache
from math import isclose
from typing import Any

import pytest
from reasoning_gym.factory import DATASETS

from es_lightning.tasks.puzzles import formula
from es_lightning.tasks.puzzles.answers import grade
from es_lightning.tasks.puzzles.library import generate, open_dataset
from es_lightning.tasks.puzzles.text import decimal, said_number, same

OPTIONS = {"composite": {"datasets": [{"name": "gcd"}, {"name": "mini_sudoku"}]}}
SLOW_TO_MAKE = {"knight_swap", "futoshiki", "zebra_puzzles", "puzzle24", "sokoban"}
FEW = ["acre", "calendar_arithmetic", "chain_sum", "circuit_logic", "coin_flip", "complex_arithmetic"]
FEW += ["game_of_life", "gsm_symbolic", "letter_counting", "number_sorting", "polynomial_equations"]
FEW += ["prime_factorization", "propositional_logic", "rectangle_count", "syllogism", "time_intervals"]
ALL = [
    pytest.param(name, marks=[] if name in FEW else [pytest.mark.slow, pytest.mark.tasks])
    for name in sorted(DATASETS)
]
CONSTANTS = [
    *("", " ", "0", "0.0", "0.1", "0.5", "1", "-1", "2", "5", "7", "10", "12", "100", "-0", "1_0", "٠", "½"),
    *("nan", "-nan", "nan+nanj", "NaN", "inf", "-inf", "infinity", "1e999", "-1e999", "1e-5", "0/1", "1/0"),
    *("true", "True", "yes", "Yes No", "True False", "on off", "None", "null", "unknown", "a", "A", "x", "C"),
    *("[]", "{}", "()", "[[]]", "[0]", "[NaN]", '["nan"]', '{"a": 1}', "(0, 0)", "0, 0", "nan, nan", "0 0"),
    *("0:0", "1:1", "12:00", "0 days", "50 days, 12:00", "12:00:00.000", "P ∨ ¬P", "P → P", "0123456789"),
    *("1" * 900, "a" * 900, "[" * 900, "0 " * 450, "nan " * 200),
]
# The most that the library gives for the right form, and what is right by chance in a word or a grid.
CONSOLATION = 0.15


@cache
def made(name: str) -> tuple[Any, list[dict[str, Any]]]:
    dataset = open_dataset(name, 0, 100, OPTIONS.get(name, {}))
    entries = []
    for index in range(8 if name in SLOW_TO_MAKE else 20):
        try:
            entries.append(generate(dataset, index))
        except Exception:  # noqa: S112 - some generators find no problem for some numbers
            continue
    return dataset, entries


def is_answer(text: str, reference: Any) -> bool:
    """Whether a text is the reference, by another rule than the graders': as text, or as a float."""
    text, reference = re.sub(r"^[\[(]|[\])]$| days$", "", text.strip()), str(reference)
    try:
        return isclose(float(text), float(reference), abs_tol=2e-5) and float(text) == float(text)
    except ValueError:
        return text.casefold() == reference.casefold()


def words_of(question: str) -> list[str]:
    """The question, and parts of it, as a model may copy them."""
    lines = [line for line in question.split("\n") if line.strip()]
    numbers = re.findall(r"-?\d+(?:\.\d+)?", question) or ["0"]
    return [question, lines[-1], lines[0], numbers[-1], numbers[0], question.split()[-1]]


@pytest.mark.parametrize("name", ALL)
def test_text_that_answers_nothing_earns_no_more_than_a_guess(name):
    dataset, entries = made(name)
    assert len(entries) >= 5
    for constant in CONSTANTS:
        right = sum(is_answer(constant, entry["answer"]) for entry in entries)
        earned = sum(grade(dataset, entry, constant) for entry in entries)
        assert earned <= right + CONSOLATION * len(entries), constant[:40]
    for part in range(6):
        said = [words_of(entry["question"])[part] for entry in entries]
        right = sum(is_answer(text, entry["answer"]) for text, entry in zip(said, entries, strict=True))
        earned = sum(grade(dataset, entry, text) for text, entry in zip(said, entries, strict=True))
        assert earned <= right + CONSOLATION * len(entries), part


OPPOSITE = {"true": "False", "false": "True", "yes": "No", "no": "Yes"}


@pytest.mark.parametrize("name", ALL)
def test_the_opposite_of_the_answer_earns_nothing(name):
    dataset, entries = made(name)
    for entry in entries:
        reference = str(entry["answer"])
        if re.fullmatch(r"-?\d+(\.\d+)?", reference) and float(reference) != 0:
            answers = [reference[1:] if reference.startswith("-") else f"-{reference}", f"not {reference}"]
        else:
            answers = [OPPOSITE[reference.lower()]] if reference.lower() in OPPOSITE else []
        assert all(grade(dataset, entry, answer) <= 0.01 for answer in answers), reference


def test_shapes_without_content_earn_nothing():
    """The library gives 1 for nan in place of every number, and 0.96 for a grid without life."""
    dataset, entries = made("number_sorting")
    for entry in entries:
        count = entry["answer"].count(",") + 1
        assert grade(dataset, entry, str(["nan"] * count)) == 0
        assert grade(dataset, entry, f"[{', '.join(['NaN'] * count)}]") == 0
    dataset, entries = made("game_of_life")
    alive = [entry for entry in entries if "1" in entry["answer"]]
    assert len(alive) > 5
    assert all(grade(dataset, entry, entry["answer"].replace("1", "0")) == 0 for entry in alive)
    for name in ("kakurasu", "mini_sudoku", "sudoku"):  # the library passes over what is no digit
        dataset, entries = made(name)
        grids = [(entry, re.sub(r"\d", r"-\g<0>", entry["answer"])) for entry in entries]
        assert all(grade(dataset, entry, grid) == 0 for entry, grid in grids)
    dataset, entries = made("propositional_logic")
    premises = [(entry, premise) for entry in entries for premise in entry["metadata"]["premises"]]
    assert all(grade(dataset, entry, premise) <= 0.05 for entry, premise in premises)


# Right answers in other words


def formatted(reference: str) -> list[str]:
    ways = [
        f"  {reference}\n",
        f"**{reference}**",
        f"`{reference}`",
        f"\\boxed{{{reference}}}",
        f"{reference}.",
    ]
    ways += [f"${reference}$", f"The answer is {reference}", f"**The final answer is: {reference}.**"]
    return [*ways, f"{float(reference):,}"] if re.fullmatch(r"\d{4,9}", reference) else ways


@pytest.mark.parametrize("name", ALL)
def test_the_right_answer_counts_however_it_is_set(name):
    dataset, entries = made(name)
    for entry in entries[:8]:
        if entry["answer"] is not None and "Integral" not in entry["answer"]:
            for text in formatted(entry["answer"].strip().removesuffix(".")):
                assert grade(dataset, entry, text) == 1, text


def entry_of(name: str, reference: str, **metadata: Any) -> dict[str, Any]:
    return {"answer": reference, "metadata": {"source_dataset": name, **metadata}}


HALF = {"rational": {"numerator": 5, "denominator": 16}}
RARE = {"rational": {"numerator": 1, "denominator": 32768}}
FACTORS = {"factors": [2, 2, 5, 7]}


@pytest.mark.parametrize(
    ("entry", "right", "wrong"),
    [
        (
            entry_of("gsm_symbolic", "28080"),
            ["28,080", "$28,080.00", "28080.0", r"\$28{,}080", "28080 dollars", "x = 28,080", "Total: 28080"],
            ["-28080", "28", "28.080", "2 8080", "28080 or 28081", "28080 thousand", "not 28080", "28,08"],
        ),
        (
            entry_of("coin_flip", "0.3125", **HALF),
            ["5/16", ".3125", "0.3125", "31.25%", r"31.25\%", r"\frac{5}{16}", r"$\dfrac{5}{16}$", "10/32"],
            ["0", "0.3", "0.31", "0.", "1", "5", "16/5", "-0.3125", "5/0", "3125%", "0.31250/0"],
        ),
        (
            entry_of("coin_flip", "3.051757812e-05", **RARE),
            ["1/32768", "0.0000305", "3.05e-5", "0.00305%"],
            ["0", "0.0", "0.0001", "1e-5", "1"],
        ),
        (
            entry_of("complex_arithmetic", "-15.0 + 3.0i", result=(-15, 3)),
            ["-15+3i", "(-15 + 3i)", "-15.0+3.0j", "z = -15 + 3i", "-15 + 3*i", "$-15+3i$"],
            ["nan", "nan+nanj", "-15", "3i", "15+3i", "-15-3i", "-15+3", "-15+4i", "-14.99+3i", "inf", "i"],
        ),
        (entry_of("complex_arithmetic", "1.0i", result=(0, 1)), ["i", "0+i", "1i", "+i"], ["-i", "0", "1"]),
        (entry_of("complex_arithmetic", "4.0", result=(4, 0)), ["4", "4+0i", "4.0 - 0i"], ["4i", "-4", ""]),
        (
            entry_of("polynomial_equations", "-3.625, 0.0", real_solutions=[-3.625, 0.0]),
            ["0, -3.625", "-3.6250, 0.0000", "x = 0 or x = -3.625", "[-3.625, 0]", "x_1 = 0, x_2 = -3.625"],
            ["0", "-3.625", "0, 0", "-3.6, 0", "0, -3.625, 1", "nan, nan", "3.625, 0", "inf, 0", ""],
        ),
        (
            entry_of("time_intervals", "06:09"),
            ["6:09", "06:09:00", "0 days, 06:09"],
            ["1:1", "6:08", "6:9", "6", "369", "-06:09", "", "06:09 or 06:10", "6 days"],
        ),
        (
            entry_of("time_intervals", "5 days"),
            ["5", "5 Days", "5 days, 00:00", "5 day"],
            ["6 days", "-5 days", "5:00", ""],
        ),
        (
            entry_of("time_intervals", "2 days, 04:05:06"),
            ["2 days 4:05:06", "2 Days, 04:05:06"],
            ["2 days, 04:05", "2 days"],
        ),
        (entry_of("time_intervals", "00:01:02.500"), ["0:01:02.5"], ["0:01:02", "0:01:02.050"]),
        (
            entry_of("prime_factorization", "2 × 2 × 5 × 7", **FACTORS),
            [
                "7×5×2×2",
                "2*2*5*7",
                "2^2 × 5 × 7",
                r"2^{2} \times 5 \times 7",
                "2**2 * 5 * 7",
                "2 x 2 x 5 x 7",
            ],
            ["140", "4 × 5 × 7", "1 × 140", "2 × 2 × 5", "2 × 2 × 5 × 7 × 1", "2^99 × 5", ""],
        ),
        (
            entry_of("power_function", "-0.0013674811612376526"),
            ["-1.37e-3", "-0.00137", "-1.37 × 10^-3", r"-1.37 \times 10^{-3}", "-0.001367"],
            ["1.37e-3", "nan", "-1.36e-3", "-1.37", "x"],
        ),
        (entry_of("power_function", "123456.7"), ["123,456.7", "1.23e+5", "123000"], ["1.23e4", "122000"]),
        (entry_of("dice", "823/1575"), ["823 / 1575", r"\frac{823}{1575}"], ["1646/3150", "0.52"]),
        (entry_of("course_schedule", "False"), ["false", "FALSE.", '"False"'], ["True", "False True", "0"]),
        (entry_of("caesar_cipher", "AND WITH THAT"), ["and with that", "And  with that."], ["AND WITH"]),
        (entry_of("number_filtering", "['14', '-81.5']"), ["[14, -81.5]", '["14","-81.5"]'], ["[14]", "14"]),
        (entry_of("list_functions", "[50, 88]"), ["[50,88]", "[ 50, 88 ]"], ["[88, 50]", "50", "[5088]"]),
        (
            entry_of("rotate_matrix", "1 2\n3 4"),
            ["1  2 \n3 4", "1 2\n\n3 4"],
            ["1 2 3 4", "12\n34", "-1 2\n3 4"],
        ),
        (entry_of("bf", "Filly"), ["Filly", "`Filly`"], ["filly", "Filly Filly"]),
        (entry_of("base_conversion", "45a"), ["45A", "45a."], ["45", "a54", "-45a"]),
        (entry_of("tsumego", "J2"), ["j2"], ["J2 J3", "-J2"]),
    ],
    ids=lambda value: value["metadata"]["source_dataset"] if isinstance(value, dict) else "",
)
def test_other_ways_to_write_an_answer_and_other_answers(entry, right, wrong):
    assert [text for text in right if grade(None, entry, text) != 1] == []
    assert [text for text in wrong if grade(None, entry, text) > 0.05] == []


def test_codeio_takes_the_same_json_and_nothing_around_it():
    dataset, _ = made("codeio")
    entry = entry_of("codeio", '{"a": [1, 2]}')
    assert grade(dataset, entry, '{ "a":[1,2] }') == 1
    assert grade(dataset, entry_of("codeio", "True"), "{True False}") == 0
    assert grade(dataset, entry_of("codeio", "5"), "-5") == 0


def test_numbers_in_words_and_out_of_them():
    assert (
        decimal("1,234.50") == said_number("It is 1,234.5 meters") == said_number("1.2345 * 10^3") == 1234.5
    )
    assert [decimal(text) for text in ("1,23", "1e5", "٣", "", ".", "12a")] == [None] * 6
    assert said_number("-.5") == -0.5
    assert not same("12", "1 2")


FORMULAS = [
    "x**-1",
    "sin(x)",
    "x(x)",
    "sin",
    "x + sin",
    "exp",
    "x y",
    "sin()",
    "log(x, x)",
    "not x",
    "lambda",
]
BROKEN = [
    "(",
    ")",
    "x +",
    "x if x",
    "2(3)",
    "",
    "1/0",
    "-" * 5000 + "x",
    "x+" * 5000,
    "(" * 300 + "x" + ")" * 300,
]


@pytest.mark.parametrize("text", FORMULAS + BROKEN, ids=lambda text: text[:9])
def test_what_is_no_sum_of_monomials_is_a_value_error(text):
    """Python's parser raises SyntaxError and MemoryError, and a known function is no variable."""
    with pytest.raises((ValueError, ArithmeticError)):
        formula.polynomial(text)
    with contextlib.suppress(ValueError, ArithmeticError):
        formula.is_antiderivative(text, "x", "x")
    with pytest.raises(ValueError):  # noqa: PT011
        formula.literal(text)
