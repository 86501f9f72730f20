r"""One spelling for the many ways to write the same LaTeX answer; its brackets.

What ``clean`` returns is ASCII, except for ``≤``, ``≥``, ``≠``, ``∧`` (and), ``∨`` (or), and three signs of
our own: ``«`` and ``»`` for the braces of a set (``\{``, ``\}``), and ``¶`` for the line break of a matrix.
"""

import re
from collections.abc import Callable
from itertools import accumulate

MAX_CHARS = 600
MAX_DEPTH = 10

_SIGNS = {
    **{"−": "-", "–": "-", "×": r"\times", "·": r"\cdot", "⋅": r"\cdot", "÷": r"\div", "±": r"\pm"},
    **{"π": r"\pi", "θ": r"\theta", "∞": r"\infty", "°": r"^\circ", "∪": r"\cup", "∈": r"\in"},
    **{"²": "^2", "³": "^3", "½": r"\frac12", "’": "'", "≈": r"\approx", "√": r"\sqrt"},
}
_UNICODE = str.maketrans({sign: f"{latex} " for sign, latex in _SIGNS.items()})
_UNICODE |= str.maketrans(dict.fromkeys("\xa0\u2009\u202f", " "))
_KEPT = re.compile(r"[\t\n\r -~≤≥≠]*")

_COMMANDS = {  # without the backslash; <=, >= and != are written without one
    **{"≤": "le leq leqslant <=", "≥": "ge geq geqslant >=", "≠": "ne neq !=", "<": "lt", ">": "gt"},
    **{"(": "langle", ")": "rangle", "|": "vert lvert rvert", "«": "lbrace {", "»": "rbrace }"},
    **{"\\frac": "dfrac tfrac cfrac", "\\emptyset": "varnothing", "'": "prime", "^\\circ": "degree"},
    **{"\\ldots": "dots dotsc cdots", "\\pm": "mp", "\\log_{10}": "lg", "¶": "\\"},
    "\\text": "mathrm textbf textit textrm textsf texttt textnormal mbox operatorname",
    " ": "quad qquad mathbf mathit mathsf mathtt boldsymbol bm underline bf",
    "": "left right displaystyle textstyle big Big bigg Bigg bigl bigr Bigl Bigr large Large LARGE huge Huge",
}
_SPELLED = {command: sign for sign, commands in _COMMANDS.items() for command in commands.split()}

# Each rule is applied once, in this order; all are linear on a text of at most MAX_CHARS.
_RULES: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
    (r"(?<!\\)\\\\(?=[A-Za-z])(?!.*\\end)|(?:\\\\)\s*$", r"\\"),  # \\frac for \frac; a \\ at the end
    (r"(?<=\d)(?:,\\! ?|\\[,!] ?,?| ?\{ ?, ?\}(?:\\! ?)?)(?=\d{3}(?!\d))", ","),  # 10\,000 and 10{,}000
    (r"\\(?:[A-Za-z]+|[\\{}])|(?<!\\)[<>!]=", lambda sign: _SPELLED.get(sign[0].removeprefix("\\"), sign[0])),
    (r"\\[,;:! ]|~", " "),
    (r"\\\$ ?([\d.,]+)|\\\$", r"\1\\text{dollars}"),
    (r"(?<=[\w)])\*\*(?=[\w(])", "^"),  # x**2
    (r"\$|\*\*|`|\\[()\[\]]", ""),
    (r"\\%|\\?(?:text)?\{ ?\\?(?:%|percent) ?\}|\b(?:percent(?:age)?|pct)\b", "%"),
    # \text{25}, \text{50%}, \text{(C)}, \text{1:03 PM}, \text{x}, \mathrm{i}, \text{\frac12}
    (r"\\text\s*\{ ?([-+]?[\d.,/]+%?|\([A-Z]\)|\d{1,2}:[^{}]*|[ei]|[nxyz]{1,3}) ?\}", r"\1"),
    (r"\\text\s*\{ ?([-+]?\d[\d.,/]*) ([A-Za-z .]+)\}", r"\1\\text{\2}"),  # \text{5 cm}
    (r"\\text\s*\{(?=\\[fs])", "{"),
    (r"^\s*\\text\s*\{[^{}]*(?i:answer)[^{}]*\}", ""),
    (r"\{([^{}]+)\\over(?![A-Za-z])([^{}]+)\}", r"\\frac{\1}{\2}"),
    (r"(\d):00(?= ?(?:\\text\{ ?)?[apAP]\.?[mM])", r"\1"),  # 9:00 a.m.
    (r"(?<![\w\\.])(\d[\d.]*)[eE]([-+]?\d{1,2})(?!\d)", r"\1\\cdot10^{\2}"),  # 6.5e-7
    (r"(?<=\d) ?(?:\\text\{ ?)?million ?\}?", r"\\cdot10^{6} "),
    (r"\(?([\dA-F.]+)\)?_(?:\{(\w+)\}|(\d+))", r"\1_\2\3"),  # 2210_{5}, (2210)_5
    (r"\\pmod ?\{?(\w+)\}?", r"\\pmod{\1}"),
    (r"(?<![\w)}\s/])\\text\s*\{([A-Za-z])\}|\\text\{\s*\}", r"\1"),  # \mathrm{e}, but not 12\mathrm{m}
    (r",?\s*\\text\s*\{,? ?and,? ?\}|,?\s+and\s+", " ∧ "),
    (r",?\s*\\text\s*\{,? ?or,? ?\}|,?\s+or\s+", " ∨ "),
    (r";", ","),
    (r"\^\s*(?:\\circ(?![A-Za-z])|\{\s*\\circ\s*\})", r"\\text{degrees}"),
    (r"\\not ?=", "≠"),
    (r"(?<![\\A-Za-z{])((?:arc)?(?:sin|cos|tan)|log|ln|sqrt|pi)(?![A-Za-z])", r"\\\1"),
    (r"\\frac\s*(\d|\s[A-Za-z])", r"\\frac{\1}"),
    (r"(\\frac\{[^{}]*\})\s*(\w)", r"\1{\2}"),  # \frac12, \frac{a+b}2
    (r"\^ ?\{?('(?: ?')*) ?\}?", r"\1"),  # y^{\prime\prime}
    (r"\\sqrt\[(3|5)\]\{-", r"-\\sqrt[\1]{"),
    (r"\\(sin|cos|tan) ?[({]?(\d{1,9})\\text\{degrees\}[)}]?", r"\\\1(\\frac{\2\\pi}{180})"),
    (r"\\overline\{([A-Z]{2,3})\}", r"\1"),  # a segment
    (r"^\s*(?:[A-Za-df-z]?\s*\\approx|=)|(?<=\S)\s*\\approx.*", ""),
    (r"^\s*\{(\w)\}", r"\1"),  # {v}, which was \mathbf{v}
    (r"\\mathbb\{R\}", r"(-\\infty,\\infty)"),
    (r"«\s*»", r"\\emptyset"),
    (r"\+\\infty", r"\\infty"),
    (r"\s+", " "),
    (r" ?([^\w\\ ,]) ?", r"\1"),
    (r" (?=[\\,])", ""),
]
_COMPILED = [(re.compile(pattern, re.ASCII | re.DOTALL), replacement) for pattern, replacement in _RULES]


def clean(text: str) -> str | None:
    """Return the text in one spelling; None if it is too long or has characters that no answer has."""
    if len(text) > MAX_CHARS:
        return None
    text = text.translate(_UNICODE)
    if text.count("$") == 1 + text.count("\\$"):  # a price, not a formula between dollar signs
        text = re.sub(r"(?<!\\)\$", r"\\$", text)
    if not _KEPT.fullmatch(text):
        return None
    for pattern, replacement in _COMPILED:
        text = pattern.sub(replacement, text)
    text = text.strip().rstrip(".,:\\").strip()
    return text if 0 < len(text) <= MAX_CHARS else None


def depth(text: str) -> int:
    """Return how deeply brackets of any kind are nested; a large number if they do not match."""
    levels = _levels(text)
    return max(levels) if min(levels) >= 0 and levels[-1] == 0 else 10**6


def split(text: str, separator: str) -> list[str]:
    """Split the text at a separator, a pattern, wherever it stands outside brackets."""
    levels = _levels(text)
    cuts = [cut for cut in re.finditer(separator, text) if levels[cut.start()] == 0]
    starts, ends = [0, *(cut.end() for cut in cuts)], [*(cut.start() for cut in cuts), len(text)]
    return [text[start:end].strip() for start, end in zip(starts, ends, strict=True)]


def _levels(text: str) -> list[int]:
    """Return how many brackets are open before each character and at the end."""
    return list(accumulate(((sign in "([{«") - (sign in ")]}»") for sign in text), initial=0))
