r"""Whether a final answer equals the right one: structure and plain numbers here, formulas by math-verify.

An answer is split into its parts: it is a list, set, tuple, interval, union of intervals, matrix or single
formula. The parts are compared one by one, lists and sets in any order. Answers of more than 600 characters,
or with characters that no answer has, are wrong without a closer look.

- Numbers are compared exactly: 0.333 is not 1/3, and 3.50 is 7/2. A percent sign may be missing on one side:
  50% equals both 50 and 1/2.
- Units may be missing on one side or both. Two answers with known units that differ are different.
- ``x = 5`` and ``m + n = 5`` equal 5, but not ``y = 5`` if the right answer is ``x = 5``; ``2x = 5`` is an
  equation. Of ``6*7 = 42`` the last side counts, of ``1/3 \approx 0.33`` the first.
- The kind of brackets counts: (1,2) is neither [1,2] nor {1,2}. A list without brackets is a set.
- Words are compared as words, in upper or lower case, and never as products of letters.
- A decimal equals a formula such as ``\sqrt{2}`` if it is right to six decimals, as in math-verify.
"""

import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from es_lightning.system.steps import Steps
from es_lightning.tasks.answers.math_library import formulas_equal
from es_lightning.tasks.answers.math_parts import MAX_DEPTH, Parts, apart, without_names
from es_lightning.tasks.answers.math_text import clean, depth
from es_lightning.tasks.answers.math_value import (
    clock,
    numeral,
    rational,
    same,
    split_unit,
    ungrouped,
    units_conflict,
)

MAX_PARTS = 24
MAX_STEPS = 2_500_000  # of math-verify, for one answer: less than a second


class _How(NamedTuple):
    """How two answers are compared: the benchmark's tolerance, if any, and what math-verify may take."""

    tolerance: float | None
    steps: Steps


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
    return _equal(right, ours, _How(tolerance, Steps(MAX_STEPS)))


def _equal(gold: str, answer: str, how: _How) -> bool:
    """Compare two cleaned answers; each of their parts is such an answer again."""
    if gold == answer or _same_words(gold, answer):
        return True
    if clock(gold) or clock(answer):
        return _times_equal(gold, answer)
    if {"∧", "∨"} <= {*gold, *answer} and not re.search(r"\d", gold + answer):  # p and q, p or q
        return False
    unnamed = without_names(gold, answer)
    if unnamed is None:
        return False
    right, ours = map(apart, unnamed)
    if max(len(right.items), len(ours.items)) > MAX_PARTS:
        return False
    if right.kind == ours.kind == "single":
        return _singles_equal(right.items[0], ours.items[0], how)
    return _parts_equal(right, ours, how)


def _singles_equal(gold: str, answer: str, how: _How) -> bool:
    """Compare two answers, each of which is a single number, formula, relation or text."""
    (gold, unit), (answer, other_unit) = split_unit(gold), split_unit(answer)
    if units_conflict(unit, other_unit):
        return False
    right, ours = rational(gold), rational(answer)
    if right and ours:
        close = how.tolerance is not None and abs(right[0] - ours[0]) <= Fraction(how.tolerance)
        return same(right, ours) or (close and right[1] == ours[1])
    based, other_based = numeral(gold), numeral(answer)
    if based and other_based:
        return based[0] == other_based[0] and other_based[1] in ("", based[1])
    alike = _same_words(gold, answer)
    if alike is not None or "\\infty" in gold + answer:
        return bool(alike)
    return formulas_equal(ungrouped(gold), ungrouped(answer), how.steps, how.tolerance)


def _times_equal(gold: str, answer: str) -> bool:
    """Whether two times are the same; one may leave out a.m. or p.m., and 9 a.m. is 9."""
    (one, half), (other, other_half) = (clock(text) or (None, text) for text in (gold, answer))
    if one is None or other is None:
        hour, number = (other, half) if one is None else (one, other_half)
        return bool(hour and half and other_half) and number.isdigit() and hour == (int(number[:9]), 0, 0)
    return one == other and (half == other_half or "" in (half, other_half))


_TEXT = re.compile(r"(?<!_)(?<!_\{)\\text\{[^{}]*[A-Za-z]{2}|(?<![\\A-Za-z{_])[A-Za-z]{4}", re.ASCII)


def _same_words(gold: str, answer: str) -> bool | None:
    """Whether two texts have the same words, or are the same lettered choice; None if neither has words."""
    one, other = (re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text) for text in (gold, answer))
    bare = [" ".join(re.sub(r"[.,'](?!\d)|^[\s({]*|[)}\s]*$", "", text).split()) for text in (one, other)]
    if any(re.fullmatch(r"\s*\(?[A-Z]\)?\s*", text) for text in (one, other)) and "\\text" in gold + answer:
        return bare[0] == bare[1]
    return bare[0].lower() == bare[1].lower() if _TEXT.search(gold) or _TEXT.search(answer) else None


# Parts


def _parts_equal(gold: Parts, answer: Parts, how: _How) -> bool:
    def equal(one: str, other: str) -> bool:
        return _equal(one, other, how)

    unordered = {"list", "set"}
    if {gold.kind, answer.kind} <= unordered | {"single"}:
        return _match(_distinct(gold), _distinct(answer), equal)
    if gold.kind != answer.kind:
        return False
    if gold.kind in ("union", "both"):
        return _match(gold.items, answer.items, equal)
    return len(gold.items) == len(answer.items) and all(map(equal, gold.items, answer.items))


def _distinct(parts: Parts) -> list[str]:
    """Return the items, without duplicates in a set; in a list, the same solution twice counts as two."""
    return list(dict.fromkeys(parts.items)) if parts.kind == "set" else list(parts.items)


def _match(gold: Sequence[str], answer: Sequence[str], equal: Callable[[str, str], bool]) -> bool:
    """Whether each part can be paired with an equal one on the other side."""
    left = list(answer)
    if len(left) != len(gold):
        return False
    for item in gold:
        index = next((k for k, other in enumerate(left) if equal(item, other)), None)
        if index is None:
            return False
        left.pop(index)
    return True
