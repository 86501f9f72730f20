"""Sums, formulas and lists that a model wrote, read in bounded time and without running code.

Python's own parser turns the text into a syntax tree, which is never compiled; sums are exact fractions.
"""

import ast
import cmath
import operator
import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any, NamedTuple

MAX_CHARS = 256
MAX_NUMBER = 999_999_999
OPERATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}
_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    **dict(zip((ast.Add, ast.Sub, ast.Mult, ast.Div), OPERATIONS.values(), strict=True)),
    ast.Pow: operator.pow,
}

# Whole numbers of at most nine digits and without leading zeros; neither ** nor //; a plus behind a value.
_SUM = re.compile(
    r"(?:(?:0|[1-9]\d{0,8}+)(?!\d)|\*(?!\*)|/(?!/)|(?<=[\d)])\+|(?<=[\d)] )\+|[-() ])*+", re.ASCII
)
_FORMULA = re.compile(r"(?:\d{1,12}(?:\.\d{1,12})?(?![\w.])|[A-Za-z]+(?![\w.])|\*\*?|[-+/() ])*+", re.ASCII)
_LIST = re.compile(r"(?:'[^'\\\n]*'|\"[^\"\\\n]*\"|-?\d{1,18}(?![\w.])|[\[\](), \n])*+", re.ASCII)

# Formulas are compared at these points: small, and off the real axis, where log and sqrt have branch cuts.
_POINTS = (0.23 + 0.11j, 0.71 + 0.07j, 1.37 + 0.05j, -0.43 + 0.13j)
_CIRCLE = [0.02 * cmath.exp(0.25j * cmath.pi * k) for k in range(8)]
_TOLERANCE = 1e-8
# A constant of integration has any value: its derivative is 0.
_CONSTANTS = {"C": 0.5, "c": 0.5, "K": 0.5, "k": 0.5, "E": cmath.e, "pi": cmath.pi}
_FUNCTIONS = {"ln": cmath.log} | {
    name: getattr(cmath, name)
    for name in ("sin", "cos", "tan", "exp", "log", "sqrt", "asin", "acos", "atan", "sinh", "cosh", "tanh")
}
_MAX_EXPONENT = 99
_MAX_DEPTH = 400
# A sum of monomials is known by its value here: no problem has coefficients of so many digits.
_LARGE = {letter: Fraction(10**9 + 7 * k**3) for k, letter in enumerate("abcdefghijklmnopqrstuvwxyz")}


class Evaluated(NamedTuple):
    """A well-formed sum.

    Args:
        value: its exact value.
        numbers: the numbers written in it, from left to right, without signs.
    """

    value: Fraction
    numbers: tuple[int, ...]


def evaluate(text: str) -> Evaluated | None:
    """Evaluate whole numbers combined by ``+ - * /`` and parentheses, with the usual precedence.

    A minus sign may stand before an operand; it makes no positive value possible that the binary operators
    alone cannot reach. Refused: other operators (``**``, ``//``), a plus sign before an operand,
    juxtaposition such as ``2(3)``, decimals, leading zeros, digits other than 0 to 9, numbers above
    ``MAX_NUMBER``, and texts of more than ``MAX_CHARS`` characters.

    Args:
        text: any text at all.

    Returns:
        The value and the numbers used, or None if the text is refused, malformed or divides by zero.
    """
    if len(text) > MAX_CHARS:
        return None
    try:
        tree = _parsed(re.sub(r"\s+", " ", text, flags=re.ASCII), _SUM)
        return Evaluated(_value(tree, {}, Fraction), tuple(map(int, re.findall(r"\d+", text))))
    except (ValueError, ZeroDivisionError):
        return None


def is_antiderivative(text: str, integrand: str, variable: str) -> bool:
    """Whether the derivative of a formula agrees with the integrand, to eight digits at four points.

    Args:
        text: what the model wrote, in the notation of Python.
        integrand: the formula that it should have integrated.
        variable: name of the variable of both.

    Raises:
        ValueError: one of the two is not a formula, or has functions that are not known here.
        ArithmeticError: one of the two has no value at one of the points.
    """
    answer, wanted = _parsed(text, _FORMULA), _parsed(integrand, _FORMULA)
    for point in _POINTS:
        # The derivative is a mean over a small circle (Cauchy 1831), here exact to about twelve digits.
        around = [_value(answer, {**_CONSTANTS, variable: point + step}) / step for step in _CIRCLE]
        expected = _value(wanted, {**_CONSTANTS, variable: point})
        if not abs(sum(around) / len(around) - expected) <= _TOLERANCE * (1 + abs(expected)):
            return False
    return True


def polynomial(text: str) -> Fraction:
    """Return the value of a sum of monomials at one point, which tells it from every other one.

    A product of sums is refused: multiplying it out is what the problem asks for.

    Raises:
        ValueError: the text is not such a sum of small letters, or an exponent is above 99.
        ArithmeticError: it divides by zero.
    """
    tree = _parsed(text, _FORMULA)
    for node in ast.walk(tree):
        match node:
            case ast.BinOp(op=ast.Add() | ast.Sub()):
                continue
            case ast.BinOp(op=ast.Div(), right=right) if not isinstance(right, ast.Constant):
                raise ValueError("a divisor that is no number")
            case ast.BinOp(op=ast.Pow(), left=base, right=exponent):
                whole = isinstance(exponent, ast.Constant) and exponent.value in range(_MAX_EXPONENT + 1)
                if not whole or not isinstance(base, ast.Name):
                    raise ValueError("a power that no problem needs")
            case ast.BinOp() if any(isinstance(part, ast.Add | ast.Sub) for part in ast.walk(node)):
                raise ValueError("a product of sums")
            case ast.Call():
                raise ValueError("a function")
    value: Fraction = _value(tree, _LARGE, Fraction)
    return value


def literal(text: str) -> Any:
    """Read Python text that consists of lists, tuples, whole numbers and plain strings.

    Raises:
        ValueError: the text is anything else.
    """
    return ast.literal_eval(_parsed(text, _LIST))


def _parsed(text: str, tokens: re.Pattern[str]) -> ast.expr:
    """Parse a text that consists of the given tokens only, and is not nested too deeply to be evaluated."""
    text = text.strip(" \n")
    if not tokens.fullmatch(text):
        raise ValueError("a character, or a number, that does not belong there")
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, RecursionError, MemoryError):  # the last two if it is nested deeply
        raise ValueError("not a formula") from None
    nodes: list[ast.AST] = [tree]
    for _ in range(_MAX_DEPTH):
        nodes = [child for node in nodes for child in ast.iter_child_nodes(node)]
    if nodes:
        raise ValueError("nested too deeply")
    return tree


def _value(node: ast.expr, names: Mapping[str, Any], number: Callable[[Any], Any] = complex) -> Any:
    """Evaluate a formula, by default in doubles: powers of Python's integers could become too large."""
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return number(value)
        case ast.Name(id=name) if name in names:
            return names[name]
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=operand):
            return _value(operand, names, number) * (1 if isinstance(sign, ast.UAdd) else -1)
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _OPERATORS:
            return number(_OPERATORS[type(sign)](_value(left, names, number), _value(right, names, number)))
        case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if name in _FUNCTIONS:
            return number(_FUNCTIONS[name](_value(argument, names, number)))
    raise ValueError("not a formula")
