r"""Plain numbers, read exactly, and the units behind a value.

This is the fast path: most right answers of benchmarks are plain numbers, and SymPy never sees them.
"""

import re
from fractions import Fraction
from typing import NamedTuple

from es_lightning.tasks.answers.math_text import clean

_N = r"(?:\d{1,60}(?:\.\d{0,60})?|\.\d{1,60})"
_GROUPED = re.compile(r"(?<![\d.,])\d{1,3}(?:(?:,\d{3})+|(?: \d{3})+)(?![\d,])", re.ASCII)
_FRACTION = re.compile(rf"\\frac\{{(-?{_N})\}}\{{(-?{_N})\}}$", re.ASCII)
_NUMBER = re.compile(  # -3, .5, 1 1/2
    rf"(?P<signs>[-+ ]*)(?:(?P<whole>\d{{1,60}}) (?=.*/))?(?P<top>-?{_N})(?: ?/(?P<bottom>-?{_N}))?",
    re.ASCII,
)


class Number(NamedTuple):
    """A plain number, and whether a percent sign follows."""

    value: Fraction
    percent: bool

    def same(self, other: "Number") -> bool:
        """Whether two numbers agree; if only one has a percent sign, 50% is both 50 and 1/2, 0.5% neither."""
        if self.percent == other.percent:
            return self.value == other.value
        share, number = (self.value, other.value) if self.percent else (other.value, self.value)
        return number == share / 100 or (number == share and abs(share) > 1)


def read_number(text: str) -> Number | None:
    r"""Read a cleaned integer, decimal, fraction or mixed number: ``10,000``, ``1\frac{1}{2}``, ``50%``."""
    plain = _FRACTION.sub(r" \1/\2", ungrouped(text.removesuffix("%").strip()))
    match = _NUMBER.fullmatch(plain.strip())
    bottom = Fraction(match["bottom"] or 1) if match else 0
    if not match or not bottom or (match["whole"] and "-" in match["top"]):
        return None
    value = int(match["whole"] or 0) + Fraction(match["top"]) / bottom
    return Number((-1) ** match["signs"].count("-") * value, text.endswith("%"))


def spelled(text: str) -> str:
    r"""Return an answer in one spelling, by which answers of several replies are compared.

    A plain number becomes a fraction in lowest terms, ``0.50`` and ``\frac{1}{2}`` both ``1/2``; anything
    else what ``clean`` makes of it, or the text itself where that refuses it.
    """
    cleaned = clean(text)
    if cleaned is None:
        return text.strip()
    number = read_number(cleaned)
    return cleaned if number is None else f"{number.value}{'%' if number.percent else ''}"


def ungrouped(text: str) -> str:
    """Write ``1,000`` and ``1 000`` as ``1000``, wherever they stand in a formula."""
    return _GROUPED.sub(lambda match: re.sub("[, ]", "", match[0]), text)


# Units

_SPELLINGS = (
    "m meter metre/cm centimeter centimetre/mm millimeter millimetre/km kilometer kilometre/in inch inche"
    "/ft foot feet/yd yard/mi mile/s sec second/min minute/h hr hour/yr year/g gram/kg kilogram/lb pound"
    "/oz ounce/l liter litre/ml milliliter/deg degree/rad radian/sq square 2/cu cubic 3"
)
_SPELLED = {word: line.split()[0] for line in _SPELLINGS.split("/") for word in line.split()}
# Words after a number that change its value, and so are not units.
_NO_UNIT = re.compile(
    r"\b(?:times|plus|minus|over|dozen|hundred|thousand|\w*illion|hal[fv]\w*|thirds?|quarters?|(?!mon)\w+ths?"
    r"|squared|cubed|factorial|pi|not|to|mod|base|or)\b",
    re.ASCII | re.IGNORECASE,
)
_POWER = r"(?:\^\{?-?[1-3]\}?)?"
_WORD = (
    r"(?:(?=[A-Za-z]+(?:[aeiou][A-Za-z]|s\b))[A-Za-z]{4,20}|[ckm]m|km/h|m/s|in|inch|ft|yd|mi|kg|lbs?|oz|hrs?"
    rf"|min|sec|mph|m[lL]|sq|cu|deg|[aApP]\.?[mM]|m(?=\^)){_POWER}"
)
_TEXT = r"\\text\{ ?[A-Za-z](?:[A-Za-z ./^23-]|\\cdot)*\}"
_UNIT = re.compile(
    r"(?P<value>.*?[A-Za-z\d)}%»])(?P<unit>"
    rf"(?: ?(?:/|\\cdot)? ?{_TEXT}{_POWER})+(?: {_WORD})*"  # \text{ cm}^2
    rf"|(?<=[\d)}}%])(?: ?(?<![A-Za-z]){_WORD}(?:/(?:h|s|{_WORD}))?)(?: {_WORD})*)",  # 5 cm^2, 5 apples
    re.ASCII,
)


def split_unit(text: str) -> tuple[str, list[str]]:
    r"""Return a cleaned answer without the unit after it, and the unit's words in one spelling, sorted.

    A percent sign counts as a unit, but stays with its number. Any other unit is ``\text{...}`` after
    anything, or words after a number: known units, or any word of four letters or more that can be
    pronounced. A single letter is none, even behind a space: ``5 m`` is five times m; ``5 m^2`` is an area.
    """
    match = _UNIT.fullmatch(text)
    words = re.sub(r"\\text|\\cdot|\.", " ", match["unit"]).lower() if match else ""
    words = words.replace("a m", "am").replace("p m", "pm")
    value = match["value"].strip() if match and not _NO_UNIT.search(words) else text
    if value.endswith("%"):
        return value, ["%"]
    singular = (re.sub("(?<=..)s$", "", word) for word in re.findall(r"[a-z]+|\d", words) if value != text)
    return value, sorted(_SPELLED.get(word, word) for word in singular)
