"""Our own graders of puzzles, for those where reasoning-gym's would run text, or pay for a wrong answer.

Each docstring begins with what the grader gives, and says why it is not the library's. ``grade`` of
``puzzles.answers`` has given 1 already to the reference itself, however it is written.
"""

import contextlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from typing import Any

from es_lightning.tasks.puzzles import formula
from es_lightning.tasks.puzzles.text import decimal, said_number

Grader = Callable[[Any, Mapping[str, Any], str], float]

# The library compares JSON texts as trees; the time grows with the lengths and the number of brackets.
_CODEIO_COST = 60_000
_CODEIO_LEAST = 100
_IN_FORM = 0.05  # what the library gives for a wrong answer in the right form


def only_the_answer(_: Any, __: Mapping[str, Any], ___: str) -> float:
    """Return 0: only the reference earns something.

    The library gives the share of the answer's characters that the reference has, if it occurs in it:
    ``Yes No`` would earn 0.45 whatever is asked, and ``-62`` would earn 0.67 where 62 is right. Near numbers
    earn nothing either: a number from the middle of the range is never far from any answer.
    """
    return 0.0


def by_library(dataset: Any, entry: Mapping[str, Any], answer: str) -> float:
    """Return what the library gives."""
    score: float = dataset.score_answer(answer, entry)
    return score


def countdown(_: Any, entry: Mapping[str, Any], answer: str) -> float:
    """Return 1 if the given numbers make the target, 0.05 for another expression, else 0.01.

    The answer is read by exact arithmetic, which refuses powers and decimals. SymPy's parser would run it.
    """
    result = formula.evaluate(answer)
    if result is None:
        return 0.01
    metadata = entry["metadata"]
    right = result.value == metadata["target"] and sorted(result.numbers) == sorted(metadata["numbers"])
    return 1.0 if right else _IN_FORM


def puzzle24(_: Any, entry: Mapping[str, Any], answer: str) -> float:
    """Return 1 if the given numbers make 24, else 0.01.

    The library accepts any four small numbers, so one expression would solve every problem.
    """
    result = formula.evaluate(answer)
    numbers = sorted(entry["metadata"]["numbers"])
    return 1.0 if result is not None and result.value == 24 and sorted(result.numbers) == numbers else 0.01


def integral(_: Any, entry: Mapping[str, Any], answer: str) -> float:
    """Return 1 for an antiderivative of the integrand, else 0; by values, not symbolic simplification."""
    metadata = entry["metadata"]
    return float(formula.is_antiderivative(answer, metadata["integrand"], metadata["variable"]))


def product(_: Any, entry: Mapping[str, Any], answer: str) -> float:
    """Return 1 for the same sum of monomials, in any order, else 0; SymPy's parser would run the text."""
    return float(formula.polynomial(answer) == formula.polynomial(entry["answer"]))


def codeio(dataset: Any, entry: Mapping[str, Any], answer: str) -> float:
    """Return 1 for the same JSON; the library grades other texts, if they are short enough to be fast."""
    reference = entry["answer"].strip()
    with contextlib.suppress(ValueError):
        if json.loads(answer) == json.loads(reference):
            return 1.0
    json.loads(answer[answer.index("{") : answer.rindex("}") + 1])  # else the library looks for the reference
    brackets = sum(text.count(bracket) for text in (answer, reference) for bracket in "[{")
    short = len(answer) * max(len(reference), _CODEIO_LEAST) * brackets <= _CODEIO_COST
    return by_library(dataset, entry, answer) if short else 0.0


def coin_flip(_: Any, entry: Mapping[str, Any], answer: str) -> float:
    """Return 1 for the probability to within 0.0001 and 5 percent of itself, else 0.

    The library pays for the digits that the answer begins with: 0 would earn 0.92 on average. Without the
    5 percent, 0 would be right wherever the probability is small.
    """
    percent = answer.removesuffix("%").removesuffix("\\")
    top, _slash, bottom = percent.partition("/")
    number, divisor = said_number(top), decimal(bottom or "1")
    if number is None or not divisor:
        return 0.0
    said = number / divisor / (100 if percent != answer else 1)
    rational = entry["metadata"]["rational"]
    right = Fraction(rational["numerator"], rational["denominator"])
    return float(abs(said - right) <= min(Fraction(1, 10_000), right / 20))


_COMPLEX = re.compile(
    r"(?P<real>[+-]?[\d.]+(?![\d.ij*]))?(?:(?P<sign>[+-]?)(?P<imaginary>[\d.]*)\*?[ij])?", re.ASCII
)


def complex_number(_: Any, entry: Mapping[str, Any], answer: str) -> float:
    """Return 1 for the right number, else 0; the library takes nan for every number, and pays near ones."""
    text = answer.split("=")[-1].replace(" ", "").strip("()").lower()
    match = _COMPLEX.fullmatch(text)
    if not text or match is None or (match["real"] and match["imaginary"] is not None and not match["sign"]):
        return 0.0
    imaginary = "0" if match["imaginary"] is None else match["sign"] + (match["imaginary"] or "1")
    return float([Fraction(match["real"] or "0"), Fraction(imaginary)] == [*entry["metadata"]["result"]])


def roots(_: Any, entry: Mapping[str, Any], answer: str) -> float:
    """Return 1 for all roots and no more, to within 0.0001, in any order, else 0.

    The library pays for near roots and for some of them, and 0 is a root of many of its equations.
    """
    parts = re.split(r",|;|\band\b|\bor\b", answer.strip("[](){}"))
    said = sorted(root for part in parts if (root := said_number(part)) is not None)
    right = sorted(Fraction(str(root)) for root in entry["metadata"]["real_solutions"])
    if not len(parts) == len(said) == len(right):
        return 0.0
    pairs = zip(said, right, strict=True)
    return float(all(abs(root - wanted) <= Fraction(1, 10_000) for root, wanted in pairs))


def power(_: Any, entry: Mapping[str, Any], answer: str) -> float:
    """Return 1 for the right number to three digits, 0.01 for another number, else 0.

    The library reads no thousands separators, and gives 0.01 for any text.
    """
    said, right = said_number(answer), said_number(entry["answer"])
    if said is None or right is None:
        return 0.0
    return 1.0 if f"{float(said):.2e}" == f"{float(right):.2e}" else 0.01


_DURATION = re.compile(
    r"(?:(?P<days>-?\d{1,6}) ?(?:days?)?)?(?:(?:^|, ?| )(?P<clock>\d{1,3}:\d\d(?::\d\d(?:\.\d{1,6})?)?))?",
    re.ASCII | re.IGNORECASE,
)


def duration(_: Any, entry: Mapping[str, Any], answer: str) -> float:
    """Return 1 for the right duration, else 0.

    The library pays for near ones: 1:1 would earn 0.47 on average.
    """
    said, right = _seconds(answer), _seconds(entry["answer"])
    return float(said is not None and said == right)


def _seconds(text: str) -> Fraction | None:
    match = _DURATION.fullmatch(text.strip())
    if match is None or not any(match.groups()):
        return None
    hours, minutes, seconds = [*map(Fraction, (match["clock"] or "0:0").split(":")), Fraction(0)][:3]
    return ((Fraction(match["days"] or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


_FACTOR = re.compile(r"(\d{1,12})(?:(?:\^|\*\*)\{?(\d{1,2})\}?)?", re.ASCII)


def prime_factors(_: Any, entry: Mapping[str, Any], answer: str) -> float:
    """Return 1 for the prime factors, in any order and maybe as powers, else 0.

    The library gives 0.5 for any factors of the number, so for the number itself, copied from the question.
    """
    said: list[int] = []
    for part in re.split(r"\u00d7|\\times|\\cdot|\u00b7|x|(?<!\*)\*(?!\*)", answer):
        factor = _FACTOR.fullmatch(part.strip())
        if factor is None:
            return 0.0
        said += [int(factor[1])] * int(factor[2] or 1)
    return float(sorted(said) == sorted(entry["metadata"]["factors"]))


def calendar(dataset: Any, entry: Mapping[str, Any], answer: str) -> float:
    """Return 0 where a number is asked for, since near numbers earn nothing; else what the library gives."""
    return 0.0 if decimal(entry["answer"]) is not None else by_library(dataset, entry, answer)


def game_of_life(_: Any, entry: Mapping[str, Any], answer: str) -> float:
    """Return 1 for the right grid, else 0.9 of the live cells that both have among those that one has.

    The library gives the share of right cells: a grid without life would earn 0.96 on average.
    """
    said, right = json.loads(answer), json.loads(entry["answer"])
    if said == right:
        return 1.0
    living, alive = (
        {(i, j) for i, row in enumerate(grid) for j, cell in enumerate(row) if cell == 1}
        for grid in (said, right)
    )
    return 0.9 * len(living & alive) / len(living | alive) if living else 0.0


def tsumego(_: Any, __: Mapping[str, Any], answer: str) -> float:
    """Return 0.05 for a wrong point of the board, else 0.01; the right one among others earns no more."""
    return _IN_FORM if re.fullmatch(r"[A-Z]\d{1,2}", answer.strip().upper(), re.ASCII) else 0.01


def propositional_logic(dataset: Any, entry: Mapping[str, Any], answer: str) -> float:
    """Return what the library gives, but 0.05 for a premise said again, and for what is always true.

    The library gives 1 for a premise, which can be copied, and 0.25 for "P or not P", which needs none.
    """
    bare = _without_brackets(answer)
    if bare in map(_without_brackets, entry["metadata"]["premises"]):
        return _IN_FORM
    score = by_library(dataset, entry, answer)
    return _IN_FORM if score == 0.25 and len(bare) > 1 else score


def _without_brackets(expression: str) -> str:
    return re.sub(r"[\s()]", "", expression)


def list_grader(partial: float, render: Callable[[Any], str]) -> Grader:
    """Make a grader that gives 1 for a right text, and ``partial`` for a Python list that renders to one.

    Args:
        partial: what the library gives for such a list, which it would run as code.
        render: turns the list into the text that the puzzle asks for.
    """

    def grader(_: Any, entry: Mapping[str, Any], answer: str) -> float:
        right = entry["metadata"].get("valid_answers") or [entry["answer"].strip()]
        if answer in right:
            return 1.0
        return partial if render(formula.literal(answer)) in right else 0.0

    return grader


def _row(items: Iterable[Any]) -> str:
    return " ".join(map(str, items))


def _matrix(rows: Iterable[Iterable[Any]]) -> str:
    return "\n".join(map(_row, rows))


GRADERS: dict[str, Grader] = {
    "binary_matrix": list_grader(0.1, _matrix),
    "calendar_arithmetic": calendar,
    "chain_sum": only_the_answer,
    "codeio": codeio,
    "coin_flip": coin_flip,
    "complex_arithmetic": complex_number,
    "countdown": countdown,
    "game_of_life": game_of_life,
    # The library gives 1 for any text at all: both of its answers are texts, which are true.
    "game_of_life_halting": only_the_answer,
    # The library reads the first digits: 28 in 28,080, and 5 in -5.
    "gsm_symbolic": only_the_answer,
    "intermediate_integration": integral,
    "manipulate_matrix": only_the_answer,
    "n_queens": list_grader(0.5, _matrix),
    "polynomial_equations": roots,
    "polynomial_multiplication": product,
    "power_function": power,
    "prime_factorization": prime_factors,
    "products": only_the_answer,
    "propositional_logic": propositional_logic,
    "puzzle24": puzzle24,
    "rectangle_count": only_the_answer,
    "simple_integration": integral,
    "spiral_matrix": list_grader(0.1, _row),
    "string_insertion": list_grader(0.1, "".join),
    "time_intervals": duration,
    "tsumego": tsumego,
}
