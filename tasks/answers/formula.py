"""Formulas and lists that a model wrote, read in bounded time and without running code.

Python's own parser turns the text into a syntax tree, which is never compiled. ``_value`` evaluates the few
kinds of nodes that it knows. Numbers are doubles or small integers, so no power is ever large.
"""

import ast
import cmath
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

_FORMULA = re.compile(r"(?:\d{1,12}(?:\.\d{1,12})?(?![\w.])|[A-Za-z]+(?![\w.])|\*\*?|[-+/() ])*+", re.ASCII)
_LIST = re.compile(r"(?:'[^'\\\n]*'|\"[^\"\\\n]*\"|-?\d{1,18}(?![\w.])|[\[\](), \n])*+", re.ASCII)

# Formulas are compared at these points: small, and off the real axis, where log and sqrt have branch cuts.
_POINTS = (0.23 + 0.11j, 0.71 + 0.07j, 1.37 + 0.05j, -0.43 + 0.13j)
_TOLERANCE = 1e-8
# A constant of integration has any value: its derivative is 0.
_CONSTANTS = {"C": 0.5, "c": 0.5, "K": 0.5, "k": 0.5, "E": cmath.e, "pi": cmath.pi}
_MAX_EXPONENT = 99
_MAX_BASE = 10**12

_OPERATORS: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
    # Unary operators are called with None on the left.
    ast.USub: lambda _, operand: -operand,
    ast.UAdd: lambda _, operand: operand,
}


@dataclass(frozen=True, slots=True)
class _Dual:
    """A dual number: a value and its derivative with respect to the variable of integration."""

    value: complex
    slope: complex = 0.0

    def __neg__(self) -> "_Dual":
        return _Dual(-self.value, -self.slope)

    def __add__(self, other: "_Dual") -> "_Dual":
        return _Dual(self.value + other.value, self.slope + other.slope)

    def __sub__(self, other: "_Dual") -> "_Dual":
        return self + -other

    def __mul__(self, other: "_Dual") -> "_Dual":
        return _Dual(self.value * other.value, self.slope * other.value + self.value * other.slope)

    def __truediv__(self, other: "_Dual") -> "_Dual":
        quotient = self.value / other.value
        return _Dual(quotient, (self.slope - quotient * other.slope) / other.value)

    def __pow__(self, other: "_Dual") -> "_Dual":
        value = self.value**other.value
        if other.slope == 0:
            return _Dual(value, other.value * self.value ** (other.value - 1) * self.slope)
        logarithm = cmath.log(self.value)
        return _Dual(value, value * (other.slope * logarithm + other.value * self.slope / self.value))


def _function(
    call: Callable[[complex], complex], slope: Callable[[complex], complex]
) -> Callable[[_Dual], _Dual]:
    return lambda x: _Dual(call(x.value), slope(x.value) * x.slope)


_FUNCTIONS: dict[str, Callable[[_Dual], _Dual]] = {
    "sin": _function(cmath.sin, cmath.cos),
    "cos": _function(cmath.cos, lambda z: -cmath.sin(z)),
    "tan": _function(cmath.tan, lambda z: 1 + cmath.tan(z) ** 2),
    "exp": _function(cmath.exp, cmath.exp),
    "log": _function(cmath.log, lambda z: 1 / z),
    "ln": _function(cmath.log, lambda z: 1 / z),
    "sqrt": _function(cmath.sqrt, lambda z: 0.5 / cmath.sqrt(z)),
    "asin": _function(cmath.asin, lambda z: 1 / cmath.sqrt(1 - z * z)),
    "acos": _function(cmath.acos, lambda z: -1 / cmath.sqrt(1 - z * z)),
    "atan": _function(cmath.atan, lambda z: 1 / (1 + z * z)),
    "sinh": _function(cmath.sinh, cmath.cosh),
    "cosh": _function(cmath.cosh, cmath.sinh),
    "tanh": _function(cmath.tanh, lambda z: 1 - cmath.tanh(z) ** 2),
}


_Powers = tuple[tuple[str, int], ...]  # x**2 * y is (("x", 2), ("y", 1))


@dataclass(frozen=True, slots=True)
class _Sum:
    """A sum of monomials: a map from powers of variables to coefficients, none of them 0.

    A product of sums is refused: multiplying it out is what the problem asks for.
    """

    terms: Mapping[_Powers, Fraction]

    def __neg__(self) -> "_Sum":
        return _Sum({powers: -factor for powers, factor in self.terms.items()})

    def __add__(self, other: "_Sum") -> "_Sum":
        terms = dict(self.terms)
        for powers, factor in other.terms.items():
            terms[powers] = terms.get(powers, Fraction(0)) + factor
        return _Sum({powers: factor for powers, factor in terms.items() if factor})

    def __sub__(self, other: "_Sum") -> "_Sum":
        return self + -other

    def __mul__(self, other: "_Sum") -> "_Sum":
        (powers, factor), rest = other.monomial(), self
        if powers and len(self.terms) > 1:
            (powers, factor), rest = self.monomial(), other
        return _Sum({_join(powers, key): factor * value for key, value in rest.terms.items() if factor})

    def __truediv__(self, other: "_Sum") -> "_Sum":
        return self * _Sum({(): 1 / other.number()})

    def __pow__(self, other: "_Sum") -> "_Sum":
        exponent, (powers, factor) = other.number(), self.monomial()
        if exponent not in range(_MAX_EXPONENT + 1) or abs(factor) > _MAX_BASE:
            raise ValueError("a power that no problem needs")
        terms = {tuple((name, power * int(exponent)) for name, power in powers if exponent): factor**exponent}
        return _Sum({key: Fraction(value) for key, value in terms.items() if value})

    def monomial(self) -> tuple[_Powers, Fraction]:
        """Return the only term; an empty sum is the term 0."""
        if len(self.terms) > 1:
            raise ValueError("a product of sums")
        return next(iter(self.terms.items()), ((), Fraction(0)))

    def number(self) -> Fraction:
        """Return the value of a sum without variables."""
        powers, factor = self.monomial()
        if powers:
            raise ValueError("a variable where a number belongs")
        return factor


def _join(left: _Powers, right: _Powers) -> _Powers:
    """Return the powers of the product of two monomials."""
    powers = dict(left)
    for name, power in right:
        powers[name] = powers.get(name, 0) + power
    return tuple(sorted(powers.items()))


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
    return all(_agree(answer, wanted, variable, point) for point in _POINTS)


def _agree(answer: ast.expr, wanted: ast.expr, variable: str, point: complex) -> bool:
    constants = {name: _Dual(value) for name, value in _CONSTANTS.items()}
    names = {**constants, **_FUNCTIONS, variable: _Dual(point, 1.0)}
    derivative = _evaluated(answer, names, _number).slope
    expected = _evaluated(wanted, names, _number).value
    return bool(abs(derivative - expected) <= _TOLERANCE * (1 + abs(expected)))


def _number(number: float) -> _Dual:
    # Never a Python integer: its powers can become arbitrarily large.
    return _Dual(complex(number))


def polynomial(text: str) -> Mapping[_Powers, Fraction]:
    """Read a sum of monomials, in any order and with any one-letter variables, as coefficients by powers.

    Raises:
        ValueError: the text is not such a sum, or an exponent is above 99.
        ArithmeticError: it divides by zero.
    """
    tree = _parsed(text, _FORMULA)
    letters = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and len(node.id) == 1}
    names = {letter: _Sum({((letter, 1),): Fraction(1)}) for letter in letters}
    total: _Sum = _evaluated(tree, names, lambda number: _Sum({(): Fraction(number)} if number else {}))
    return total.terms


def literal(text: str) -> Any:
    """Read Python text that consists of lists, tuples, whole numbers and plain strings.

    Raises:
        ValueError: the text is anything else.
    """
    return ast.literal_eval(_parsed(text, _LIST))


def _parsed(text: str, tokens: re.Pattern[str]) -> ast.expr:
    """Parse a text that consists of the given tokens only."""
    text = text.strip()
    if not tokens.fullmatch(text):
        raise ValueError("a character, or a number, that does not belong there")
    try:
        return ast.parse(text, mode="eval").body
    except (SyntaxError, RecursionError, MemoryError):  # the last two if it is nested deeply
        raise ValueError("not a formula") from None


def _evaluated(tree: ast.expr, names: Mapping[str, Any], number: Callable[[float], Any]) -> Any:
    try:
        return _value(tree, names, number)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _value(node: ast.expr, names: Mapping[str, Any], number: Callable[[float], Any]) -> Any:
    """Evaluate a tree, in the arithmetic of the values that ``names`` and ``number`` give."""
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return number(value)
        case ast.Name(id=name) if name in names and not callable(names[name]):
            return names[name]
        case ast.UnaryOp(op=sign, operand=operand) if type(sign) in _OPERATORS:
            return _OPERATORS[type(sign)](None, _value(operand, names, number))
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _OPERATORS:
            return _OPERATORS[type(sign)](_value(left, names, number), _value(right, names, number))
        case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if callable(names.get(name)):
            return names[name](_value(argument, names, number))
    raise ValueError("not a formula")
