r"""One spelling for the many ways to write the same LaTeX answer, and units separated from the value.

What ``clean`` returns is ASCII, except for ``≤``, ``≥`` and three signs of our own: ``«`` and ``»`` for the
braces of a set (``\{``, ``\}``), and ``¶`` for the line break of a matrix.
"""

import re

MAX_CHARS = 300

_SIGNS = {
    **{"−": "-", "–": "-", "×": "\\times ", "·": "\\cdot ", "⋅": "\\cdot ", "÷": "\\div ", "±": "\\pm "},
    **{"π": "\\pi ", "∞": "\\infty ", "°": "^\\circ ", "∪": "\\cup ", "∈": "\\in "},
    **{
        "≤": "\\le ",
        "≥": "\\ge ",
        "≠": "\\ne ",
        "²": "^2",
        "³": "^3",
        "½": "\\frac12 ",
        "’": "'",
        "\xa0": " ",
    },
    **{"θ": "\\theta ", "€": "\\$", "£": "\\$", "\u200b": "", "\u2009": " ", "\u202f": " "},
}
_TRANSLATION = str.maketrans(_SIGNS)
_ROOT = re.compile(r"√\s*(\d+|\w)")
_KEPT = re.compile(r"[\t\n\r -~]*")

# Each rule is applied once, in this order; all are linear on a text of at most MAX_CHARS.
_RULES = [
    (r"\\\\(?:\[[^\]]{0,9}\])?", "¶"),
    (r"\\{", "«"),
    (r"\\}", "»"),
    (r"(?<=\d)(?:\\[,!] ?|\{,\}(?:\\! ?)?)(?=\d{3}(?!\d))", ","),
    (r"(?<=\d),\\[!,] ?(?=\d{3}(?!\d))", ","),
    (r"\\!|\\(?:displaystyle|textstyle|limits|nolimits)(?![A-Za-z])|\\label\{[^{}]*\}", ""),
    (r"\\(?:left|right|[bB]igg?[lr]?)(?![A-Za-z])(?:\.)?", ""),
    (r"\\[,;: ]|~|\\q?quad(?![A-Za-z])|\\hspace\{[^{}]*\}", " "),
    (r"\\\$|\$|\*\*|\\\(|\\\)|\\\[|\\\]", ""),
    (r"\\%|\\?(?:text|mathrm)\{ ?(?:%|\\%|percent) ?\}|\bpercent\b", "%"),
    (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
    (r"\\(?:mathrm|mathbf|mathit|textbf|textit|textrm|textnormal|mbox|operatorname|rm)\s*\{", r"\\text{"),
    (r"\\text\s*\{([A-Za-z0-9])\}", r"\1"),
    (r",?\s*\\text\s*\{,? ?(?:and|or),? ?\}|,?\s+(?:and|or)\s+|;", ", "),
    (r"\^\s*(?:\\circ(?![A-Za-z])|\{\s*\\circ\s*\}|\\degree)|\\degree", r"\\text{degrees}"),
    (r"\\(?:le|leq|leqslant)(?![A-Za-z])", "≤"),
    (r"\\(?:ge|geq|geqslant)(?![A-Za-z])", "≥"),
    (r"\\(?:langle)(?![A-Za-z])", "("),
    (r"\\(?:rangle)(?![A-Za-z])", ")"),
    (r"\\(?:lbrace)(?![A-Za-z])", "«"),
    (r"\\(?:rbrace)(?![A-Za-z])", "»"),
    (r"\\frac\s*(\d)\s*(\d)(?!\})", r"\\frac{\1}{\2}"),
    (r"\\frac\s*(\d)\s*\{", r"\\frac{\1}{"),
    (r"(\\frac\{[^{}]*\})\s*(\w)", r"\1{\2}"),
    (r"\\sqrt\s*(\w)", r"\\sqrt{\1}"),
    (r"\\text\{\s*\}", ""),
    (r"\s+", " "),
    (r"(?<=\d),(?=\d{3}(?:,\d{3})*(?:\.\d+)?, )|(?<=, )(\d{1,3}),(?=\d{3}(?!\d))", r"\1"),
    (r" ?([^\w\\ ]) ?", r"\1"),
    (r" (?=\\)", ""),
]
_COMPILED = [(re.compile(pattern, re.ASCII), replacement) for pattern, replacement in _RULES]


def clean(text: str) -> str | None:
    """Return the text in one spelling; None if it is too long or has characters that no answer has."""
    if len(text) > MAX_CHARS:
        return None
    text = _ROOT.sub(r"\\sqrt{\1}", text).translate(_TRANSLATION)
    if not _KEPT.fullmatch(text):
        return None
    for pattern, replacement in _COMPILED:
        text = pattern.sub(replacement, text)
    text = text.strip().rstrip(".,:").strip()
    return text if 0 < len(text) <= MAX_CHARS else None


# Units

_UNITS = {
    name: canonical
    for canonical, names in {
        "m": "m meter metre",
        "cm": "cm centimeter centimetre",
        "mm": "mm millimeter millimetre",
        "km": "km kilometer kilometre",
        "in": "in inch inches",
        "ft": "ft foot feet",
        "yd": "yd yard",
        "mi": "mi mile",
        "s": "s sec second",
        "min": "min minute",
        "h": "h hr hour",
        "day": "day",
        "week": "week",
        "month": "month",
        "year": "year yr",
        "g": "g gram",
        "kg": "kg kilogram",
        "lb": "lb pound",
        "oz": "oz ounce",
        "L": "L liter litre",
        "mL": "mL ml milliliter",
        "dollar": "dollar",
        "cent": "cent",
        "degree": "degree deg",
        "radian": "radian rad",
        "mph": "mph",
        "square": "square sq",
        "cubic": "cubic cu",
    }.items()
    for name in names.split()
}
_POWERS = {"2": "square", "3": "cubic"}
# Words after a number that change its value, and so are not units.
_NO_UNIT = re.compile(
    r"\b(?:pi|sqrt|sin|cos|tan|log|ln|exp|i|e|inf\w*|times|plus|minus|over|hundred|thousand|million|billion|"
    r"trillion|dozen|hal[fv]\w*|thirds?|quarters?|fourths?|(?:fif|six|seven|eigh|nin|ten|hundred|thousand)ths?|squared|cubed|not|to|mod)\b",
    re.ASCII | re.IGNORECASE,
)
_TEXT_UNIT = re.compile(r"(?P<core>.*[\w)}%»])\\text\{ ?(?P<words>[^{}]{1,60})\}(?:\^\{?(?P<power>[23])\}?)?")
_WORD_UNIT = re.compile(
    r"(?P<core>[-+]?[\d.,/]+%?|.*[\d}]\})(?: (?=[A-Za-z])|(?=[A-Za-z]{2}))"
    r"(?P<words>[A-Za-z]+(?:[ /][A-Za-z]+){0,3})(?:\^\{?(?P<power>[23])\}?)?",
    re.ASCII,
)


def split_unit(text: str) -> tuple[str, tuple[str, ...]]:
    r"""Return a cleaned answer without the unit after it, and the unit's parts in one spelling.

    A unit is ``\text{...}`` after anything, or up to four words after a number. Words that change the value,
    such as "million", are not units, and nor is a letter right after a number: ``5m`` is five times m.
    """
    core, parts = text, []
    for _ in range(3):  # "5 square \text{cm}"
        match = _TEXT_UNIT.fullmatch(core) or _WORD_UNIT.fullmatch(core)
        if match is None or _NO_UNIT.search(match["words"]):
            break
        core = match["core"]
        parts += [_spelled(word) for word in re.findall(r"[A-Za-z]+|[^\sA-Za-z]", match["words"])]
        parts += [_POWERS[match["power"]]] if match["power"] else []
    return core, tuple(sorted(parts))


def _spelled(word: str) -> str:
    """Return a unit in one spelling; an unknown one begins with a question mark."""
    return _UNITS.get(word) or _UNITS.get(word.lower()) or _UNITS.get(word.lower().rstrip("s"), "?" + word)


def units_conflict(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Whether two units are known and differ; a unit that is missing or unknown contradicts nothing."""
    known = all(not part.startswith("?") for part in one + other)
    return bool(one and other and known and one != other)


# Words


def as_words(text: str) -> str | None:
    r"""Return a cleaned answer that is nothing but words, in lower case; None if it is anything else.

    A single letter is a symbol, not a word, unless it stands alone in parentheses: the choice ``(C)``.
    """
    plain = re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text)
    choice = re.fullmatch(r"\s*\(?\s*([A-Z])\s*\)\s*", plain)
    if choice:
        return choice[1].lower()
    bare = " ".join(re.sub(r"[^\w\s]", " ", plain).lower().split())
    if "\\text" in text:
        return bare if "\\" not in plain and not re.search(r"\d", plain) else None
    return bare if re.fullmatch(r"[A-Za-z]{4,}(?: [A-Za-z]+)*", plain) else None
