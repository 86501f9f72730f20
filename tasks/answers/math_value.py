r"""Plain numbers, read exactly, clock times, numerals in a base, and the units behind a value.

This is the fast path: most right answers of benchmarks are plain numbers, and SymPy never sees them.
"""

import re
from fractions import Fraction

_N = r"(?:\d{1,60}(?:\.\d{0,60})?|\.\d{1,60})"
_SCALES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_SCALED = re.compile(rf"(.*\d) ?(?:\\text\{{ ?)?({'|'.join(_SCALES)}) ?\}}?")
_GROUPED = re.compile(r"(?<![\d.,])(\d{1,3})((?:,\d{3})+|(?: \d{3})+)(?![\d,])", re.ASCII)
_PLAIN = re.compile(
    rf"(?P<signs>[-+ ]*)(?:(?P<whole>\d{{1,60}}) )?(?P<top>-?{_N})(?P<under> ?/(?P<bottom>-?{_N}))?"
    r"(?:[eE](?P<power>[-+]?\d{1,2}))?",
    re.ASCII,
)
_SPELLINGS = [
    (re.compile(r"([-+]?)\(([^()]*)\)"), r"\1\2"),
    (re.compile(r"([-+]?)\{([^{}]*)\}"), r"\1\2"),
    (re.compile(rf"(.*?)\\frac\{{\(?(-?{_N})\)?\}}\{{\(?(-?{_N})\)?\}}"), r"\1 \2/\3"),
    (re.compile(rf"([-+]?{_N})(?:\\times|\\cdot|x) ?10\^\{{?([-+]?\d{{1,2}})\}}?"), r"\1e\2"),
    (re.compile(r"([-+]?)10\^\{?(-?\d{1,2})\}?"), r"\g<1>1e\2"),
]
_REPEATING = re.compile(r"(-?\d{0,9}\.)(\d{0,9})\\overline\{(\d{1,9})\}", re.ASCII)


def rational(text: str) -> tuple[Fraction, bool] | None:
    r"""Return the value of a cleaned number, and whether a percent sign follows; None for any other answer.

    It reads integers, decimals, ``10,000``, ``3/4``, ``\frac{3}{4}``, ``1\frac{1}{2}``, ``1 1/2``,
    ``6.5\times10^{3}``, ``6.5e3``, ``0.1\overline{6}`` and ``2 million``, with signs and percent signs.
    """
    percent, text = text.endswith("%"), text.removesuffix("%").strip()
    scaled, repeating = _SCALED.fullmatch(text), _REPEATING.fullmatch(text)
    if scaled:
        number = rational(scaled[1])
        return (number[0] * _SCALES[scaled[2]], percent) if number and not number[1] else None
    if repeating:  # 0.1666... = (16 - 1) / 90
        start, fixed, loop = repeating.groups()
        long, short = (Fraction(f"{start}{digits}0") for digits in (fixed + loop, fixed))
        return (long * 10 ** len(loop) - short) / (10 ** len(loop) - 1), percent
    for spelling, plain in _SPELLINGS:
        match = spelling.fullmatch(text)
        text = match.expand(plain).strip() if match else text
    match = _PLAIN.fullmatch(ungrouped(text))
    if match is None or (match["whole"] and ("-" in match["top"] or not match["under"])):
        return None
    bottom = Fraction(match["bottom"] or 1)
    if bottom == 0:
        return None
    value = int(match["whole"] or 0) + Fraction(match["top"]) / bottom
    return (-1) ** match["signs"].count("-") * value * Fraction(10) ** int(match["power"] or 0), percent


def ungrouped(text: str) -> str:
    """Write ``1,000`` and ``1 000`` as ``1000``, wherever they stand in a formula."""
    return _GROUPED.sub(lambda match: match[1] + re.sub("[, ]", "", match[2]), text)


def same(gold: tuple[Fraction, bool], answer: tuple[Fraction, bool]) -> bool:
    """Whether two numbers agree; if only one has a percent sign, 50% equals both 50 and 1/2, 0.5% neither."""
    (value, percent), (other, other_percent) = gold, answer
    if percent == other_percent:
        return value == other
    share, number = (value, other) if percent else (other, value)
    return number == share / 100 or (number == share and abs(share) > 1)


_TIME = re.compile(r"(\d{1,2})(?::(\d\d))?(?::(\d\d))? ?(?:([ap])\.? ?m\.?)?", re.ASCII | re.IGNORECASE)


def clock(text: str) -> tuple[tuple[int, ...], str] | None:
    """Return a time or duration, such as ``4:30 p.m.``, and ``a`` or ``p`` if one of them follows."""
    match = _TIME.fullmatch(_plain(text))
    if match is None or not (match[2] or match[4]):
        return None
    return tuple(int(part or 0) for part in match.groups()[:3]), (match[4] or "").lower()


_BASE = re.compile(r"(-?[0-9A-F.]+)(?:_\{?(?:\\text\{)?(\d+|[a-z]+)\}{0,2})?")


def numeral(text: str) -> tuple[str, str] | None:
    """Return the digits and the base of a numeral such as ``1011_2``; the base is empty if none is given."""
    match = _BASE.fullmatch(text)
    return (match[1], match[2] or "") if match else None


# Units

_NAMES = (
    "m meter metre/cm centimeter centimetre/mm millimeter millimetre/km kilometer kilometre/in inch inche"
    "/ft foot feet/yd yard/mi mile/s sec second/min minute/h hr hour/day/week/month/year yr/g gram"
    "/kg kilogram/lb pound/oz ounce/L l liter litre/ml mL milliliter/dollar/cent/euro/sterling/degree deg"
    "/radian rad/mph/square sq/cubic cu/C Celsius/F Fahrenheit/K/N/J/W/V/A/T/Hz/Pa/am/pm/per"
)
_UNITS = {name: line.split()[0] for line in _NAMES.split("/") for name in line.split()}
_POWERS = {"2": "square", "3": "cubic"}
# Words after a number that change its value, and so are not units.
_NO_UNIT = re.compile(
    r"\b(?:times|plus|minus|over|hundred|thousand|[mbt]r?illion|dozen|hal[fv]\w*|thirds?|quarters?|(?:four|fif|six|seven|eigh|nin|ten|hundred|thousand)ths?|squared|cubed"
    r"|not|to|mod|base|pi|e|i|d|or)\b",
    re.ASCII | re.IGNORECASE,
)
_TEXT = r"\\text\{ ?[A-Za-z][A-Za-z ./^23]{0,50}\}"
_POWER = r"(?:\^\{?-?[1-3]\}?)?"
_WORD = (
    r"(?:(?!hundred|thousand|[mbt]r?illion)[A-Za-z]{4,20}|[ckm]m|km/h|m/s|in|ft|yd|mi|kg|lbs?|oz|hrs?|min|sec|mph|m[lL]"
    r"|sq|cu|deg|m(?=\^\{?[23]\}?$))"
)
_IN_TEXT = rf"(?: ?{_TEXT}{_POWER}|(?<=[}}\d])/{_TEXT}{_POWER})+(?: {_WORD}{_POWER})*"
_BARE = (
    r"(?:(?<=[\d)}%])|(?<=illion)|(?<=thousand))"
    rf"(?:(?: |(?=\w\w(?!\w))|(?=km/h|m/s|[a-z]{{4}})){_WORD}{_POWER}(?:/(?:h|s|{_WORD}){_POWER})?)+"
)
_SUFFIX = re.compile(rf"(?P<core>.*?[A-Za-z\d)}}%»])(?P<unit>{_IN_TEXT}|{_BARE})", re.ASCII)


def split_unit(text: str) -> tuple[str, tuple[str, ...]]:
    r"""Return a cleaned answer without the unit after it, and the unit's parts in one spelling.

    A unit is ``\text{...}`` after anything, or words after a number: known units, or any word of four letters
    or more. A single letter is none, even behind a space: ``5 m`` is five times m; ``5 m^2`` is an area.
    """
    match = _SUFFIX.fullmatch(text)
    if match is None or _NO_UNIT.search(_plain(match["unit"])):
        return text, ()
    words = re.findall(r"[A-Za-z]+|\^\{?-?\d", match["unit"].replace("\\text", " ").replace(".", ""))
    parts: list[str] = []
    for word in words:
        power = _POWERS.get(word[-1], word) if word[0] == "^" else ""
        parts.insert(len(parts) - bool(power and parts), power or _spelled(word))
    if any(len(part) == 2 and part[0] == "?" for part in parts):  # a letter
        return text, ()
    return match["core"].strip(), tuple(filter(None, parts))


def _spelled(word: str) -> str:
    """Return a unit in one spelling; nothing for the word unit, and a question mark before an unknown one."""
    for name in (word, word.lower(), word.lower().removesuffix("s")):
        if name in _UNITS:
            return _UNITS[name]
    return "" if word.lower() in ("unit", "units") else f"?{word}"


def units_conflict(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Whether two units are known and differ; a unit that is missing or unknown contradicts nothing."""
    known = all(not part.startswith("?") for part in one + other)
    return bool(one and other and known and one != other)


def _plain(text: str) -> str:
    r"""Return a text without ``\text{}``, with single spaces."""
    return " ".join(re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text).split())
