"""Exact value of an arithmetic expression that a model wrote, in bounded time and without running code.

Python's own parser turns the text into a syntax tree, which is never compiled; its values are fractions. The
length cap bounds the work, the depth of the tree and the size of every intermediate number.
"""

import ast
import operator
import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import permutations
from typing import NamedTuple

MAX_CHARS = 256
MAX_NUMBER = 999_999_999
OPERATIONS: dict[str, Callable[[Fraction, Fraction], Fraction]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}
_SIGNS: dict[type[ast.operator], str] = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}
# Whole numbers of at most nine digits and without leading zeros; neither ** nor //.
_TOKENS = re.compile(r"(?:(?:0|[1-9]\d{0,8}+)(?!\d)|\*(?!\*)|/(?!/)|[-+()\s])*+", re.ASCII)


class Evaluated(NamedTuple):
    """A well-formed expression.

    Args:
        value: its exact value.
        numbers: the numbers written in it, from left to right, without signs.
    """

    value: Fraction
    numbers: tuple[int, ...]


def evaluate(expression: str) -> Evaluated | None:
    """Evaluate whole numbers combined by ``+ - * /`` and parentheses, with the usual precedence.

    A minus sign may stand before an operand; it makes no positive value possible that the binary operators
    alone cannot reach. Refused: other operators (``**``, ``//``), a plus sign before an operand,
    juxtaposition such as ``2(3)``, decimals, leading zeros, digits other than 0 to 9, numbers above
    ``MAX_NUMBER``, and texts of more than ``MAX_CHARS`` characters.

    Args:
        expression: any text at all.

    Returns:
        The value and the numbers used, or None if the text is refused, malformed or divides by zero.
    """
    if len(expression) > MAX_CHARS or not _TOKENS.fullmatch(expression):
        return None
    try:
        tree = ast.parse(" ".join(expression.split()), mode="eval")
        return Evaluated(_value(tree.body), tuple(map(int, re.findall(r"\d+", expression))))
    except (SyntaxError, ValueError, ZeroDivisionError):
        return None


def expression_for(numbers: Sequence[int], is_right: Callable[[Fraction], bool]) -> str | None:
    """Search for an expression that uses every number exactly once and whose value is right.

    All ways to join two numbers are tried, then all ways to go on: at most 10 ms for four numbers, and
    about 100 times as long for each further one.

    Args:
        numbers: one or more.
        is_right: tells whether an exact value is the one that is wanted.

    Returns:
        An expression with parentheses around each operation but the last, or None if there is none.
    """
    found = _joined([(Fraction(number), str(number)) for number in numbers], is_right)
    return found[1:-1] if found is not None and len(numbers) > 1 else found


def _joined(parts: Sequence[tuple[Fraction, str]], is_right: Callable[[Fraction], bool]) -> str | None:
    """Join parts, each a value and its text, until one is left whose value is right."""
    if len(parts) == 1:
        return parts[0][1] if is_right(parts[0][0]) else None
    for i, j in permutations(range(len(parts)), 2):
        (left, left_text), (right, right_text) = parts[i], parts[j]
        rest = [part for k, part in enumerate(parts) if k not in (i, j)]
        for sign, operate in OPERATIONS.items():
            is_twin = i > j and sign in "+*"  # the same as with i and j exchanged
            if not is_twin and not (sign == "/" and right == 0):
                whole = operate(left, right), f"({left_text} {sign} {right_text})"
                if found := _joined([*rest, whole], is_right):
                    return found
    return None


def _value(node: ast.expr) -> Fraction:
    match node:
        case ast.Constant(value=int(number)):
            return Fraction(number)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _SIGNS:
            return OPERATIONS[_SIGNS[type(sign)]](_value(left), _value(right))
    raise ValueError("not an operation that is allowed here")
