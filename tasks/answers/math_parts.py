"""The parts of an answer: lists, sets, tuples, intervals, unions, matrices, and the names before them."""

import re
from typing import NamedTuple

from es_lightning.tasks.answers.math_library import names
from es_lightning.tasks.answers.math_text import depth, split
from es_lightning.tasks.answers.math_value import ungrouped

MAX_DEPTH = 10


class Parts(NamedTuple):
    """An answer split into its parts.

    Args:
        kind: ``single``, ``list``, ``set``, ``union``, ``matrix``, or the brackets of a tuple or interval.
        items: its parts, cleaned; for a matrix, the number of columns, and then its cells by row.
    """

    kind: str
    items: tuple[str, ...]


_MATRIX = re.compile(
    r"[(\[]?\\begin\{(?:[bpB]?(?:small)?matrix|array)\}(?:\{[lcr| ]*\})?(?P<cells>.*)\\end\{[A-Za-z]+\}[)\]]?"
)


def apart(text: str) -> Parts:
    """Split a cleaned answer into its parts."""
    matrix = _MATRIX.fullmatch(text)
    if matrix:
        rows = [row.split("&") for row in matrix["cells"].strip("¶ ").split("¶")]
        return Parts("matrix", (str(len(rows[0])), *(cell.strip() for row in rows for cell in row)))
    for separator, kind in (("\\cup", "union"), (":", "ratio")):
        if len(pieces := split(text, separator)) > 1:
            return Parts(kind, tuple(pieces))
    related = re.search("[<>≤≥]", text)
    if related and len(pieces := split(text, "∧")) > 1:
        return Parts("both", tuple(pieces))
    items = _items(text)
    if len(items) > 1:  # x < 1 or x > 3
        return Parts("union" if all(map(_interval, items)) else "list", tuple(items))
    inside, brackets = text[1:-1], text[:1] + text[-1:]
    if brackets in ("()", "(]", "[)", "[]", "«»", "{}") and depth(inside) <= MAX_DEPTH:
        items = _items(inside, numbers=False)
        if brackets in ("«»", "{}"):
            return Parts("set", tuple(items))
        if len(items) > 1:
            return Parts(brackets, tuple(items))
        if brackets == "()" and inside:
            return apart(inside)
    return Parts("single", (text,))


def _items(text: str, numbers: bool = True) -> list[str]:
    """Split a list at its commas: ``1,000, 2,000`` has two items, ``2, 100`` has two, ``1,000`` is one.

    Without ``numbers``, in brackets, ``1,000`` has two items.
    """
    text = re.sub("[∧∨]", ", ", text)
    for separator in ("", ", ", ",") if numbers else (", ", ",") if ", " in text else (",",):
        items = split(text, separator) if separator else [text]
        if all(len(split(ungrouped(item), ",")) == 1 for item in items):
            break
    return [sign for item in items for sign in _both_signs(item)]


def _both_signs(item: str) -> list[str]:
    r"""Return the two values that ``1 \pm \sqrt{2}`` stands for; any other item stays alone."""
    if item.count("\\pm") != 1:
        return [item]
    plus, minus = re.sub(r"\\pm ?", "+", item), re.sub(r"\\pm ?", "-", item)
    return [re.sub(r"\\mp ?", "-", plus).removeprefix("+"), re.sub(r"\\mp ?", "+", minus)]


# Names

_NAME = re.compile(
    r"(?:\\text\{[^{}]*\}|[A-Za-z\\(](?:[\w\\{}'(), ]|\\text\{[^{}]*\}){0,40})|[a-w](?:\+[a-w])+",
    re.ASCII | re.I,
)
_NO_NAME = re.compile(
    r"\\(?:frac|sqrt|(?:arc)?(?:sin|cos|tan)|cot|sec|csc|log|ln|exp|binom|begin|pi)"
    r"|(?<![A-Wa-w])\([^A-Za-z]*\)|(?<!_)\{[^A-Za-z]*\}|[xyz]{2}|^e$"
)


def without_names(gold: str, answer: str) -> tuple[str, str] | None:
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
    if "=" in text or len(signs) not in (1, 2) or len({sign in "<≤" for sign in signs}) == 2:
        return None
    if signs[0] in ">≥":
        terms = terms[::-1]
    if len(signs) == 1:
        terms = ["-\\infty", "<", *terms] if _is_name(terms[0]) else [*terms, "<", "\\infty"]
    low, first, name, second, high = terms
    if not _is_name(name):
        return None
    return name.strip(), f"{'[' if first in '≤≥' else '('}{low},{high}{']' if second in '≤≥' else ')'}"
