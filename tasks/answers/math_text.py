r"""One spelling for the many ways to write the same LaTeX answer, and the unit apart from its value.

What ``clean`` returns is ASCII, except for ``≤``, ``≥``, ``≠``, ``∧`` (and), ``∨`` (or), and three signs of
our own: ``«`` and ``»`` for the braces of a set (``\{``, ``\}``), and ``¶`` for the line break of a matrix.
"""

import re

MAX_CHARS = 600

_TRANSLATION = str.maketrans(
    {
        **{"−": "-", "–": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": r"\div ", "±": r"\pm "},
        **{"π": r"\pi ", "θ": r"\theta ", "∞": r"\infty ", "°": r"^\circ ", "∪": r"\cup ", "∈": r"\in "},
        **{"≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "²": "^2", "³": "^3", "½": r"\frac12 ", "’": "'"},
        **{
            "\xa0": " ",
            "\u2009": " ",
            "\u202f": " ",
            "\u200b": "",
            "€": r"\text{euros}",
            "£": r"\text{sterling}",
            "≈": r"\approx ",
            "∅": r"\emptyset ",
        },
        "√": r"\sqrt ",
    }
)
_KEPT = re.compile(r"[\t\n\r -~]*")
_SIGNS = r"sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|sinh|cosh|tanh|log|ln|exp|sqrt|pi"

# Each rule is applied once, in this order; all are linear on a text of at most MAX_CHARS.
_RULES = [
    (r"(?<!\\)\\\\(?=[A-Za-z])(?!.*\\end)|(?:\\\\|\\newline)\s*$", r"\\"),
    (r"\\\\(?:\[[^\]]{0,9}\])?", "¶"),
    (r"\\(?:\{|lbrace(?![a-z]))", "«"),
    (r"\\(?:\}|rbrace(?![a-z]))", "»"),
    (r"(?<=\d)(?:,\\! ?|\\[,!] ?,?|\{,\}(?:\\! ?)?)(?=\d{3}(?!\d))", ","),
    (r"\\!|\\(?:display|text)style|\\(?:no)?limits|\\label\{[^{}]*\}", ""),
    (r"\\(?:left|right|[bB]igg?[lr]?)(?![A-Za-z])\.?", ""),
    (
        r"\\[,;: ]|~|\\q?quad(?![A-Za-z])|\\hspace\{[^{}]*\}|\\(?:math(?:bf|it)|boldsymbol|bm)(?![A-Za-z])",
        " ",
    ),
    (r"\\\$ ?([\d.,]+(?: [mbt]r?illion| thousand)?)|\\\$", r"\1\\text{dollars}"),
    (r"\\text\{(euros|sterling)\} ?([\d.,]+)", r"\2\\text{\1}"),
    (r"\$|\*\*|`|\\[()\[\]]", ""),
    (r"\\%|\\?(?:text|mathrm)\{ ?\\?(?:%|percent) ?\}|\bpercent\b", "%"),
    (r"\\(?:dfrac|tfrac|cfrac)(?![A-Za-z])", r"\\frac"),
    (r"\\(?:mathrm|text(?:bf|it|rm|normal)|mbox|operatorname|rm)\s*\{", r"\\text{"),
    (r"\\text\s*\{ ?([-+]?[\d.,/]+) ?\}", r"\1"),
    (r"\\text\s*\{ ?([-+]?\d[\d.,/]*) ([A-Za-z ]+)\}", r"\1\\text{\2}"),
    (r"^\s*\\text\s*\{[^{}]*(?i:answer)[^{}]*\}", ""),
    (r"\{([^{}]+)\\over(?![A-Za-z])([^{}]+)\}", r"\\frac{\1}{\2}"),
    (r"\\text\s*\{([eid])\}|(?<![\w)}\s/])\\text\s*\{([A-Za-z])\}|\\text\{\s*\}", r"\1\2"),
    (r",?\s*\\text\s*\{,? ?and,? ?\}|,?\s+and\s+", " ∧ "),
    (r",?\s*\\text\s*\{,? ?or,? ?\}|,?\s+or\s+", " ∨ "),
    (r";", ","),
    (r"\^\s*(?:\\circ(?![A-Za-z])|\{\s*\\circ\s*\}|\\degree)|\\degree", r"\\text{degrees}"),
    (r"\\(?:le|leq|leqslant)(?![A-Za-z])|<=", "≤"),
    (r"\\(?:ge|geq|geqslant)(?![A-Za-z])|>=", "≥"),
    (r"\\(?:ne|neq)(?![A-Za-z])|\\not ?=|!=", "≠"),
    (r"\\lt(?![A-Za-z])", "<"),
    (r"\\gt(?![A-Za-z])", ">"),
    (r"\\langle(?![A-Za-z])", "("),
    (r"\\rangle(?![A-Za-z])", ")"),
    (r"\\[lr]?vert(?![A-Za-z])", "|"),
    (rf"(?<![\\A-Za-z{{])({_SIGNS})(?![A-Za-z])", r"\\\1"),
    (r"\\frac\s*(\d|\s[A-Za-z])\s*(\d|[A-Za-z])(?!\})", r"\\frac{\1}{\2}"),
    (r"\\frac\s*(\d|\s[A-Za-z])\s*\{", r"\\frac{\1}{"),
    (r"(\\frac\{[^{}]*\})\s*(\w)", r"\1{\2}"),
    (r"\\sqrt\s*(\w)", r"\\sqrt{\1}"),
    (r"\\sqrt\[(3|5)\]\{-", r"-\\sqrt[\1]{"),
    (r"(\w)\^ ?(?:\{ ?)?\\prime ?+(?:\}|(?!\\prime))", r"\1'"),
    (r"(\w)\^ ?\{ ?\\prime ?\\prime ?\}", r"\1''"),
    (r"\\(sin|cos|tan|cot|sec|csc) ?[({]?(\d{1,9})\\text\{degrees\}[)}]?", r"\\\1(\\frac{\2\\pi}{180})"),
    (r"\\overline\{([A-Z]{2,3})\}", r"\1"),
    (r"^\s*(?:\\approx|=)", ""),
    (r"\\mathbb\{R\}", r"(-\\infty,\\infty)"),
    (r"«\s*»|\\varnothing", r"\\emptyset"),
    (r"\+\\infty", r"\\infty"),
    (r"\*", r"\\cdot "),
    (r"\s+", " "),
    (r" ?([^\w\\ ,]) ?", r"\1"),
    (r" (?=[\\,])", ""),
]
_COMPILED = [(re.compile(pattern, re.ASCII | re.DOTALL), replacement) for pattern, replacement in _RULES]


def clean(text: str) -> str | None:
    """Return the text in one spelling; None if it is too long or has characters that no answer has."""
    if len(text) > MAX_CHARS:
        return None
    text = text.translate(_TRANSLATION)
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
    level = deepest = 0
    for sign in text:
        level += (sign in "([{«") - (sign in ")]}»")
        deepest = max(deepest, level) if level >= 0 else 10**6
    return deepest if level == 0 else 10**6


def split(text: str, separator: str) -> list[str]:
    """Split the text at a separator wherever it stands outside brackets."""
    pieces, start, level = [], 0, 0
    for position, sign in enumerate(text):
        level += (sign in "([{«") - (sign in ")]}»")
        if level == 0 and text.startswith(separator, position) and position >= start:
            pieces.append(text[start:position].strip())
            start = position + len(separator)
    return [*pieces, text[start:].strip()]
