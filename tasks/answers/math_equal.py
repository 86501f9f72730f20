r"""Whether a final answer equals the right one: structure and plain numbers here, formulas by math-verify.

An answer is split into its parts: it is a list, set, tuple, interval, union of intervals, matrix or single
formula. The parts are compared one by one, lists and sets in any order. Answers of more than 500 characters,
or with characters that no answer has, are wrong without a closer look.

- Numbers are compared exactly: 0.333 is not 1/3, and 3.50 is 7/2. A percent sign may be missing on one side:
  50% equals both 50 and 1/2.
- Units may be missing on one side or both. Two answers with known units that differ are different.
- ``x = 5`` and ``m + n = 5`` equal 5, but ``y = 5`` is not ``x = 5``, and ``2x = 5`` is an equation. Of ``6*7 = 42``
  the last side counts, of ``1/3 \approx 0.33`` the first. The kind of brackets counts: (1,2) is neither [1,2]
  nor {1,2}. A list without brackets is a set.
- Words are compared as words, in upper or lower case, and never as products of letters.
- A decimal equals a formula such as ``\sqrt{2}`` if it is right to six decimals, as in math-verify.
"""

import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from es_lightning.system.steps import Steps
from es_lightning.tasks.answers.math_library import depth, formulas_equal, names
from es_lightning.tasks.answers.math_text import clean
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
MAX_DEPTH = 10
MAX_STEPS = 2_500_000  # of math-verify, for one answer: less than a second


class _How(NamedTuple):
    """How two answers are compared: the benchmark's tolerance, if any, and what math-verify may take."""

    tolerance: float | None
    steps: Steps


class Parts(NamedTuple):
    """An answer split into its parts.

    Args:
        kind: ``single``, ``list``, ``set``, ``union``, ``matrix``, or the brackets of a tuple or interval.
        items: its parts, cleaned; for a matrix, the number of columns, and then its cells by row.
    """

    kind: str
    items: tuple[str, ...]


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
    if gold == answer:
        return True
    if clock(gold) or clock(answer):
        return _times_equal(gold, answer)
    if {"∧", "∨"} <= {*gold, *answer} and not re.search(r"\d", gold + answer):  # p and q, p or q
        return False
    unnamed = _without_names(gold, answer)
    if unnamed is None:
        return False
    right, ours = map(_apart, unnamed)
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
    """Whether two times are the same; of 9 a.m. and 9, or 9:30 and 9:30 a.m., one says less, which is allowed."""
    (one, half), (other, other_half) = (clock(text) or (None, text) for text in (gold, answer))
    if one is None or other is None:
        hour, number = (other, half) if one is None else (one, other_half)
        return bool(hour and half and other_half) and number.isdigit() and hour == (int(number[:9]), 0, 0)
    return one == other and (half == other_half or "" in (half, other_half))


_TEXT = re.compile(r"(?<!_)(?<!_\{)\\text\{[^{}]*[A-Za-z]{2}|(?<![\\A-Za-z{_])[A-Za-z]{4}", re.ASCII)


def _same_words(gold: str, answer: str) -> bool | None:
    """Whether two texts have the same words, or are the same lettered choice; None if neither has words."""
    one, other = (re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text) for text in (gold, answer))
    bare = [" ".join(re.sub(r"[.,'](?!\d)|^\W*|[)}\s]*$", "", text).split()) for text in (one, other)]
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


_MATRIX = re.compile(
    r"[(\[]?\\begin\{(?:[bpB]?(?:small)?matrix|array)\}(?:\{[lcr| ]*\})?(?P<cells>.*)\\end\{[A-Za-z]+\}[)\]]?"
)


def _apart(text: str) -> Parts:
    """Split a cleaned answer into its parts."""
    matrix = _MATRIX.fullmatch(text)
    if matrix:
        rows = [row.split("&") for row in matrix["cells"].strip("¶ ").split("¶")]
        return Parts("matrix", (str(len(rows[0])), *(cell.strip() for row in rows for cell in row)))
    for separator, kind in (("\\cup", "union"), (":", "ratio")):
        if len(pieces := _split(text, separator)) > 1:
            return Parts(kind, tuple(pieces))
    related = re.search("[<>≤≥]", text)
    if related and len(pieces := _split(text, "∧")) > 1:
        return Parts("both", tuple(pieces))
    items = _items(text)
    if len(items) > 1:  # x < 1 or x > 3
        return Parts("union" if all(map(_interval, items)) else "list", tuple(items))
    inside, brackets = text[1:-1], text[:1] + text[-1:]
    if brackets in ("()", "(]", "[)", "[]", "«»", "{}") and depth(inside) <= MAX_DEPTH:
        items = _items(inside)
        if brackets in ("«»", "{}"):
            return Parts("set", tuple(items))
        if len(items) > 1:
            return Parts(brackets, tuple(items))
        if brackets == "()" and inside:
            return _apart(inside)
    return Parts("single", (text,))


def _items(text: str) -> list[str]:
    """Split a list at its commas: ``1,000, 2,000`` has two items, and so has ``2, 100``; ``1,000`` is a number."""
    text = re.sub("[∧∨]", ", ", text)
    for separator in ("", ", ", ","):
        items = _split(text, separator) if separator else [text]
        if all(len(_split(ungrouped(item), ",")) == 1 for item in items):
            break
    return [sign for item in items for sign in _both_signs(item)]


def _both_signs(item: str) -> list[str]:
    r"""Return the two values that ``1 \pm \sqrt{2}`` stands for; any other item stays alone."""
    if item.count("\\pm") != 1:
        return [item]
    plus, minus = re.sub(r"\\pm ?", "+", item), re.sub(r"\\pm ?", "-", item)
    return [re.sub(r"\\mp ?", "-", plus).removeprefix("+"), re.sub(r"\\mp ?", "+", minus)]


def _split(text: str, separator: str) -> list[str]:
    """Split the text at a separator wherever it stands outside brackets."""
    pieces, start, level = [], 0, 0
    for position, sign in enumerate(text):
        level += (sign in "([{«") - (sign in ")]}»")
        if level == 0 and text.startswith(separator, position) and position >= start:
            pieces.append(text[start:position].strip())
            start = position + len(separator)
    return [*pieces, text[start:].strip()]


# Names

_NAME = re.compile(r"(?:\\text\{[^{}]*\}|[A-Za-z\\(](?:[\w\\{}'(), ]|\\text\{[^{}]*\}){0,40})|[a-w](?:\+[a-w])+", re.ASCII | re.I)
_NO_NAME = re.compile(
    r"\\(?:frac|sqrt|a?r?c?sin|a?r?c?cos|a?r?c?tan|cot|sec|csc|log|ln|exp|binom|begin|pi)|[{(][^A-Za-z]*[)}]|[xyz]{2}|^e$"
)
_FLIPPED = {"<": "<", "≤": "≤", ">": "<", "≥": "≤"}


def _without_names(gold: str, answer: str) -> tuple[str, str] | None:
    """Return both answers without the names that they define; None if the names contradict each other.

    ``x = 5`` becomes 5, and ``x in [1,2]`` becomes [1,2]. Two equations for different names are left whole,
    and so is an equation that is not a definition, such as ``2x + y = 1``.
    """
    (name, right), (other, ours) = _named(gold), _named(answer)
    if name and other and name != other:
        return (gold, answer) if "=" in gold and "=" in answer else None
    if (name and not other and "=" in ours) or (other and not name and "=" in right):
        return gold, answer
    return right, ours


def _named(text: str) -> tuple[str, str]:
    """Return the name that an answer defines, or nothing, and what it says of that name."""
    if len(_items(text)) > 1:
        return "", text
    exact, _, rounded = text.partition("\\approx")
    sides = text.replace("\\approx", "=").split("=") if _is_name(exact) else exact.split("=")
    element = re.fullmatch(r"(.{1,20}?)\\in(?![a-z]) ?(.*)", text)
    interval = _interval(text)
    if interval:
        return interval
    if element:
        return element[1], element[2]
    if len(sides) > 1 and _is_name(sides[0]):
        return sides[0].replace(" ", ""), sides[-1].strip()
    if len(sides) == 2 and _is_name(sides[1]):
        return sides[1], sides[0]
    return "", sides[-1] if len(sides) > 1 and not names(sides[0]) else "=".join(sides)


def _is_name(text: str) -> bool:
    return _NAME.fullmatch(text.strip()) is not None and not _NO_NAME.search(text)


def _interval(text: str) -> tuple[str, str] | None:
    """Return the name in ``1<x≤2`` or ``x>3``, and the interval; None for any other text."""
    terms = re.split("([<>≤≥])", text)
    signs = terms[1::2]
    if "=" in text or len(signs) not in (1, 2) or len({_FLIPPED[sign] for sign in signs} | set(signs)) == 4:
        return None
    if signs[0] in ">≥":
        terms = terms[::-1]
    low, first, name, second, high = terms if len(signs) == 2 else (["-\\infty", "<", *terms] if _is_name(terms[0]) else [*terms, "<", "\\infty"])
    if not _is_name(name):
        return None
    return name.strip(), f"{'[' if first in '≤≥' else '('}{low},{high}{']' if second in '≤≥' else ')'}"
