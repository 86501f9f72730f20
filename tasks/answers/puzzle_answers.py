"""What a puzzle's answer is worth: reasoning-gym's graders, made safe for text that a model wrote.

Some of the library's graders run the answer as Python code, or loop as often as a number in it says. Here no
answer is run, and every grade takes bounded time. An answer earns 0 if it is too long, or does not match its
puzzle's pattern in ``_ADMITTED``. The graders in ``_GRADERS`` replace those of the library.
"""

import contextlib
import io
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from es_lightning.tasks.answers import formula
from es_lightning.tasks.answers.arithmetic import evaluate
from es_lightning.tasks.answers.tags import last_block

_SPARE_CHARS = 1_000
_CHARS_WITHOUT_REFERENCE = 2_000
# The library compares JSON texts as trees; the time grows with the lengths and the number of brackets.
_CODEIO_COST = 60_000
_CODEIO_LEAST = 100


# On other texts, the library would repeat a move as often as the number after it says (the first two), expand
# 1e999999999 to a fraction, warn of a matrix without numbers, or try every truth value of every variable.
_ADMITTED = {
    "rubiks_cube": re.compile(r"(?:[^\d\s]++[1-3]?(?:\s++|$)){0,400}+"),
    "rush_hour": re.compile(r"(?:\D|\d{1,2}(?!\d))*+"),
    "coin_flip": re.compile(r"[\d.,/+\- ]*+(?:[eE][+-]?\d{1,2})?", re.ASCII),
    "pool_matrix": re.compile(r"(?=\D*+\d)[\d\s.eE+-]*+", re.ASCII),
    "propositional_logic": re.compile(r"(?:[∧∨¬→↔()\s]|[A-Z](?!\s*[A-Z])){0,400}+", re.ASCII),
}


def last_answer(text: str) -> str | None:
    """Return the content of the last complete answer block, stripped, in linear time."""
    block = last_block(text, "answer")
    return None if block is None else block.strip()


def grade(dataset: Any, entry: Mapping[str, Any], answer: str | None) -> float:
    """Return what an answer is worth, from 0 to 1.

    Args:
        dataset: the library's data set that made the entry.
        entry: the problem, as the library gives it.
        answer: what the model answered, or None if it gave no answer.
    """
    if answer is None:
        return 0.0
    reference = entry["answer"]
    puzzle = entry["metadata"]["source_dataset"]
    if isinstance(reference, str) and answer == reference.strip():
        answer = reference  # some graders compare white space too
    elif not _admitted(puzzle, answer, reference):
        return 0.0
    try:
        score = float(_GRADERS.get(puzzle, _by_library)(dataset, entry, answer))
    except Exception:  # whatever the library raises here, the cause is malformed text of the model
        return 0.0
    return min(max(score, 0.0), 1.0) if not math.isnan(score) else 0.0


def _admitted(puzzle: str, answer: str, reference: object) -> bool:
    """Whether the library may grade this text; one that could keep it busy for long is refused."""
    limit = 4 * len(reference) + _SPARE_CHARS if isinstance(reference, str) else _CHARS_WITHOUT_REFERENCE
    pattern = _ADMITTED.get(puzzle)
    return len(answer) <= limit and (pattern is None or pattern.fullmatch(answer) is not None)


def _by_library(dataset: Any, entry: Mapping[str, Any], answer: str) -> float:
    with contextlib.redirect_stdout(io.StringIO()):  # one grader prints what is wrong with a move
        score: float = dataset.score_answer(answer, entry)
    return score


# Our own graders. Each docstring begins with the library's rule, and says where ours differs.


def _countdown(_: Any, entry: Mapping[str, Any], answer: str) -> float:
    """Return 1 if the given numbers make the target, 0.05 for another expression, else 0.01.

    The answer is read by exact arithmetic, which refuses powers and decimals. SymPy's parser would run it.
    """
    result = evaluate(answer)
    if result is None:
        return 0.01
    metadata = entry["metadata"]
    right = result.value == metadata["target"] and sorted(result.numbers) == sorted(metadata["numbers"])
    return 1.0 if right else 0.05


def _puzzle24(_: Any, entry: Mapping[str, Any], answer: str) -> float:
    """Return 1 if the given numbers make 24, else 0.01.

    The library accepts any four small numbers, so one expression would solve every problem.
    """
    result = evaluate(answer)
    numbers = sorted(entry["metadata"]["numbers"])
    return 1.0 if result is not None and result.value == 24 and sorted(result.numbers) == numbers else 0.01


def _halting(_: Any, entry: Mapping[str, Any], answer: str) -> float:
    """Return 1 for the right one of True and False, else 0; the library gives 1 for any text at all."""
    return float(answer.lower() == entry["answer"].lower())


def _integral(_: Any, entry: Mapping[str, Any], answer: str) -> float:
    """Return 1 for an antiderivative of the integrand, else 0; by values, not symbolic simplification."""
    metadata = entry["metadata"]
    return float(formula.is_antiderivative(answer, metadata["integrand"], metadata["variable"]))


def _product(_: Any, entry: Mapping[str, Any], answer: str) -> float:
    """Return 1 for the same sum of monomials, in any order, else 0."""
    return float(formula.polynomial(answer) == formula.polynomial(entry["answer"]))


def _codeio(dataset: Any, entry: Mapping[str, Any], answer: str) -> float:
    """Return 1 for the same JSON; the library grades other texts, if they are short enough to be fast."""
    reference = entry["answer"].strip()
    brackets = sum(text.count(bracket) for text in (answer, reference) for bracket in "[{")
    if len(answer) * max(len(reference), _CODEIO_LEAST) * brackets <= _CODEIO_COST:
        return _by_library(dataset, entry, answer)
    return float(answer == reference or json.loads(answer) == json.loads(reference))


def _list_grader(
    partial: float, render: Callable[[Any], str]
) -> Callable[[Any, Mapping[str, Any], str], float]:
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


_GRADERS: dict[str, Callable[[Any, Mapping[str, Any], str], float]] = {
    "binary_matrix": _list_grader(0.1, _matrix),
    "codeio": _codeio,
    "countdown": _countdown,
    "game_of_life_halting": _halting,
    "intermediate_integration": _integral,
    "n_queens": _list_grader(0.5, _matrix),
    "polynomial_multiplication": _product,
    "puzzle24": _puzzle24,
    "simple_integration": _integral,
    "spiral_matrix": _list_grader(0.1, _row),
    "string_insertion": _list_grader(0.1, "".join),
}
