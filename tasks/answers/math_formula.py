r"""Values of a LaTeX formula at fixed points, by recursive descent; exact if it has no root or function.

If two formulas have equal values at four irregular points of different signs, they are equal, except by
unlikely coincidence (Schwartz 1980). This takes microseconds and decides identities that no simplifier
proves. The same text always has the same values.
"""

import cmath
import math
import re
import zlib
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache

from es_lightning.tasks.answers import math_functions as m
from es_lightning.tasks.answers.math_functions import Value, Values

MAX_CHARS = 200
MAX_DEPTH = 10

_SIZES = (1900, 1700, 600, 1100)  # of symbols at each point, in thousandths, before a factor from 0.5 to 1.5
_TOKEN = re.compile(r"(?P<number>\d+(?:\.\d*)?|\.\d+)|(?P<command>\\[A-Za-z]+)|(?P<sign>\S)|\s+", re.ASCII)
_MIXED = re.compile(r"(?<![\d.}^])(\d+)\\frac\{(\d+)\}\{(\d+)\}", re.ASCII)
_SUBSCRIPT = re.compile(r"([A-Za-z])_(?:\{(\w{1,8}|\\text\{\w{1,8}\})\}|(\w))", re.ASCII)
_CLOSING = {"(": ")", "[": "]", "{": "}", "|": "|", "\\lvert": "\\rvert", "\\vert": "\\vert"}
_CLOSING |= {"\\lfloor": "\\rfloor", "\\lceil": "\\rceil"}
_ROUNDING: dict[str, Callable[[Fraction | float], int]] = {"\\lfloor": math.floor, "\\lceil": math.ceil}
_GREEK = re.compile(
    r"\\(?:alpha|beta|gamma|delta|epsilon|varepsilon|theta|lambda|mu|nu|rho|sigma|tau|phi|varphi|omega|zeta|eta|xi"
    r"|psi|Delta|Omega)"
)
_UNKNOWN_FUNCTIONS = frozenset("fghFGHPQ")
# Tokens that end a product.
_ENDS = frozenset(["+", "-", ")", "]", "}", ",", "=", "\\rvert", "\\rfloor", "\\rceil", ""])


@lru_cache(maxsize=4096)
def values(text: str) -> Values | None:
    """Return the values of a cleaned formula at each point; None if it is not one, has none, or is too large.

    Letters are variables, except ``e`` and ``i``. ``log`` without a base is to base 10, as in math-verify.
    """
    if len(text) > MAX_CHARS or not text or re.search(r"\d{40}", text):
        return None
    try:
        reader = _Reader(_MIXED.sub(r"(\1+\\frac{\2}{\3})", text))
        result = reader.sum()
        return result if reader.peek() == "" and all(map(_is_finite, result)) else None
    except (ArithmeticError, ValueError, TypeError):
        return None


def _is_finite(value: Value) -> bool:
    return isinstance(value, Fraction) or cmath.isfinite(value)


class _Reader:
    """A recursive-descent parser that evaluates one formula; a ValueError means that it is not a formula."""

    def __init__(self, text: str) -> None:
        # A symbol with a subscript becomes one token: ``\_`` and letters.
        text = _SUBSCRIPT.sub(lambda match: f"\\_{_letters(match[0])} ", text.replace("log_", "log _"))
        self.tokens = [t[0] for t in re.finditer(rf"\\_[A-Za-z]+|{_TOKEN.pattern}", text) if t[0].strip()]
        self.position = self.depth = 0
        self.in_bars = False

    def peek(self) -> str:
        """Return the next token; an empty text at the end."""
        return self.tokens[self.position] if self.position < len(self.tokens) else ""

    def take(self, expected: str | None = None) -> str:
        """Consume the next token, which must be the expected one, if any."""
        token = self.peek()
        if not token or (expected is not None and token != expected):
            raise ValueError(f"{expected} expected")
        self.position += 1
        return token

    def sum(self) -> Values:
        """Read terms with plus and minus signs between them."""
        total = self.product()
        while self.peek() in ("+", "-"):
            negative = self.take() == "-"
            term = self.product()
            total = m.each(m.minus if negative else m.plus, total, term)
        return total

    def product(self) -> Values:
        """Read factors, with or without a sign between them; a division applies to the next factor only."""
        result = self.factor()
        while self.peek() not in _ENDS and not (self.in_bars and self.peek() in ("|", "\\vert")):
            sign = self.take() if self.peek() in ("*", "/", "\\cdot", "\\times", "\\div") else "*"
            result = m.each(m.over if sign in ("/", "\\div") else m.times, result, self.factor())
        return result

    def factor(self) -> Values:
        """Read an operand with signs before it and powers or factorials after it."""
        negative = False
        while self.peek() in ("+", "-"):
            negative ^= self.take() == "-"
        result = self.primary()
        while self.peek() in ("^", "!"):
            is_power = self.take() == "^"
            result = m.each(m.power, result, self.argument()) if is_power else m.each(m.factorial, result)
        return tuple(-value for value in result) if negative else result

    def primary(self) -> Values:
        """Read a number, a symbol, a function, a fraction, a root, or something in brackets."""
        token = self.take()
        if token[0].isdigit() or token[0] == ".":
            return (Fraction(token),) * len(_SIZES)
        if token in _CLOSING:
            return self.bracketed(token)
        if token == "\\frac":
            return m.each(m.over, self.argument(), self.argument())
        if token == "\\binom":
            return m.each(m.binomial, self.argument(), self.argument())
        if token == "\\sqrt":
            return self.root()
        if token in m.FUNCTIONS:
            return self.function(token)
        if token in _UNKNOWN_FUNCTIONS and self.peek() == "(":
            raise ValueError("f(x) is no product")
        return _symbol(token)

    def bracketed(self, token: str) -> Values:
        """Read what stands in brackets, absolute value bars, or signs for floor and ceiling."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise ValueError("too deep")
        before, self.in_bars = self.in_bars, token in ("|", "\\vert")
        inside = self.sum()
        self.take(_CLOSING[token])
        self.in_bars = before
        self.depth -= 1
        if token in _ROUNDING:
            rounding = _ROUNDING[token]
            return tuple(Fraction(rounding(m.real(value))) for value in inside)
        if _CLOSING[token] in ("|", "\\vert", "\\rvert"):
            return m.each(m.size, inside)
        return inside

    def argument(self) -> Values:
        """Read what stands in braces, or the next number or symbol: ``x^12`` is read as ``x^{12}``."""
        if self.peek() == "-":
            self.take()
            return tuple(-value for value in self.argument())
        return self.primary()

    def root(self) -> Values:
        """Read a root, which is a square root unless its degree stands in square brackets."""
        degree: Values = (Fraction(2),) * len(_SIZES)
        if self.peek() == "[":
            degree = self.primary()
        return m.each(m.root, self.argument(), degree)

    def function(self, name: str) -> Values:
        """Read a function, perhaps to a power, of what stands in brackets or of the factors after it."""
        function, power, base = m.FUNCTIONS[name], None, None
        if name == "\\log" and self.peek() == "_":
            self.take()
            base = self.argument()
        if self.peek() == "^":
            self.take()
            power = self.argument()
            if power[0] == -1 and name in m.INVERSES:
                function, power = m.INVERSES[name], None
        inside = self.bracketed(self.take()) if self.peek() in ("(", "{") else self.operand()
        if base is not None:
            return m.each(lambda x, b: cmath.log(x) / cmath.log(b), inside, base)
        result: Values = tuple(function(complex(value)) for value in inside)
        return result if power is None else m.each(m.power, result, power)

    def operand(self) -> Values:
        """Read the factors that a function without brackets is applied to: all of ``2x`` in ``\\sin 2x``."""
        result = self.factor()
        while re.fullmatch(r"[A-Za-z]|\\pi|\\_[A-Za-z]+", self.peek()):
            result = m.each(m.times, result, self.factor())
        return result


def _symbol(token: str) -> Values:
    constants = {"e": complex(math.e), "\\pi": complex(math.pi), "i": 1j}
    if token in constants:
        return (constants[token],) * len(_SIZES)
    if not (token.isalpha() or _GREEK.fullmatch(token) or token.startswith("\\_")):
        raise ValueError(f"{token} is no symbol")
    code = zlib.crc32(token.encode())
    signs = (1, -1, 1 - (code >> 3 & 2), 1 - (code >> 5 & 2))  # equal and opposite, for most pairs of symbols
    return tuple(
        Fraction(sign * round(n * (0.5 + code / 2**32)), 997) for sign, n in zip(signs, _SIZES, strict=True)
    )


def _letters(name: str) -> str:
    """Name a symbol with a subscript by letters only."""
    plain = re.sub(r"\\text|[{}]", "", name)
    return "".join(chr(97 + int(sign)) + "Z" if sign.isdigit() else sign for sign in plain.replace("_", "U"))
