"""The parts of an answer: lists, sets, tuples, intervals, unions, matrices, and the names before them."""

import re

from es_lightning.tasks.answers.math_library import names
from es_lightning.tasks.answers.math_text import MAX_DEPTH, depth, split
from es_lightning.tasks.answers.math_value import ungrouped

_MATRIX = re.compile(
    r"[(\[]?\\begin\{(?:[bpB]?(?:small)?matrix|array)\}(?:\{[lcr| ]*\})?(?P<cells>.*)\\end\{[A-Za-z]+\}[)\]]?"
)
_BRACKETS = ("()", "(]", "[)", "[]", "«»", "{}")


def apart(text: str) -> tuple[str, list[str]]:
    """Split a cleaned answer into its parts.

    Returns:
        Its kind (``single``, ``set``, ``union``, ``time``, ``ratio``, ``matrix``, or the brackets of a tuple
        or interval) and its parts; those of a matrix are the number of columns, and then its cells by row.
    """
    if matrix := _MATRIX.fullmatch(text):
        rows = [row.split("&") for row in matrix["cells"].strip("¶ ").split("¶")]
        return "matrix", [str(len(rows[0])), *(cell.strip() for row in rows for cell in row)]
    for separator, kind in ((r"\\cup", "union"), (r":(?=0\d)", "time"), (":", "ratio")):  # 5:04 is not 5:4
        if len(parts := split(text, separator)) > 1 and (kind == "union" or "%" not in text):
            return kind, parts
    if len(items := _items(text)) > 1:
        together = "∧" not in text and all(map(_interval, items))  # x < 1 or x > 3
        return "union" if together else "set", items
    inside, brackets = text[1:-1], text[:1] + text[-1:]
    if brackets in _BRACKETS and depth(inside) <= MAX_DEPTH and inside != "\\emptyset":
        items = _items(inside, bracketed=True)
        if brackets in ("«»", "{}"):
            return "set", list(dict.fromkeys(items))
        if len(items) > 1:
            return brackets, items
        if brackets == "()":
            return apart(inside)
    return "single", [text]


def _items(text: str, bracketed: bool = False) -> list[str]:
    """Split a list at its commas: ``1,000, 2,000`` has two items, ``2, 100`` has two, ``1,000`` is one.

    In brackets, ``(1,000)`` has two items as well.
    """
    text = re.sub("[∧∨]", ", ", text)
    for separator in ("," if bracketed and ", " not in text else "(?!)", ", ", ","):  # "(?!)" is nowhere
        items = split(text, separator)
        if all(len(split(ungrouped(item), ",")) == 1 for item in items):
            break
    return [value for item in items for value in _both_signs(item)]


def _both_signs(item: str) -> list[str]:
    r"""Return the two values that ``1 \pm \sqrt{2}`` stands for; any other item stays alone."""
    if item.count("\\pm") != 1 or item.startswith("«"):
        return [item]
    return [re.sub(r"\\pm ?", sign, item).removeprefix("+") for sign in "+-"]


# Names

_NAME = re.compile(  # x, (x,y), f(x), x_{\text{max}}, \text{Area}, m+n
    r"(?:\\text\{[^{}]*\}|[A-Za-z\\(](?:[\w\\{}'(), ]|\\text\{[^{}]*\}){0,40})|[a-w](?:[-+][a-w])+",
    re.ASCII | re.IGNORECASE,
)
_NO_NAME = re.compile(
    r"\\(?:frac|sqrt|(?:arc)?(?:sin|cos|tan)|cot|sec|csc|log|ln|exp|binom|begin|pi)"
    r"|(?<![A-Wa-w])\([^A-Za-z]*\)|(?<!_)\{[^A-Za-z]*\}|[xyz]{2}|^e$"
)


def without_names(gold: str, answer: str) -> tuple[str, str]:
    """Return both answers without the names that they define: 5 for ``x = 5``, [1,2] for ``x in [1,2]``.

    Equations for different names are left whole, and so is one that is no definition, as ``2x + y = 1``.
    """
    (name, right), (other, ours) = _definition(gold), _definition(answer)
    if name and other:
        return (right, ours) if name == other else (gold, answer)
    whole = re.search("[=<>≤≥]", ours if name else right if other else "")
    return (gold, answer) if whole else (right, ours)


def _definition(text: str) -> tuple[str, str]:
    """Return the name that an answer defines, or nothing, and what it says of that name."""
    sides = re.split(r"=|\\in(?![a-z])", text)
    if interval := _interval(text):
        return interval
    if len(sides) == 1 or len(_items(text)) > 1:
        return "", text
    if _is_name(sides[0]):
        return sides[0].replace(" ", ""), sides[-1].strip()
    if len(sides) == 2 and _is_name(sides[1]):
        return sides[1], sides[0]
    return "", text if names(text) else sides[-1]


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
