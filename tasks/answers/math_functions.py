"""Arithmetic on values that are exact fractions where possible, and complex numbers elsewhere."""

import cmath
import math
from collections.abc import Callable
from fractions import Fraction

Value = Fraction | complex
Values = tuple[Value, ...]

MAX_FACTORIAL = 300
MAX_EXPONENT = 1000
MAX_BITS = 20_000

FUNCTIONS: dict[str, Callable[[complex], complex]] = {
    "\\sin": cmath.sin,
    "\\cos": cmath.cos,
    "\\tan": cmath.tan,
    "\\cot": lambda x: 1 / cmath.tan(x),
    "\\sec": lambda x: 1 / cmath.cos(x),
    "\\csc": lambda x: 1 / cmath.sin(x),
    "\\arcsin": cmath.asin,
    "\\arccos": cmath.acos,
    "\\arctan": cmath.atan,
    "\\sinh": cmath.sinh,
    "\\cosh": cmath.cosh,
    "\\tanh": cmath.tanh,
    "\\exp": cmath.exp,
    "\\ln": cmath.log,
    "\\log": lambda x: cmath.log(x) / cmath.log(10),
}
INVERSES = {"\\sin": cmath.asin, "\\cos": cmath.acos, "\\tan": cmath.atan}


def each(function: Callable[..., Value], *operands: Values) -> Values:
    """Apply a function at each point."""
    return tuple(_bounded(function(*point)) for point in zip(*operands, strict=True))


def _bounded(value: Value) -> Value:
    """Return the value; a fraction that has become too long becomes a floating-point number."""
    if (
        isinstance(value, Fraction)
        and value.numerator.bit_length() + value.denominator.bit_length() > MAX_BITS
    ):
        return complex(value)
    return value


def plus(left: Value, right: Value) -> Value:
    """The sum."""
    return left + right


def minus(left: Value, right: Value) -> Value:
    """The difference."""
    return left - right


def times(left: Value, right: Value) -> Value:
    """The product."""
    return left * right


def size(value: Value) -> Value:
    """The absolute value."""
    return abs(value) if isinstance(value, Fraction) else complex(abs(value))


def over(left: Value, right: Value) -> Value:
    """The quotient."""
    return left / right


def real(value: Value) -> Fraction | float:
    """Return a value without its imaginary part, which must be no more than a rounding error."""
    if isinstance(value, Fraction):
        return value
    if abs(value.imag) > 1e-12:
        raise ValueError("not real")
    return value.real


def power(base: Value, exponent: Value) -> Value:
    """Return a power, exact if it is a fraction of moderate size."""
    if isinstance(base, Fraction) and isinstance(exponent, Fraction) and exponent.denominator == 1:
        size = base.numerator.bit_length() + base.denominator.bit_length()
        if abs(exponent) <= MAX_EXPONENT and size * abs(exponent) <= MAX_BITS:
            return base**exponent.numerator
    return complex(complex(base) ** complex(exponent))


def root(value: Value, degree: Value) -> Value:
    """Return a root; for a negative number and an odd degree, the real one."""
    if degree == 2:
        return cmath.sqrt(value)
    if isinstance(value, Fraction) and value < 0 and isinstance(degree, Fraction) and degree % 2 == 1:
        return -power(-value, 1 / degree)
    return power(value, 1 / degree)


def factorial(value: Value) -> Value:
    """Return a factorial, by the gamma function if the number is not whole."""
    number = real(value)
    if number > MAX_FACTORIAL:
        raise ValueError("too large")
    if isinstance(number, Fraction) and number.denominator == 1 and number >= 0:
        return Fraction(math.factorial(number.numerator))
    return complex(math.gamma(float(number) + 1))


def binomial(top: Value, bottom: Value) -> Value:
    """A binomial coefficient."""
    rest = factorial(bottom) * factorial(top - bottom)
    return factorial(top) / rest
