r"""Whether a final answer equals the right one: structure and exact numbers here, formulas in ``math_sympy``.

An answer is split into its parts: it is a list, set, tuple, interval, union of intervals, matrix or single
formula. The parts are compared one by one, lists and sets in any order. Answers of more than 300 characters,
or with characters that no answer has, are wrong without a closer look.

- Numbers are compared exactly: 0.333 is not 1/3, and 3.50 is 7/2. A percent sign may be missing on one side:
  50% equals both 50 and 1/2.
- Units may be missing on one side or both. Two answers with known units that differ are different.
- ``x = 5`` equals 5, but not ``y = 5``. The kind of brackets counts: (1,2) is neither [1,2] nor {1,2}. A list
  without brackets is a set.
- Words are compared as words, in upper or lower case, and never as products of letters.
- A decimal equals a formula such as ``\sqrt{2}`` if it is right to six decimals, as in math-verify.
"""

import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache

from es_lightning.tasks.answers.math_parts import Parts, apart, without_names
from es_lightning.tasks.answers.math_sympy import formulas_equal
from es_lightning.tasks.answers.math_text import as_words, clean, split_unit, units_conflict
from es_lightning.tasks.answers.math_value import rational, same

MAX_PARTS = 24

# A number with its base, such as 1011_2.
_BASE = re.compile(r"(?P<digits>[0-9A-F]+)(?:_\{?(?:\\text\{)?(?P<base>\d+|[a-z]+)\}{0,2})?")


def answers_equal(gold: str, answer: str, tolerance: float | None = None) -> bool:
    """Whether an answer is right.

    Args:
        gold: the right answer, as the data set writes it.
        answer: the final answer of a reply; any text at all.
        tolerance: largest absolute difference between numbers that the benchmark allows; None asks for
            equality.
    """
    right, ours = _cleaned(gold), clean(answer)
    return right is not None and ours is not None and _equal(right, ours, tolerance)


@lru_cache(maxsize=4096)
def _cleaned(gold: str) -> str | None:
    return clean(gold)


def _equal(gold: str, answer: str, tolerance: float | None) -> bool:
    """Compare two cleaned answers; each of their parts is such an answer again."""
    if gold == answer:
        return True
    words = as_words(gold), as_words(answer)
    if words != (None, None) and "," not in gold + answer:
        return _words_equal(words[0] or gold, words[1] or answer)
    unnamed = without_names(gold, answer)
    if unnamed is None:
        return False
    right, ours = apart(unnamed[0]), apart(unnamed[1])
    if max(len(right.items), len(ours.items)) > MAX_PARTS:
        return False
    if right.kind == ours.kind == "single":
        return _singles_equal(right.items[0], ours.items[0], tolerance)
    return _parts_equal(right, ours, tolerance)


def _words_equal(gold: str, answer: str) -> bool:
    """Whether two answers are the same words; if one is words, plain letters on the other side are, too."""
    return gold.lower() == answer.lower()


def _singles_equal(gold: str, answer: str, tolerance: float | None) -> bool:
    """Compare two answers, each of which is a single number, formula or relation."""
    (gold, unit), (answer, other_unit) = split_unit(gold), split_unit(answer)
    if units_conflict(unit, other_unit):
        return False
    right, ours = rational(gold), rational(answer)
    if right and ours:
        close = tolerance is not None and abs(right[0] - ours[0]) <= Fraction(tolerance)
        return same(right, ours) or (close and right[1] == ours[1])
    based, other_based = _BASE.fullmatch(gold), _BASE.fullmatch(answer)
    if based and other_based:
        bases = {based["base"], other_based["base"]} - {None}
        return based["digits"] == other_based["digits"] and len(bases) <= 1
    return formulas_equal(_ungrouped(gold), _ungrouped(answer), tolerance)


def _ungrouped(number: str) -> str:
    """Write ``1,000`` as ``1000``; leave other texts as they are."""
    return number.replace(",", "") if rational(number) else number


def _parts_equal(gold: Parts, answer: Parts, tolerance: float | None) -> bool:
    def equal(one: str, other: str) -> bool:
        return _equal(one, other, tolerance)

    unordered = {"list", "set"}
    if {gold.kind, answer.kind} <= unordered | {"single"}:
        return _match(_distinct(gold), _distinct(answer), equal)
    if gold.kind != answer.kind:
        return False
    if gold.kind == "union":
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
