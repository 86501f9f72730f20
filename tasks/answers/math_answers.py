r"""The final answer of a reply: the content of the last box, or what one of the rules below finds.

The time is linear in the length of the reply: a few searches from its end, and patterns on short pieces.
"""

import re
from typing import NamedTuple

from es_lightning.tasks.answers.tags import last_block

MAX_CHARS = 600
_BLOCK = 2_000
TAIL = 300  # last characters that are searched for answers without a box (arXiv 2601.20861)

# Every repetition is bounded, so that no reply can make these patterns slow.
_DIGITS = r"(?:\d[\d,]{0,40}(?:\.\d{1,20})?|\.\d{1,20})(?:/\d{1,20}| ?[¼-¾⅐-⅞]|[¹²³⁰⁴-⁹])?"
_N = rf"[-+−]? ?\\?\$?{_DIGITS}(?: ?%)?"
_HASHES = re.compile(
    rf"(?:.{{0,60}}=)?[ *$`]*(?P<number>{_N}(?: (?:dozen|hundred|thousand|[mbt]r?illion)\b)?)"
    r"(?!k?\d|k\b| \d| ?[-+*/^=×·x–−÷,:]\s?[\d(]|\(\d| ?\\(?:times|cdot|div)"
    r"| (?:or|and|to|plus|minus|times) \$?\d)",
    re.ASCII,
)
_BELOW = re.compile(rf"[ *]*(?:\r?\n){{1,2}}[ *$`]*(?P<number>{_N})[*$`. ]*(?:\n|$)", re.ASCII)
_HEADING = re.compile(r"[.)] ?[A-Za-z]")
_IS = (
    r"(?:\b(?:is|are|equals|(?:must|should|will|would) be)\b"
    r"(?:\s(?:therefore|thus|then|hence|simply|just|exactly))?:?|[:=])"
)
_ANSWER = re.compile(rf"answer\b(?:[^.\n:=]{{0,60}}?{_IS}|\**(?=\s{{0,3}}\n))[\s*`]{{0,6}}", re.IGNORECASE)
_TOTAL = re.compile(rf"\b(?:total|result)\b[^.\n:=]{{0,60}}?{_IS}[\s*`]{{0,6}}", re.IGNORECASE)
_NUMBER = re.compile(rf"(?<![\w.])[-+]?{_DIGITS}%?", re.ASCII)
_MATH = re.compile(
    r"\$\$([^$]{1,200})\$\$|\$([^$\n]{1,200})\$|\\\(([^\n]{1,200}?)\\\)|\\\[([^$]{1,200}?)\\\]"
)
_SENTENCE_END = re.compile(r"[.;!?](?:\s|$)|\n|,? (?:because|since|so|which|as|where)\b")
_ALONE = re.compile(
    r"[*.,;:!?)`]*(?:\s+(?![-+*/^=<>\\\d]|\((?!\w{3})|and\b|or\b|(?:hundred|thousand|[mbt]r?illion)\b)|$)"
)
_BOX = re.compile(r"\\f?box(?:ed)?\s{0,20}(?:(?=\{)|(?P<bare>[-+]?[A-Za-z0-9.]{1,40}))", re.ASCII)
_OPEN_BOX = re.compile(r"\\f?box(?:ed)?\s*\{")
_MARKS = re.compile(r"\\(?:black)?square\b|\\(?:qed|Box)\b")
_SENTENCE = re.compile(r"(?:[A-Za-z]{3,}\W.*){2}", re.ASCII)


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

    1. With ``hashes``: the number after the last ``####``, on the same line, or alone on the next. The start
       of a sum such as ``5 + 3`` or of a heading such as ``1. Add`` does not count.
    2. The content of the last ``\boxed{}`` or ``\fbox{}``, closed within 600 characters; what follows the box
       does not matter, and earlier boxes do not count.
    3. The last ``<answer>`` block.
    4. In the last 300 characters, what follows the last "answer is", "answer:" or "answer =", or else the
       last "total is" or "result is": the box, formula between dollar signs or number it starts with, else
       the text to the end of the sentence or line.
    5. With ``hashes``: the number of a heading.
    6. With ``flexible``, unless there is a box: in the last 300 characters, the last formula between dollar
       signs (or ``\(\)``, ``\[\]``), else the last number; with ``hashes``, always the last number. In a
       sentence that rule 4 finds, what comes last counts.

    Args:
        reply: any text at all.
        hashes: whether ``####`` marks an answer, as in GSM8K.
        flexible: whether rule 6 applies.
    """
    hashed, heading = last_hashes(reply) if hashes else (None, False)
    marked = (None if heading else hashed) or last_box(reply)
    if marked:
        return FinalAnswer(marked, True)
    tail = reply[-TAIL:]
    block = (last_block(reply[-_BLOCK:], "answer") or "").strip()[: MAX_CHARS + 1]
    stated = _stated(block) or block or _stated(tail)
    if stated and flexible and _SENTENCE.search(re.sub(r"\\[A-Za-z]+", "", stated)):
        ends = [(m.start(), text) for m, text in _found(stated) if re.search(r"\d", text)]
        stated = max(ends, default=(0, stated))[1]
    if stated is None and heading:
        return FinalAnswer(hashed, True)
    if stated is None and flexible and not _OPEN_BOX.search(reply[-10_000:]):
        last = {match.re: text for match, text in _found(tail)}  # of each kind
        stated = last.get(_NUMBER if hashes or _MATH not in last else _MATH)
    return FinalAnswer(stated, False)


def _found(text: str) -> list[tuple[re.Match[str], str]]:
    """Return the formulas and numbers in a text, without the signs that end a proof."""
    formulas = [(match, _inside(match)) for match in _MATH.finditer(text)]
    numbers = [(match, match[0].rstrip(",")) for match in _NUMBER.finditer(text)]
    return [pair for pair in formulas if not _MARKS.search(pair[1])] + numbers


def last_box(text: str) -> str | None:
    r"""Return the content of the last ``\boxed`` or ``\fbox``; None if there is none, or none that is closed.

    A box without content counts as none.
    """
    start = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    box = _BOX.match(text, start) if start >= 0 else None
    if box is None or box["bare"]:
        return box["bare"].rstrip(".") or None if box else None
    depth, inside = 0, text[box.end() : box.end() + MAX_CHARS + 2]
    for brace in re.finditer(r"\\.|[{}]", inside):  # \{ and \} are no braces
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return inside[1 : brace.start()].strip() or None
    return None


def last_hashes(text: str) -> tuple[str | None, bool]:
    """Return the number after the last ``####``, if any, and whether it starts a heading: ``#### 1. Add``."""
    start = text.rfind("####")
    line = text[start + 4 : start + 4 + MAX_CHARS] if start >= 0 else ""
    match = _BELOW.match(line) or _HASHES.match(line.split("\n")[0])
    if match is None:
        return None, False
    return match["number"].strip(), _HEADING.match(line, match.end()) is not None


def _stated(tail: str) -> str | None:
    """Return what the last statement of the kind "the answer is ..." says."""
    phrases = [*_ANSWER.finditer(tail)] or [*_TOTAL.finditer(tail)]
    if not phrases:
        return None
    rest = tail[phrases[-1].end() :]
    formula, number = _MATH.match(rest), _NUMBER.match(rest.lstrip("$"))
    if formula:
        return last_box(_inside(formula)) or _inside(formula)
    if number and _ALONE.match(rest.lstrip("$"), number.end()):
        return number[0].rstrip(",")
    sentence = _SENTENCE_END.split(rest, maxsplit=1)[0].strip(" *`.\n")
    return last_box(sentence) or sentence or None


def _inside(formula: re.Match[str]) -> str:
    return next(group for group in formula.groups() if group is not None).strip()
