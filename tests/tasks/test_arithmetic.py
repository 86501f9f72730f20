"""The safe evaluator against Python's own fractions and grammar, and against hostile text."""

import ast
import operator
import re
import warnings
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from es_lightning.tasks.puzzles.formula import MAX_CHARS, MAX_NUMBER, evaluate
from tests.helpers.timing import fastest

SIGNS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
AST_SIGNS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}
LEVEL = {"+": 1, "-": 1, "*": 2, "/": 2}

# A tree is a number or (sign, left, right); small numbers make zero divisors frequent.
trees = st.recursive(
    st.integers(0, 12), lambda child: st.tuples(st.sampled_from("+-*/"), child, child), max_leaves=10
)


def value_of(tree) -> Fraction:
    if isinstance(tree, int):
        return Fraction(tree)
    sign, left, right = tree
    return SIGNS[sign](value_of(left), value_of(right))


def leaves(tree) -> tuple[int, ...]:
    return (tree,) if isinstance(tree, int) else leaves(tree[1]) + leaves(tree[2])


def written(tree, sparing: bool, level: int = 0) -> str:
    """The tree as text: all parentheses, or only those that precedence and left association call for."""
    if isinstance(tree, int):
        return str(tree)
    sign, left, right = tree
    own = LEVEL[sign]
    text = f"{written(left, sparing, own)} {sign} {written(right, sparing, own + 1)}"
    return text if sparing and own >= level else f"({text})"


@settings(max_examples=200)
@given(tree=trees, sparing=st.booleans(), spaced=st.booleans())
def test_value_and_numbers_equal_those_of_the_tree(tree, sparing, spaced):
    text = written(tree, sparing)
    result = evaluate(text if spaced else text.replace(" ", ""))
    try:
        expected = value_of(tree)
    except ZeroDivisionError:
        assert result is None
    else:
        assert result == (expected, leaves(tree))


def python_value(node: ast.AST) -> Fraction:
    """Value of a syntax tree of Python that holds nothing but what the evaluator allows."""
    match node:
        case ast.Constant(value=int(number)):
            return Fraction(number)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -python_value(operand)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in AST_SIGNS:
            return SIGNS[AST_SIGNS[type(op)]](python_value(left), python_value(right))
    raise SyntaxError("not allowed here")


def python_reads(text: str) -> Fraction | None:
    if re.search(r"(?<!\d)0\d|\d{10}", text):
        return None
    try:
        with warnings.catch_warnings(action="ignore"):
            return python_value(ast.parse(text.strip(" "), mode="eval").body)
    except (SyntaxError, ZeroDivisionError):
        return None


# Short pieces, so that a fair share of the texts is well formed.
pieces = st.sampled_from([*"1270+-*/() ", "12", "(3-", "*4)", "--", "-5"])


@settings(max_examples=700)
@given(st.lists(pieces, max_size=12).map("".join))
def test_python_reads_the_same_text_alike(text):
    result = evaluate(text)
    assert (None if result is None else result.value) == python_reads(text)


@pytest.mark.parametrize(
    ("text", "value", "numbers"),
    [
        ("10 - 4 - 3", 3, (10, 4, 3)),
        ("100 / 10 / 2", 5, (100, 10, 2)),
        ("2 + 3 * 4", 14, (2, 3, 4)),
        ("-(2 + 3) * -4", 20, (2, 3, 4)),
        ("- -7", 7, (7,)),
        ("((((5))))", 5, (5,)),
        ("\t8 /\n(3 - 8/3) ", 24, (8, 3, 8, 3)),
        ("0", 0, (0,)),
        (f"{MAX_NUMBER} - 0", MAX_NUMBER, (MAX_NUMBER, 0)),
    ],
)
def test_known_values(text, value, numbers):
    assert evaluate(text) == (value, numbers)


REFUSED = [
    *["", " ", "()", "+", "-", "3 +", "* 3", "(3", "3)", ")3(", "+3", "3 - +2"],
    *["3 4", "2(3)", "(2)(3)", "(2)3"],
    *["2**3", "9**9**9", "7//2", "7%2", "1.5", "1e3", "1_000", "1,000", "0x10", "007", "00", "10000000000"],
    *["1/0", "1/(2-2)", "0/0", "x", "pi", "__import__('os')", "3 = 3", "3;3", "3\0", "\0", "3\x1c+ 4"],
    *["²", "3²", "٣", "１", "3 × 4", "8 ÷ 2", "8 − 2", "3\u00a0+ 4", "½", "Ⅷ"],
]


@pytest.mark.parametrize("text", REFUSED)
def test_refused(text):
    assert evaluate(text) is None


def test_length_cap_is_exact():
    fits = "1" + "+1" * ((MAX_CHARS - 2) // 2) + " "
    assert len(fits) == MAX_CHARS
    assert evaluate(fits) == (MAX_CHARS // 2, (1,) * (MAX_CHARS // 2))
    assert evaluate(fits + " ") is None


HOSTILE = {
    "power tower": "9**9**9**9",
    "deep parentheses": "(" * 10_000 + "1" + ")" * 10_000,
    "deepest that fit": "(" * 127 + "1" + ")" * 127,
    "open parentheses": "(" * MAX_CHARS,
    "signs": "-" * 255 + "1",
    "one megabyte of digits": "9" * 1_000_000,
    "one megabyte of blanks": " " * 1_000_000,
    "null bytes": "\0" * 1_000_000,
    "largest product": "*".join(["999999999"] * 25),
    "largest denominators": "+".join(f"1/{number}" for number in range(99_999_971, 99_999_994)),
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_takes_no_time(text):
    assert fastest(lambda: evaluate(text)) < 5e-3


def test_hostile_but_well_formed_texts_are_exact():
    assert evaluate(HOSTILE["largest product"]).value == Fraction(999_999_999) ** 25
    assert evaluate(HOSTILE["signs"]).value == -1
    assert evaluate(HOSTILE["deepest that fit"]).value == 1


@given(st.text())
def test_any_text_is_none_or_an_exact_value(text):
    result = evaluate(text)
    assert result is None or isinstance(result.value, Fraction)
