r"""Exact value of a rational number, in the many ways that people write it, without SymPy."""

import re
from fractions import Fraction

MAX_DIGITS = 60
MAX_POWER = 60  # of ten

_N = r"(?:\d+(?:\.\d*)?|\.\d+)"
_SCALES = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_NUMBER = re.compile(rf"(?P<sign>[-+]*)(?P<top>{_N})(?:/(?P<bottom>{_N}))?(?P<percent>%?)", re.ASCII)
_FRACTION = re.compile(
    rf"(?P<sign>[-+]*)(?P<whole>\d*)\\frac\{{(?P<inner>-?)\(?(?P<top>{_N})\)?\}}"
    rf"\{{(?P<under>-?)\(?(?P<bottom>{_N})\)?\}}(?P<percent>%?)",
    re.ASCII,
)
_MIXED = re.compile(r"(?P<sign>[-+]*)(?P<whole>\d+) (?P<top>\d+)/(?P<bottom>\d+)", re.ASCII)
_POWER = re.compile(
    rf"(?P<sign>[-+]*)(?:(?P<top>{_N})(?:\\times|\\cdot|\*|x))? ?"
    r"10\^(?:\{(?P<braced>[-+]?\d+)\}|(?P<bare>-?\d+))"
    rf"|(?P<sign2>[-+]*)(?P<top2>{_N})[eE](?P<exponent>[-+]?\d+)",
    re.ASCII,
)
_REPEATING = re.compile(r"(?P<sign>-?)(?P<whole>\d*)\.(?P<fixed>\d*)\\overline\{(?P<loop>\d+)\}", re.ASCII)
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:[, ]\d{3})+(?![\d,])", re.ASCII)
_SCALED = re.compile(rf"(?P<number>[-+]?{_N}) ?(?:\\text\{{ ?)?(?P<scale>[a-z]+) ?\}}?", re.ASCII)


def rational(text: str) -> tuple[Fraction, bool] | None:
    r"""Return the value of a cleaned number, and whether a percent sign follows; None for any other answer.

    It reads integers, decimals, ``10,000``, ``3/4``, ``\frac{3}{4}``, ``1\frac{1}{2}``, ``1 1/2``,
    ``6.5\times10^{3}``, ``6.5e3``, ``0.1\overline{6}`` and ``2 million``, with signs and percent signs.
    """
    text = _without_parentheses(text)
    if sum(sign.isdigit() for sign in text) > MAX_DIGITS:
        return None
    text = _THOUSANDS.sub(lambda match: re.sub("[, ]", "", match[0]), text)
    text = text.strip(" ")
    try:
        for reader in (_decimal_or_fraction, _mixed, _power, _repeating, _scaled):
            value = reader(text)
            if value is not None:
                return value, text.endswith("%")
    except ZeroDivisionError:
        pass
    return None


def _without_parentheses(text: str) -> str:
    r"""Write ``-(3)`` and ``{3}`` as ``-3`` and ``3``."""
    inner = re.fullmatch(r"([-+]?)(?:\(([^(){},]*)\)|\{([^(){},]*)\})", text)
    return inner[1] + (inner[2] or inner[3] or "") if inner else text


def _signed(signs: str, value: Fraction) -> Fraction:
    return -value if signs.count("-") % 2 else value


def _decimal_or_fraction(text: str) -> Fraction | None:
    match = _NUMBER.fullmatch(text)
    if match:
        return _signed(match["sign"], Fraction(match["top"]) / Fraction(match["bottom"] or 1))
    match = _FRACTION.fullmatch(text)
    if match is None:
        return None
    value = Fraction(match["top"]) / Fraction(match["bottom"])
    signs = match["inner"] + match["under"]
    if match["whole"] and signs:
        return None
    return _signed(match["sign"] + signs, Fraction(match["whole"] or 0) + value)


def _mixed(text: str) -> Fraction | None:
    match = _MIXED.fullmatch(text)
    if match is None:
        return None
    return _signed(match["sign"], int(match["whole"]) + Fraction(int(match["top"]), int(match["bottom"])))


def _power(text: str) -> Fraction | None:
    match = _POWER.fullmatch(text)
    if match is None:
        return None
    exponent = int(match["braced"] or match["bare"] or match["exponent"])
    if abs(exponent) > MAX_POWER:
        return None
    top = Fraction(match["top"] or match["top2"] or 1)
    return _signed(match["sign"] or match["sign2"] or "", top * Fraction(10) ** exponent)


def _repeating(text: str) -> Fraction | None:
    match = _REPEATING.fullmatch(text)
    if match is None:
        return None
    fixed, loop = match["fixed"], match["loop"]
    # 0.1666... = 0.1 + 6 / (9 * 10)
    tail = Fraction(int(loop), (10 ** len(loop) - 1) * 10 ** len(fixed))
    return _signed(match["sign"], Fraction(f"{match['whole'] or 0}.{fixed or 0}") + tail)


def _scaled(text: str) -> Fraction | None:
    match = _SCALED.fullmatch(text)
    if match is None or match["scale"] not in _SCALES:
        return None
    return Fraction(match["number"]) * Fraction(10) ** _SCALES[match["scale"]]


def same(gold: tuple[Fraction, bool], answer: tuple[Fraction, bool]) -> bool:
    """Whether two numbers agree; if only one has a percent sign, 50% equals both 50 and 1/2."""
    (value, percent), (other, other_percent) = gold, answer
    if percent == other_percent:
        return value == other
    if percent:
        return other in (value, value / 100)
    return value in (other, other / 100)
