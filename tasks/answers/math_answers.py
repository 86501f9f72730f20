r"""The final answer of a reply: the content of the last box, or what one of the rules below finds.

The time is linear in the length of the reply: a few searches from its end, and patterns on short pieces.
"""

import re
from typing import NamedTuple

MAX_CHARS = 300
TAIL = 300  # last characters that are searched for answers without a box (arXiv 2601.20861)

# Every repetition is bounded, so that no reply can make these patterns slow.
_HASHES = re.compile(
    r"[ *$]*(?P<number>[-+]? ?\$?(?:\d[\d,]{0,40}(?:\.\d{1,20})?|\.\d{1,20})(?:/\d{1,20})?%?)"
    r"(?!\d| ?[+*/^=(])",
    re.ASCII,
)
_HEADING = re.compile(r"[.)] ?[A-Za-z]")
_ANSWER = re.compile(r"answer\b[^.\n:=]{0,60}?(?:\bis\b:?|[:=])[ *]*\n? *", re.IGNORECASE)
_NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d[\d,]{0,40}(?:\.\d{1,20})?|\.\d{1,20})(?:/\d{1,20})?%?", re.ASCII)
_MATH = re.compile(r"\$\$?([^$\n]{1,200})\$\$?|\\\(([^\n]{1,200}?)\\\)|\\\[([^$]{1,200}?)\\\]")
_SENTENCE_END = re.compile(r"[.;!?](?:\s|$)|\n|,? (?:because|since|so|which|as|where)\b")
_ALONE = re.compile(r"[*.,;:!?)]*(?:\s+(?![-+*/^=<>(\\\d]|and\b|or\b)|$)")
_BARE_BOX = re.compile(r"\s*([-+]?[A-Za-z0-9.]{1,40})")


class FinalAnswer(NamedTuple):
    """A final answer.

    Args:
        text: the answer as the model wrote it; None if there is none.
        marked: whether it stood in a box, or after ``####`` where that counts.
    """

    text: str | None
    marked: bool


def final_answer(reply: str, hashes: bool = False, flexible: bool = True) -> FinalAnswer:
    r"""Return the final answer of a reply, by the first of these rules that finds one.

    1. With ``hashes``: the number after the last ``####``, on the same line. A heading does not count.
    2. The content of the last ``\boxed{}`` or ``\fbox{}``, closed within 300 characters; what follows the box
       does not matter, and earlier boxes do not count.
    3. In the last 300 characters, what follows the last "answer is", "answer:" or "answer =": the formula
       between dollar signs or the number it starts with, else the text to the end of the sentence or line.
    4. With ``flexible``: in the last 300 characters, the last formula between dollar signs (or ``\(\)``,
       ``\[\]``), else the last number. With ``hashes``, always the last number.

    Args:
        reply: any text at all.
        hashes: whether ``####`` marks an answer, as in GSM8K.
        flexible: whether rule 4 applies.
    """
    marked = (last_hashes(reply) if hashes else None) or last_box(reply)
    if marked:
        return FinalAnswer(marked, True)
    tail = reply[-TAIL:]
    stated = _stated(tail)
    if stated is None and flexible:
        stated = (None if hashes else _last_formula(tail)) or _last_number(tail)
    return FinalAnswer(stated, False)


def last_box(text: str) -> str | None:
    r"""Return the content of the last ``\boxed`` or ``\fbox``; None if there is none, or none that is closed.

    A box without content counts as none.
    """
    start = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    if start < 0:
        return None
    start += len("\\boxed") if text.startswith("\\boxed", start) else len("\\fbox")
    piece = text[start : start + MAX_CHARS + 20]
    inside = piece.lstrip()[: MAX_CHARS + 2]
    if not inside.startswith("{"):
        bare = _BARE_BOX.match(piece)
        return bare[1].rstrip(".") if bare else None
    end = _closing_brace(inside)
    return inside[1:end].strip() or None if end else None


def _closing_brace(text: str) -> int | None:
    r"""Return where the brace that opens the text is closed; ``\{`` and ``\}`` do not count as braces."""
    depth, escaped = 0, False
    for position, sign in enumerate(text):
        if not escaped:
            depth += (sign == "{") - (sign == "}")
            if depth == 0:
                return position
        escaped = sign == "\\" and not escaped
    return None


def last_hashes(text: str) -> str | None:
    """Return the number after the last ``####``; None if that starts a heading, such as ``#### Step 1``."""
    start = text.rfind("####")
    if start < 0:
        return None
    line = text[start + 4 : start + 4 + MAX_CHARS].split("\n")[0]
    match = _HASHES.match(line)
    if match is None or _HEADING.match(line, match.end()):
        return None
    return match["number"].strip()


def _stated(tail: str) -> str | None:
    """Return what the last statement of the kind "the answer is ..." says."""
    phrases = [*_ANSWER.finditer(tail)]
    if not phrases:
        return None
    rest = tail[phrases[-1].end() :]
    formula, number = _MATH.match(rest), _NUMBER.match(rest.lstrip("$"))
    if formula:
        return _inside(formula)
    if number and _ALONE.match(rest.lstrip("$"), number.end()):
        return number[0].rstrip(",")
    return _SENTENCE_END.split(rest, maxsplit=1)[0].strip(" *.\n") or None


def _last_formula(tail: str) -> str | None:
    formulas = [_inside(match) for match in _MATH.finditer(tail)]
    return formulas[-1] if formulas else None


def _inside(formula: re.Match[str]) -> str:
    return next(group for group in formula.groups() if group is not None).strip()


def _last_number(tail: str) -> str | None:
    numbers = _NUMBER.findall(tail)
    return numbers[-1].rstrip(",") if numbers else None
