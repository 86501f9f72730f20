"""The parts of an answer: lists, sets, tuples, intervals, unions, matrices, and the names before them."""

import re
from typing import NamedTuple

MAX_DEPTH = 10

_OPEN, _CLOSE = "([{«", ")]}»"
_NAME = re.compile(r"(?:[A-Za-z\\(](?:[\w\\{}'(), ]|\\text\{[^{}]*\}){0,40})", re.ASCII)
_NO_NAME = re.compile(r"\\(?:frac|sqrt|sin|cos|tan|cot|sec|csc|log|ln|exp|binom|begin)|[{(][^A-Za-z]*[)}]")
_ELEMENT = re.compile(r"(?P<name>[A-Za-z]\w?|\\[a-z]+)\\in(?![a-z]) ?(?P<rest>.*)", re.ASCII)
_INEQUALITY = re.compile(
    r"(?:(?P<low>[^<>≤≥=,]+)(?P<first><|≤))?(?P<name>[A-Za-z]\w?|\\[a-z]+)(?P<second>[<>≤≥])(?P<high>[^<>≤≥=,]+)",
    re.ASCII,
)
_FLIPPED = re.compile(r"(?P<side>[^<>≤≥=,]+)(?P<sign>[<>≤≥])(?P<name>[A-Za-z]\w?)", re.ASCII)
_MIRROR = {"<": ">", ">": "<", "≤": "≥", "≥": "≤"}
_MATRIX = re.compile(
    r"\\begin\{(?:[bpvBV]?(?:small)?matrix|array)\}(?:\{[lcr|]*\})?(?P<cells>.*)\\end\{[A-Za-z]+\}"
)
_GROUPED = re.compile(r"[-+]?\d{1,3}(?:,\d{3})+(?:\.\d+)?(?:%|(?: |\\text\{)[A-Za-z ]+\}?)?", re.ASCII)


class Parts(NamedTuple):
    """An answer split into its parts.

    Args:
        kind: ``single``, ``list``, ``set``, ``union``, ``matrix``, or the brackets of a tuple or interval.
        items: its parts, cleaned; for a matrix, the number of columns, and then its cells by row.
    """

    kind: str
    items: tuple[str, ...]


def apart(text: str) -> Parts:
    """Split a cleaned answer into its parts; one that is nested too deeply stays in one piece."""
    if _depth(text) > MAX_DEPTH:
        return Parts("single", (text,))
    text = "(-\\infty,\\infty)" if text == "\\mathbb{R}" else _interval(text)
    matrix = _MATRIX.fullmatch(text)
    if matrix:
        rows = [row.split("&") for row in matrix["cells"].strip("¶").split("¶")]
        return Parts("matrix", (str(len(rows[0])), *(cell.strip() for row in rows for cell in row)))
    union = _split(text, "\\cup")
    if len(union) > 1:
        return Parts("union", tuple(union))
    items = [text] if _GROUPED.fullmatch(text) else _split(text, ",")
    if len(items) > 1 and all(map(_INEQUALITY.fullmatch, items)):  # x < 1 or x > 3
        return Parts("union", tuple(items))
    if len(items) > 1:
        return Parts("list", tuple(sign for item in items for sign in _both_signs(item)))
    return _bracketed(text)


def _bracketed(text: str) -> Parts:
    """Split an answer that has no commas outside brackets."""
    inside, brackets = text[1:-1], text[:1] + text[-1:]
    if brackets in ("()", "(]", "[)", "[]", "«»") and _depth(inside) >= 0:
        items = _split(inside, ",")
        if brackets == "«»":
            return Parts("set", tuple(sign for item in items for sign in _both_signs(item)))
        if len(items) > 1:
            return Parts(brackets, tuple(items))
        if brackets == "()" and inside:
            return apart(inside)
    signs = _both_signs(text)
    return Parts("list" if len(signs) > 1 else "single", tuple(signs))


def _both_signs(item: str) -> list[str]:
    r"""Return the two values that ``1 \pm \sqrt{2}`` stands for; any other item stays alone."""
    if item.count("\\pm") != 1:
        return [item]
    plus, minus = re.sub(r"\\pm ?", "+", item), re.sub(r"\\pm ?", "-", item)
    return [re.sub(r"\\mp ?", "-", plus).removeprefix("+"), re.sub(r"\\mp ?", "+", minus)]


def _interval(text: str) -> str:
    """Write an inequality for one name, such as ``1<x≤2`` or ``x>3``, as an interval; leave other texts."""
    match = _INEQUALITY.fullmatch(text)
    if match is None:
        return text
    second, high = match["second"], match["high"]
    if second in "<≤":
        low = match["low"] or "-\\infty"
        return f"{'[' if match['first'] == '≤' else '('}{low},{high}{']' if second == '≤' else ')'}"
    return text if match["low"] else f"{'[' if second == '≥' else '('}{high},\\infty)"


def _split(text: str, separator: str) -> list[str]:
    """Split the text at a separator wherever it stands outside brackets."""
    if separator not in text:
        return [text]
    pieces, start, depth = [], 0, 0
    for position, sign in enumerate(text):
        depth += (sign in _OPEN) - (sign in _CLOSE)
        if depth == 0 and text.startswith(separator, position):
            pieces.append(text[start:position].strip())
            start = position + len(separator)
    return [*pieces, text[start:].strip()]


def _depth(text: str) -> int:
    """Return how deeply brackets of any kind are nested; negative if one is closed before it is opened."""
    depth = deepest = 0
    for sign in text:
        depth += (sign in _OPEN) - (sign in _CLOSE)
        deepest = max(deepest, depth)
        if depth < 0:
            return depth
    return deepest


# Names


def without_names(gold: str, answer: str) -> tuple[str, str] | None:
    """Return both answers without the names that they define; None if the names contradict each other.

    ``x = 5`` becomes 5, and ``x in [1,2]`` becomes [1,2]. Two equations for different names are left whole,
    and so is an equation that is not a definition, such as ``2x + y = 1``.
    """
    (name, right), (other, ours) = _named(_turned(gold)), _named(_turned(answer))
    if name and other and name != other:
        return (gold, answer) if "=" in gold and "=" in answer else None
    if (name and not other and "=" in answer) or (other and not name and "=" in gold):
        return gold, answer
    return right, ours


def _turned(text: str) -> str:
    """Write ``3<x`` as ``x>3``."""
    match = _FLIPPED.fullmatch(text)
    if match is None or _INEQUALITY.fullmatch(text):
        return text
    return match["name"] + _MIRROR[match["sign"]] + match["side"]


def _named(text: str) -> tuple[str | None, str]:
    """Return the name that an answer defines, if any, and what it says of that name."""
    if len(_split(text, ",")) > 1 and not _GROUPED.fullmatch(text.rpartition("=")[2]):
        return None, text
    element, inequality = _ELEMENT.fullmatch(text), _INEQUALITY.fullmatch(text)
    if element:
        return element["name"], element["rest"]
    if inequality:
        return inequality["name"], text
    sides = text.split("=")
    if len(sides) > 1 and _is_name(sides[0]):
        return sides[0], sides[-1]
    if len(sides) == 2 and _is_name(sides[1]):
        return sides[1], sides[0]
    return None, text


def _is_name(text: str) -> bool:
    return _NAME.fullmatch(text) is not None and not _NO_NAME.search(text)
