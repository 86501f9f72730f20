"""Search for an expression with a wanted value, which is the right answer of a Countdown problem."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import permutations

from es_lightning.tasks.puzzles.formula import OPERATIONS


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
