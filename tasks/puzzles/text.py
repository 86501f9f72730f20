"""What a puzzle's answer says, however it is written: ``$28,080.00`` is 28080, and ``**true**`` is True."""

import re
from fractions import Fraction

_WRAPPERS = [
    (re.escape(left), re.escape(right))
    for left, right in (
        *(("**", "**"), ("__", "__"), ("`", "`"), ('"', '"'), ("'", "'"), ("$", "$")),
        *((r"\(", r"\)"), (r"\[", r"\]"), (r"\boxed{", "}"), (r"\text{", "}"), (r"\mathrm{", "}")),
    )
]
_WRAPPED = re.compile("|".join(f"{left}(.*){right}" for left, right in _WRAPPERS), re.DOTALL)
_MOST_WRAPPERS = 5
_LEAD = re.compile(r"(?:the )?(?:final |correct |right )?answer(?: is|:| =)[ :]*", re.IGNORECASE)

_SIGNS = str.maketrans({"\u2212": "-", "\u00a0": " ", "\u202f": " "})  # a minus, and spaces that do not break
_FRACTION = re.compile(r"\\[dt]?frac\{(-?\d{1,30})\}\{(\d{1,30})\}")
_POWER_OF_TEN = re.compile(
    r"\s{0,2}(?:\*|x|\u00d7|\\times|\\cdot)\s{0,2}10\s?(?:\^|\*\*)\s?[{(]?([+-]?\d{1,4})[)}]?"
)
_THOUSANDS = re.compile(r"(?<=\d)(?:\{,\}|\\,|\\!)(?=\d{3})")
_AROUND_MARKS = re.compile(r"\s?([,;/\[\]])\s?")

_NUMBER = r"[+-]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?|[+-]?\.\d+"
_DECIMAL = re.compile(_NUMBER, re.ASCII)
# "x = 62", "The total is $62.50", "62 legs", but not "not 62" and not "62 thousand".
_SAID = re.compile(
    r"(?:(?!.*\bnot\b)[A-Za-z][\w ]{0,60}?(?:\bis|:|=)\s{0,3})?\\?[$\u20ac\u00a3]?"
    rf"(?P<number>{_NUMBER})(?P<exponent>[eE][+-]?\d{{1,2}})?"
    r"(?:\s{0,3}(?!(?i:hundred|thousand|million|billion|dozen|percent|minus|or|and|to)\b)[A-Za-z]{2,20}){0,3}\.?",
    re.ASCII,
)


def unwrapped(text: str) -> str:
    """Return the answer without the marks around it, such as ``**...**`` or ``\\boxed{...}``."""
    text = text.translate(_SIGNS).strip()
    for _ in range(_MOST_WRAPPERS):
        text = _LEAD.sub("", text, count=1) if _LEAD.match(text) else text
        match = _WRAPPED.fullmatch(text)
        if match is None:
            break
        text = next(group for group in match.groups() if group is not None).strip()
    text = _FRACTION.sub(r"\1/\2", text)
    return _THOUSANDS.sub(",", _POWER_OF_TEN.sub(r"e\1", text))


def same(answer: str, reference: str, case_matters: bool = False) -> bool:
    """Whether a person would say that both are the same answer.

    They are if they are equal but for white space within lines, marks around them, quotes within a list, a
    closing full stop and, unless it matters, case; or if the reference is a number and the answer names this
    number and no other.
    """
    left, right = (_plain(text) for text in (answer, reference))
    if left == right or (not case_matters and left.casefold() == right.casefold()):
        return True
    wanted = decimal(reference)
    return wanted is not None and said_number(answer) == wanted


def decimal(text: str) -> Fraction | None:
    """Return the value of a text that is a whole or decimal number, maybe with thousands separators."""
    return _value(text.strip()) if _DECIMAL.fullmatch(text.strip()) else None


def said_number(text: str) -> Fraction | None:
    """Return the one number that a short answer names, such as ``$28,080``, ``x = 3`` or ``62 legs``."""
    match = _SAID.fullmatch(unwrapped(text))
    if match is None:
        return None
    return _value(match["number"]) * Fraction(f"1{match['exponent'] or ''}")


def _value(number: str) -> Fraction:
    return Fraction(number.replace(",", "").rstrip("."))


def _plain(text: str) -> str:
    """Reduce a text to what is compared of it."""
    for _ in range(2):  # a full stop may stand inside the marks and outside them
        text = unwrapped(text.strip().removesuffix("."))
    lines = (" ".join(line.split()) for line in text.split("\n"))
    plain = _AROUND_MARKS.sub(r"\1", "\n".join(line for line in lines if line))
    if plain.startswith("["):
        plain = plain.replace("'", "").replace('"', "")
    return plain.removesuffix(".")
