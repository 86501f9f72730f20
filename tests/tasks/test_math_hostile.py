"""Replies made to stall the maths grader, whatever the right answer is."""

import builtins
import importlib
import random
import re
import time
from collections.abc import Callable
from typing import Any

import math_verify.parser
import pytest
import sympy.parsing.sympy_parser
from hypothesis import given, settings
from hypothesis import strategies as st
from latex2sympy2_extended import latex2sympy2

from es_lightning.tasks.answers import math_library
from es_lightning.tasks.answers.math_equal import answers_equal
from es_lightning.tasks.answers.math_library import load_library
from tests.helpers.math_cases import cases, grade

GOLDS = (
    "72",
    r"\frac{1}{2}",
    r"\sqrt{2}",
    "x^2+2x+1",
    r"\{1,2\}",
    r"(-\infty,1)\cup(3,\infty)",
    "y=2x+3",
    "f(x+1)-f(x)",
)
PIECES = (
    *re.findall(
        r"\S+", r"\frac{ } \sqrt \boxed{ { } ( ) [ ] \left( \right) ^ _ ! | \{ \} , ; = < > x y i e 1 2"
    ),
    *re.findall(r"\S+", r"9 99 0.5 \pi \infty \sin \log_ \binom{9}{ \pm \text{ % $ & \\ + - * / ' ~"),
    *("####", "answer:", "**", "\\le", "\\cup", "\\in", "\n", " "),
)


def nested(rng: random.Random) -> str:
    opening, closing = rng.choice(
        [
            ("(", ")"),
            ("{", "}"),
            ("[", "]"),
            ("\\{", "\\}"),
            ("\\frac{1}{", "}"),
            ("\\sqrt{", "}"),
            ("|", "|"),
        ]
        + [("-(", ")"), ("x^{", "}"), ("\\sin(", ")"), ("\\boxed{", "}"), ("(1+", ")^2"), ("\\text{", "}")]
    )
    depth = rng.choice([3, 4, 5, 6, 8, 12, 20, 50, 100, 1000, 10000])
    return opening * depth + rng.choice("1x9") + closing * (depth - rng.choice([0, 0, 0, 1]))


def tower(rng: random.Random) -> str:
    base, top = rng.choice(["9", "x", "99999", "e", "10"]), rng.choice(["9", "999", "9999999999", "x"])
    return rng.choice(
        [f"{base}^{{{base}^{{{base}^{top}}}}}", f"{base}^{{{top}}}", f"(({base}^{{99}})^{{99}})^{{{top}}}"]
        + [
            f"{top}!",
            f"({top}!)!",
            f"{base}^{{{top}!}}",
            "9!!!!",
            f"\\binom{{{top}}}{{{top}}}",
            f"10^{{-{top}}}",
        ]
        + [
            f"\\exp(\\exp(\\exp({top})))",
            f"\\sum_{{n=1}}^{{{top}}} n",
            f"\\int_0^{top} e^{{x^x}} dx",
            "1e" + top,
        ]
        + [f"{base}^{base}^{top}", f"{base}^({base}^({top}))", f"\\log_{{{base}}}{{{top}}}^{top}"]
    )


def digits(rng: random.Random) -> str:
    return rng.choice(["1", "9", "٣", "３", "²", "1,", "0.", "1/", "-", "1 "]) * rng.choice(
        [10, 100, 290, 5000]
    )


def odd_signs(rng: random.Random) -> str:
    return "".join(
        rng.choices(["\0", "\ud800", "\udfff", "é", "\u202e", "∑", "🎲", "1", "\n", "\\", "{"], k=40)
    )


def long_text(rng: random.Random) -> str:
    return rng.choice(
        ["a", " ", "\\boxed{", "\\boxed{1}", "####", "$", "answer is ", "(", "9", "\\", "1 "]
    ) * (1_000_000 // rng.choice([1, 2, 9]))


def salad(rng: random.Random) -> str:
    return "".join(rng.choices(PIECES, k=rng.choice([5, 10, 20, 40, 80])))


def functions(rng: random.Random) -> str:
    names = [
        "\\sin ",
        "\\tan(x)",
        "\\arctan ",
        "\\log_2 ",
        "\\ln x",
        "\\sqrt[9]{x}",
        "e^{x}",
        "|x|",
        "x!",
        "\\frac12",
    ]
    return "".join(rng.choice(names) + rng.choice(["+", "-", "", "\\cdot ", "/"]) for _ in range(9)) + "1"


KINDS = (nested, tower, digits, odd_signs, salad, functions)


def hostile() -> list[tuple[str, str]]:
    """1,200 pairs of a gold answer and a reply, each kind of reply in and out of a box."""
    rng = random.Random(2024)
    replies = [rng.choice(KINDS)(rng) for _ in range(1176)] + [long_text(rng) for _ in range(24)]
    wrapped = [
        rng.choice(["{}", "\\boxed{{{}}}", "\\boxed{{{}}}", "The answer is ${}$", "{}\\boxed{{"])
        for _ in replies
    ]
    return [(rng.choice(GOLDS), w.format(reply)) for w, reply in zip(wrapped, replies, strict=True)]


def seconds(gold: str, reply: str, hashes: bool) -> float:
    answers_equal.cache_clear()
    start = time.perf_counter()
    grade(gold, reply, hashes=hashes)
    return time.perf_counter() - start


SELDOM = [pytest.mark.slow, pytest.mark.tasks]


@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=SELDOM) for part in (1, 2))])
def test_hostile_replies_are_graded_in_time(monkeypatch, part):
    """Within 50 ms before the library is asked, else within a second; a slow one is timed again."""
    load_library()
    asked = []
    monkeypatch.setattr(
        math_library, "_parsed", lambda text, parse=math_library._parsed: asked.append(text) or parse(text)
    )
    for number, (gold, reply) in list(enumerate(hostile()))[part::3]:
        asked.clear()
        first = seconds(gold, reply, number % 2 == 0)
        limit = 1.0 if asked else 0.05
        assert min(first, first if first < limit else seconds(gold, reply, number % 2 == 0)) < limit, (
            gold,
            reply[:200],
        )


WHEN = r"\cos(t)=0 when t=\frac{\pi}{2}+\pi k for any integer k"
TIRING = [
    (WHEN, WHEN.replace("2", "3")),
    (WHEN.replace("when", r"\text{ when }"), WHEN.replace("when", r"\text{ when }").replace("2", "3")),
    ("2", "9^{9^{9^9}}"),
    ("2", "((9^9)^9)^9"),
    ("2", "99999!"),
    ("2", "2^{99999}"),
    ("x", "x^{99999}"),
    ("2", r"\sqrt[9^{9^9}]{2}"),
    ("2", r"\binom{10^9}{5000}"),
    ("2", r"\sum_{n=1}^{10^9}n"),
    ("2", r"\operatorname{zeros}(99999)"),
    ("x^2", "(" * 9 + "x^2" + ")" * 9 + "x"),
    (r"x^{7}+y^7=\sin(xy)", r"2x^7+2y^7=3\sin(yx)"),
    (",".join(f"x^{{{k}}}+y" for k in range(2, 20)), ",".join(f"y+x^{{{k}}}" for k in range(21, 3, -1))),
]


@pytest.mark.parametrize(("gold", "reply"), TIRING, ids=lambda text: text[:30])
def test_no_wrong_formula_takes_more_than_a_second(gold, reply):
    load_library()
    assert min(seconds(gold, f"\\boxed{{{reply}}}", False) for _ in range(2)) < 1.0
    assert not grade(gold, f"\\boxed{{{reply}}}")


def test_nothing_that_a_model_wrote_is_run(monkeypatch):
    """SymPy's reader of plain text runs Python code; of a formula it gets single numbers and nothing else."""
    load_library()
    importlib.import_module("sympy.physics.units")  # reads names of its own when it is first imported
    read: list[str] = []  # the graders catch whatever would be raised here

    def recorded(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(text: object, *others: object, **options: object) -> Any:
            read.append(str(text))
            return function(text, *others, **options)

        return run

    for module in (sympy.parsing.sympy_parser, math_verify.parser, latex2sympy2):
        monkeypatch.setattr(module, "parse_expr", recorded(module.parse_expr))
    monkeypatch.setattr(builtins, "eval", recorded(eval))
    monkeypatch.setattr(math_library, "_parsed", math_library._parsed.__wrapped__)
    for gold, reply in [*hostile()[:300], *((gold, reply) for gold, reply, _ in cases())]:
        answers_equal.cache_clear()
        grade(gold, reply)
    number = re.compile(
        r"[\d.]+|Integer \(\d+ \)|Float \('[\d.]+' \)"
    )  # as text, and as code that SymPy makes
    assert read
    assert [text for text in read if not number.fullmatch(text)] == []


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(GOLDS), st.text(max_size=60) | st.lists(st.sampled_from(PIECES), max_size=25).map("".join)
)
def test_any_text_gets_a_verdict(gold, text):
    for reply in (text, f"\\boxed{{{text}}}", f"The answer is {text}"):
        assert grade(gold, reply) in (True, False)
    answers_equal(text, gold)
    answers_equal(text, text)
