r"""Whether a final answer equals the right one: structure and plain numbers here, formulas by math-verify.

An answer is a list, set, tuple, interval, union, matrix or single formula. Its parts are compared one by one,
lists and sets in any order. Answers of more than 600 characters, or with characters that no answer has, are
wrong without a closer look.

- Numbers are compared exactly: 0.333 is not 1/3, and 3.50 is 7/2. A percent sign may be missing on one side:
  50% equals both 50 and 1/2.
- Units may be missing on one side or both, but not a.m. and p.m. Two different units are different.
- ``x = 5`` and ``m + n = 5`` equal 5, but not ``y = 5`` if the right answer is ``x = 5``; ``2x = 5`` is an
  equation. Of ``6*7 = 42`` the last side counts, of ``1/3 \approx 0.33`` the first.
- The kind of brackets counts: (1,2) is neither [1,2] nor {1,2}. A list without brackets is a set.
- Words are compared as words, in upper or lower case, and never as products of letters.
- A decimal equals a formula such as ``\sqrt{2}`` if it is right to six decimals, as in math-verify.
"""

import re
from fractions import Fraction
from functools import lru_cache

from es_lightning.system.steps import Steps
from es_lightning.tasks.answers.math_library import formulas_equal
from es_lightning.tasks.answers.math_parts import apart, without_names
from es_lightning.tasks.answers.math_text import MAX_DEPTH, clean, depth
from es_lightning.tasks.answers.math_value import read_number, split_unit, ungrouped

MAX_PARTS = 24
MAX_STEPS = 2_500_000  # of math-verify, for one answer: about a second
_DIGITS_OF_BASE = re.compile(r"(-?[0-9A-F.]+)_\w+")
_WORD = re.compile(r"(?<!_)(?<!_\{)\\text\{[^{}]*[A-Za-z]{2}|(?<![\\A-Za-z{_])[A-Za-z]{4}", re.ASCII)


@lru_cache(maxsize=4096)
def answers_equal(gold: str, answer: str, tolerance: float | None = None) -> bool:
    """Whether an answer is right; a verdict is remembered.

    Args:
        gold: the right answer, as the data set writes it.
        answer: the final answer of a reply; any text at all.
        tolerance: largest absolute difference between numbers that the benchmark allows; None asks for
            equality.
    """
    right, ours = clean(gold), clean(answer)
    if right is None or ours is None or max(depth(right), depth(ours)) > MAX_DEPTH:
        return right is not None and right == ours
    return _equal(right, ours, tolerance, Steps(MAX_STEPS))


def _equal(gold: str, answer: str, tolerance: float | None, steps: Steps) -> bool:
    """Compare two cleaned answers; each of their parts is such an answer again."""
    has_words = _WORD.search(gold) or _WORD.search(answer)
    if gold == answer or (has_words and _words(gold) == _words(answer)):
        return True
    if {"∧", "∨"} <= {*gold, *answer} and not re.search(r"\d", gold + answer):  # p and q, p or q
        return False
    (kind, right), (other, ours) = map(apart, without_names(gold, answer))
    if kind == other == "single":
        return _singles_equal(right[0], ours[0], tolerance, steps)
    if len(right) != len(ours) or len(right) > MAX_PARTS:
        return False
    if {kind, other} <= {"set", "single"} or kind == other == "union":
        return _sets_equal(right, ours, tolerance, steps)
    return kind == other and all(_equal(*pair, tolerance, steps) for pair in zip(right, ours, strict=True))


def _sets_equal(gold: list[str], answer: list[str], tolerance: float | None, steps: Steps) -> bool:
    """Whether each part can be paired with an equal one on the other side."""
    left = list(answer)
    for part in gold:
        equal = next((other for other in left if _equal(part, other, tolerance, steps)), None)
        if equal is None:
            return False
        left.remove(equal)
    return True


def _singles_equal(gold: str, answer: str, tolerance: float | None, steps: Steps) -> bool:
    """Compare two answers, each of which is a single number, formula, relation or text."""
    (gold, unit), (answer, other) = split_unit(gold), split_unit(answer)
    if unit != other and ((unit and other) or {"am", "pm"} & {*unit, *other}):
        return False
    right, ours = read_number(gold), read_number(answer)
    if right and ours:
        close = tolerance is not None and abs(right.value - ours.value) <= Fraction(tolerance)
        return right.same(ours) or (close and right.percent == ours.percent)
    if based := _DIGITS_OF_BASE.fullmatch(gold):
        return answer == based[1]
    if _WORD.search(gold) or _WORD.search(answer):  # as words, they differ
        return False
    return formulas_equal(ungrouped(gold), ungrouped(answer), steps, tolerance)


def _words(text: str) -> str:
    return " ".join(re.sub(r"\\text|[{}()]|[.,'](?!\d)", " ", text).lower().split())
