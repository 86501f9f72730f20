"""Exact value of an arithmetic expression that a model wrote, in bounded time and without running code.

The shunting-yard algorithm (Dijkstra 1961) puts infix text into postfix order, which runs on a stack of
fractions. There is no recursion and no floating point. The length cap bounds the work and the size of every
intermediate number.
"""

import operator
import re
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

MAX_CHARS = 256
MAX_NUMBER = 999_999_999

# A number token has at most nine digits, and a leading zero is a token of its own. The rest of "007", or of a
# longer number, is then a second number without an operator before it, so the expression is malformed. Any
# other character that is not ASCII white space becomes a token that no rule accepts.
_TOKEN = re.compile(r"[1-9][0-9]{0,8}|\S", re.ASCII)
_DIGITS = frozenset("0123456789")

_NEGATE = "negate"
_PRECEDENCE = {"(": 0, "+": 1, "-": 1, "*": 2, "/": 2, _NEGATE: 3}
OPERATIONS: dict[str, Callable[[Fraction, Fraction], Fraction]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}


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
    if len(expression) > MAX_CHARS:
        return None
    postfix = _to_postfix(_TOKEN.findall(expression))
    if postfix is None:
        return None
    try:
        return Evaluated(_run(postfix), tuple(int(token) for token in postfix if token[0] in _DIGITS))
    except ZeroDivisionError:
        return None


def _to_postfix(tokens: list[str]) -> list[str] | None:
    """Reorder infix tokens so that operators follow their operands; None if they are malformed."""
    output: list[str] = []
    waiting: list[str] = []
    operand_next = True
    for token in tokens:
        if operand_next:
            if token[0] in _DIGITS:
                output.append(token)
                operand_next = False
            elif token in ("(", "-"):
                waiting.append(_NEGATE if token == "-" else token)
            else:
                return None
        elif token == ")":
            _release(waiting, output, above=0)
            if not waiting:
                return None
            waiting.pop()
        elif token in OPERATIONS:
            # Operators of equal precedence are released too: all of them associate to the left.
            _release(waiting, output, above=_PRECEDENCE[token] - 1)
            waiting.append(token)
            operand_next = True
        else:
            return None
    if operand_next or "(" in waiting:
        return None
    return output + waiting[::-1]


def _release(waiting: list[str], output: list[str], above: int) -> None:
    """Move waiting operators to the output, last first, while their precedence is higher than ``above``."""
    while waiting and _PRECEDENCE[waiting[-1]] > above:
        output.append(waiting.pop())


def _run(postfix: list[str]) -> Fraction:
    """Evaluate well-formed postfix tokens.

    Raises:
        ZeroDivisionError: a divisor is zero.
    """
    stack: list[Fraction] = []
    for token in postfix:
        if token == _NEGATE:
            stack.append(-stack.pop())
        elif token in OPERATIONS:
            right = stack.pop()
            stack.append(OPERATIONS[token](stack.pop(), right))
        else:
            stack.append(Fraction(int(token)))
    return stack.pop()
