"""Final answers of replies: a table of cases, properties, and replies made to stall the grader."""

import subprocess
import sys
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from es_lightning.tasks.answers.math_answers import final_answer, last_box
from es_lightning.tasks.answers.math_equal import answers_equal
from tests.helpers.math_cases import cases, grade


@pytest.mark.parametrize(("gold", "reply", "right"), cases(), ids=lambda value: str(value)[:60])
def test_table(gold, reply, right):
    assert grade(gold, reply) is right


# Replies without a box


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        ("The answer is 12.", "12"),
        ("The answer is 3.5.", "3.5"),
        ("so the final answer is: $12$. Done", "12"),
        ("**Answer:** 12", "12"),
        ("Final Answer:\n12", "12"),
        ("The answer to the question is 12 apples because 3 * 4 = 12", "12"),
        ("The answer is \\(\\frac{1}{2}\\).", "\\frac{1}{2}"),
        ("The answer is east, since the sun rises there", "east"),
        ("The answer is 1. No, the answer is 2.", "2"),
        ("Answer = 1,200", "1,200"),
        ("The answer is 6\\sqrt{2}.", "6\\sqrt{2}"),
        ("The answer is 3 + 4i.", "3 + 4i"),
        ("The answer is 2, 3.", "2, 3"),
        ("**Final Answer**\n\n12", "12"),
        ("Answer:\n\\[12\\]", "12"),
        ("The answer must be 12.", "12"),
        ("The answer is hence `12`.", "12"),
        ("The answer is 3 \\times 4 = 12.", "3 \\times 4 = 12"),
        ("The answer is $\\boxed{12}$. I use \\boxed{}", "12"),
        ("<answer>\n12\n</answer>, for the answer is 3 * 4", "12"),
        ("The total is 12 ways.", "12"),
        ("The answer is 12 or 13", "12 or 13"),
        ("The answer is 12. The total is 13.", "12"),
        ("<answer>The answer is 12.</answer>", "12"),
        ("Final answer:\n\n$$\n12\n$$", "12"),
        ("The answer is 12 (twelve).", "12"),
    ],
)
def test_a_stated_answer_is_found_without_a_box(reply, text):
    assert final_answer(reply, flexible=False) == (text, False)


@pytest.mark.parametrize(
    ("reply", "strict", "formula", "number"),
    [
        ("so we get $x$ and then $12$.", None, "12", "12"),
        ("we add 3 and 4, which makes 7", None, "7", "7"),
        ("from $y = 3$ we get 7", None, "y = 3", "7"),
        ("we need 3½ cups", None, "3½", "3½"),
        ("It costs 1,234.50 dollars", None, "1,234.50", "1,234.50"),
        ("no idea", None, None, None),
        ("so x = 12. $\\blacksquare$", None, "12", "12"),
        ("Answer: there are 12 ways", "there are 12 ways", "12", "12"),
        ("Answer: the largest $n$ is 12", "the largest $n$ is 12", "12", "12"),
        ("12 \\boxed{}", None, None, None),
        ("12 \\boxed{13", None, None, None),
        ("", None, None, None),
        ("7" + " " * 400, None, None, None),  # the last 300 characters count
    ],
)
def test_the_last_fall_back_can_be_switched_off(reply, strict, formula, number):
    assert final_answer(reply, flexible=False).text == strict
    assert final_answer(reply).text == formula
    assert final_answer(reply, hashes=True).text == number


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("text\n#### 72", ("72", True)),
        ("text\n####72 eggs", ("72", True)),
        ("#### $1,080.50", ("1,080.50", True)),
        ("#### 5 + 3 = 8", ("8", True)),
        ("#### -3", ("-3", True)),
        ("#### 5\n#### 6\nbye 7", ("6", True)),
        ("#### 18 x 2 = 36", ("36", True)),
        ("#### 18-5=13", ("13", True)),
        ("#### 18 dozen", ("18 dozen", True)),
        ("####\n**18**\nbye 7", ("18", True)),
        ("#### $\\boxed{18}$", ("18", True)),
        ("#### 18. She makes 18.", ("18", True)),
        ("\\boxed{5} #### 6", ("6", True)),
        ("#### Step 1\nso \\boxed{6}", ("6", True)),
        ("#### 1. Add the eggs\nso \\boxed{6}", ("6", True)),
        ("####\nThe answer is 6.", ("6", False)),
        ("#### \nso 6", ("6", False)),
        ("####\n\n18", ("18", True)),
        ("#### Total = 18", ("18", True)),
        ("#### 18 (9 * 2)", ("18", True)),
        ("#### 18 or 19", ("19", False)),
        ("#### 18, 19", ("19", False)),
        ("#### 18 19", ("19", False)),
        ("#### 18 plus 2", ("2", False)),
        ("#### 18 \u2212 2", ("2", False)),
        ("#### 18 \u00f7 2", ("2", False)),
        ("#### 18k", ("18", False)),
        ("#### 3:30", ("30", False)),
        ("#### 3½", ("3½", True)),
        ("#### 3 ½ cups", ("3 ½", True)),
        ("#### 3⅓", ("3⅓", True)),
        ("#### 3²", ("3²", True)),
        ("The answer is 3½.", ("3½", False)),
        ("The answer is 3 ½ cups", ("3 ½", False)),
    ],
)
def test_hashes_mark_an_answer_where_they_count(reply, expected):
    assert final_answer(reply, hashes=True) == expected


def test_hashes_count_for_nothing_elsewhere():
    assert final_answer("\\boxed{5}\n#### 6") == ("5", True)


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("\\boxed{a{b{c}}d}", "a{b{c}}d"),
        ("\\boxed{\\{1,2\\}}", "\\{1,2\\}"),
        ("\\boxed{a} \\fbox{b}", "b"),
        ("\\boxed{a", None),
        ("\\boxed{}", None),
        ("\\boxed{" + "1" * 601 + "}", None),
        ("boxed{1}", None),
    ],
)
def test_content_of_a_box(text, inside):
    assert last_box(text) == inside


# Properties


def spellings(value: Fraction) -> list[str]:
    """Ways to write a fraction."""
    top, bottom, sign = abs(value.numerator), value.denominator, "-" if value < 0 else ""
    whole, rest = divmod(top, bottom)
    ways = [
        f"{sign}{top}/{bottom}",
        rf"{sign}\frac{{{top}}}{{{bottom}}}",
        rf"\dfrac{{{sign}{top}}}{{{bottom}}}",
    ]
    ways += [
        rf"x = {sign}\frac{{{2 * top}}}{{{2 * bottom}}}",
        rf"${sign}\left(\frac{{{top}}}{{{bottom}}}\right)$",
    ]
    ways += [rf"{sign}{whole}\frac{{{rest}}}{{{bottom}}}"] if whole and rest else []
    ways += (
        [f"{sign}{top}", f"{sign}{top:,}", f"{sign}{top}.0", rf"{sign}{top}\text{{ cm}}"]
        if bottom == 1
        else []
    )
    ways += [f"{float(value)}"] if bottom in (2, 4, 5, 8, 10) and top < 10**6 else []
    return ways


fractions = st.fractions(min_value=-9999, max_value=9999, max_denominator=60)


@settings(max_examples=50, deadline=None)
@given(fractions, fractions, st.randoms(use_true_random=False))
def test_a_fraction_equals_itself_however_written_and_no_other(value, other, rng):
    for way in spellings(value):
        assert answers_equal(rng.choice(spellings(value)), way)
        assert answers_equal(rng.choice(spellings(other)), way) == (value == other)


@settings(max_examples=100, deadline=None)
@given(st.lists(fractions, min_size=2, max_size=6, unique=True), st.randoms(use_true_random=False))
def test_sets_are_equal_in_any_order_and_tuples_in_one(values, rng):
    texts = [f"\\frac{{{v.numerator}}}{{{v.denominator}}}" for v in values]
    shuffled = rng.sample(values, len(values))
    others = [f"{v.numerator}/{v.denominator}" for v in shuffled]
    assert answers_equal(f"\\{{{','.join(texts)}\\}}", ", ".join(others))
    assert answers_equal(f"({','.join(texts)})", f"({', '.join(others)})") == (values == shuffled)
    changed = [*others[:-1], f"{shuffled[-1].numerator + 100_000}/7"]
    assert not answers_equal(", ".join(texts), ", ".join(changed))


@settings(max_examples=8, deadline=None)
@given(st.integers(-9, 9), st.integers(-9, 9), st.integers(1, 9))
def test_expanded_products_are_equal_and_perturbed_ones_are_not(a, b, c):
    product = f"{c}(x+{a})(x+{b})".replace("+-", "-")
    linear, constant = c * (a + b), c * a * b
    assert answers_equal(product, f"{c}x^2+{linear}x+{constant}".replace("+-", "-"))
    assert not answers_equal(product, f"{c}x^2+{linear}x+{constant + 1}".replace("+-", "-"))


def test_grading_works_in_other_threads_and_says_nothing():
    code = """
import threading
from es_lightning.tasks.answers.math_equal import answers_equal
found = []
pairs = [("f(x+1)", "f(1+x)"), ("f(x+1)", "f(x+2)"), ("(x+1)^2", "x^2+2x+1"), ("1", "\\\\frac{1}{0}")]
thread = threading.Thread(target=lambda: found.extend(answers_equal(*pair) for pair in pairs))
thread.start()
thread.join()
assert found == [True, False, True, False], found
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_plain_numbers_and_lists_of_them_do_not_load_sympy():
    code = r"""
import sys
from es_lightning.tasks.answers.math_equal import answers_equal
assert answers_equal("\\frac{3}{4}", "75\\%") and answers_equal("(1,2)", "(1.0, \\frac42)")
assert answers_equal("5 cm, 1,200 cm", "1200, 5") and not answers_equal("3", "3 apples or 4")
assert "sympy" not in sys.modules
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")


def test_a_verdict_is_remembered():
    assert answers_equal("x^2+1", "1+x^2")
    before = answers_equal.cache_info().hits
    assert answers_equal("x^2+1", "1+x^2")
    assert answers_equal.cache_info().hits == before + 1
