"""Countdown: make a target from given numbers (arXiv 2509.24372, 2601.20861, 2605.30148).

The problems are generated, or read from a file of your own.
"""

import hashlib
import json
import random
import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from es_lightning.errors import UsageError
from es_lightning.records import Prompt
from es_lightning.task import Task
from es_lightning.tasks.answers.tags import format_score, last_block
from es_lightning.tasks.puzzles.formula import MAX_NUMBER, OPERATIONS, evaluate
from es_lightning.tasks.puzzles.search import expression_for

_SPLITS = ("train", "val", "test")
_DRAWN = range(1, 100)
_TARGETS = range(10, 101)
_MAX_SOLVED = 5  # numbers; a problem of six may keep the search busy for minutes
_MAX_DRAWS = 20_000  # per problem; six numbers need the most, 230 on average

_TEXT = (
    "Use the numbers {numbers} to make {target}. Every number must be used exactly once. You may add (+), "
    "subtract (-), multiply (*) and divide (/), and group with parentheses. Reason inside <think> </think> "
    "tags, then write the final expression, and nothing else, inside <answer> </answer> tags. For example, "
    "to make 30 from 2, 6 and 7 you would end with <answer>(7 - 2) * 6</answer>"
)
_PREFILL = "Let me solve this step by step.\n<think>"
_ROW = '{"numbers": [3, 7, 8], "target": 32}'
# A target that is not whole is often a rounded one, such as 266.6666666666667: it stands for what is nearer.
_ROUNDED = Fraction(1, 100_000)
_DECIMAL = re.compile(r"-?\d{1,12}(?:\.\d{1,20})?", re.ASCII)


class _Problem(NamedTuple):
    numbers: tuple[int, ...]
    target: int | str  # a text if it is not whole, such as "98.5"

    @property
    def key(self) -> str:
        """Identity of the problem, whatever the order of its numbers."""
        return f"{sorted(self.numbers)}={self.target}"


class Countdown(Task):
    """Combine three or four numbers, each exactly once, into an expression that equals the target.

    Reward per completion: ``answer + 0.1 * format``, from 0 to 1.1; higher is better. The prefill is
    graded as part of the reply, so its opening think tag counts. ``answer`` is 1.0 if the last answer block
    is an expression that uses exactly the given numbers and whose exact value is the target, else 0.0. One
    ``= target`` may follow the expression, since it adds nothing. ``format`` is 1.0 for a think block
    followed by an answer block, 0.5 for an answer block without a think block before it, 0.1 for a think
    block alone, else 0.0. The paper's grader gives 1.0 if a line break and nothing else stands between the
    blocks, and nothing after them, else 0.6 for both. The prompt here does not ask for that, so it costs
    nothing.

    Generated problems always have a solution: numbers from 1 to 99 are combined at random until the result
    is a whole number from 10 to 100. A set of numbers always belongs to the same split, whatever the target,
    the seed and the sizes. A larger split begins with the problems of a smaller one.

    Args:
        n_train: number of problems to generate for the train split.
        n_val: the same for the val split.
        n_test: the same for the test split.
        numbers: how many numbers a problem may have; each count is from 2 to 6, and all are equally likely.
        seed: selects which problems are generated.
        path: JSONL file to read instead of generating, with one ``{"numbers": [3, 7, 8], "target": 32}`` per
            line, or a file ``.json`` with a list of these. The target may be a text, as in the data of the
            paper, and need not be whole: ``"98.5"`` is made by an expression whose exact value is within
            0.00001 of it, which is the paper's rule. A row may also have a ``"split"``: train, val or test. A
            row without it goes to the split of generated problems with the same numbers, which gives each
            split about a third. With a file, the options above have no effect.
        chat: whether the model's chat template is applied; otherwise the model continues the raw text.

    Raises:
        UsageError: an option is out of range, or a line of the file is not a problem; the message names it.
    """

    largest_reward = 1.1

    def __init__(
        self,
        n_train: int = 200,
        n_val: int = 200,
        n_test: int = 2000,
        numbers: Sequence[int] = (3, 4),
        seed: int = 0,
        path: str | None = None,
        chat: bool = True,
    ) -> None:
        if not numbers or not all(2 <= count <= 6 for count in numbers):
            raise UsageError(f"numbers must list counts from 2 to 6, such as [3, 4], not {list(numbers)}.")
        self.sizes = {"train": n_train, "val": n_val, "test": n_test}
        if min(self.sizes.values()) < 0:
            raise UsageError(f"n_train, n_val and n_test must be 0 or more, not {list(self.sizes.values())}.")
        self.counts = tuple(numbers)
        self.seed = seed
        self.chat = chat
        self._own = None if path is None else _read(Path(path))

    def problems(self, split: str) -> list[Prompt]:
        """Return the problems of ``train``, ``val`` or ``test``; references hold ``numbers`` and ``target``.

        Raises:
            UsageError: the split is none of the three, or there are too few different problems to fill it.
        """
        if split not in _SPLITS:
            raise UsageError(f"split must be train, val or test, not {split!r}.")
        problems = (
            self._own[split] if self._own else _generate(split, self.sizes[split], self.counts, self.seed)
        )
        return [self._prompt(f"countdown/{split}/{i}", *problem) for i, problem in enumerate(problems)]

    def _prompt(self, name: str, numbers: tuple[int, ...], target: int | str) -> Prompt:
        text = _TEXT.format(numbers=", ".join(map(str, numbers)), target=target)
        return Prompt(
            id=name,
            text=text if self.chat else f"{text}\n",
            reference={"numbers": list(numbers), "target": target},
            prefill=_PREFILL,
            chat=self.chat,
        )

    def answer(self, prompt: Prompt) -> str | None:
        """Return an expression that solves the problem, in its tags, after a think block without reasoning.

        It is found by trying all expressions; None if there is none, or there are more than five numbers.
        """
        numbers, target = prompt.reference["numbers"], prompt.reference["target"]
        if len(numbers) > _MAX_SOLVED:
            return None
        found = expression_for(numbers, lambda value: _hits(value, target))
        return None if found is None else f"</think>\n<answer>{found}</answer>"

    def reward(self, prompt: Prompt, completion: str) -> dict[str, float]:
        """Return the ``reward`` from 0 to 1.1 and its parts, ``accuracy`` (the answer) and ``format``."""
        text = prompt.prefill + completion
        numbers, target = prompt.reference["numbers"], prompt.reference["target"]
        value = _value(text, numbers, target)
        answer, form = float(value is not None and _hits(value, target)), format_score(text)
        # R = answer + 0.1 * format  (arXiv 2509.24372, 2605.30148)
        return {"reward": answer + 0.1 * form, "accuracy": answer, "format": form}

    def given_answer(self, prompt: Prompt, completion: str) -> str | None:
        """Return the value of the expression, such as ``98`` or ``197/2``; None if it breaks a rule."""
        text, problem = prompt.prefill + completion, prompt.reference
        value = _value(text, problem["numbers"], problem["target"])
        return None if value is None else str(value)


def _value(text: str, numbers: Sequence[int], target: int | str) -> Fraction | None:
    """Return the value of the last answer block; None if it is no expression of exactly these numbers.

    A block may go on with ``= `` and the target, and nothing else.
    """
    block = last_block(text, "answer")
    if block is None:
        return None
    expression, equals, claim = block.partition("=")
    if equals and claim.strip() != str(target):
        return None
    result = evaluate(expression)
    return result.value if result is not None and sorted(result.numbers) == sorted(numbers) else None


def _hits(value: Fraction, target: int | str) -> bool:
    return value == target if isinstance(target, int) else abs(value - Fraction(target)) < _ROUNDED


@lru_cache(maxsize=16)
def _generate(split: str, size: int, counts: tuple[int, ...], seed: int) -> tuple[_Problem, ...]:
    """Generate the first ``size`` distinct problems of a split, from the split's own random stream."""
    digest = hashlib.sha256(f"countdown/{seed}/{split}".encode()).digest()
    rng = random.Random(int.from_bytes(digest, "big"))
    problems: dict[str, _Problem] = {}
    while len(problems) < size:
        count = counts[_below(len(counts), rng)]
        draws = (_draw(rng, count, split) for _ in range(_MAX_DRAWS))
        problem = next((draw for draw in draws if draw is not None and draw.key not in problems), None)
        if problem is None:
            raise UsageError(
                f"problems of {count} numbers ran out after {len(problems)} of {size} in the {split} split; "
                f"lower n_{split} or ask for larger counts only."
            )
        problems[problem.key] = problem
    return tuple(problems.values())


def _split_of(numbers: Sequence[int]) -> str:
    """Return the one split that numbers belong to, in any order and for any seed: splits cannot overlap."""
    return _SPLITS[hashlib.sha256(str(sorted(numbers)).encode()).digest()[0] % 3]


def _draw(rng: random.Random, count: int, split: str) -> _Problem | None:
    """Draw numbers and join random pairs of them until one value is left, the target.

    The result is None if the numbers belong to another split, a divisor is 0, or the value is not a target.
    """
    numbers = tuple(_DRAWN[_below(len(_DRAWN), rng)] for _ in range(count))
    if _split_of(numbers) != split:
        return None
    values = [Fraction(number) for number in numbers]
    while len(values) > 1:
        left = values.pop(_below(len(values), rng))
        right = values.pop(_below(len(values), rng))
        sign = "+-*/"[_below(4, rng)]
        if sign == "/" and right == 0:
            return None
        values.append(OPERATIONS[sign](left, right))
    whole = values[0].denominator == 1 and values[0].numerator in _TARGETS
    return _Problem(numbers, values[0].numerator) if whole else None


def _below(bound: int, rng: random.Random) -> int:
    """Return a random index by ``random()``, the only method that is the same in every version of Python."""
    return int(rng.random() * bound)


def _read(path: Path) -> dict[str, list[_Problem]]:
    """Read the problems of a JSONL file by split, in the order of the file; empty lines are skipped."""
    splits: dict[str, list[_Problem]] = {split: [] for split in _SPLITS}
    place_of: dict[str, str] = {}
    for where, row in _rows(path):
        problem, split = _parse(row, f"{path} {where}")
        first = place_of.setdefault(problem.key, where)
        if first != where:
            raise UsageError(f"{path} {where} repeats the problem of {first}; remove one of the two.")
        splits[split].append(problem)
    if not place_of:
        raise UsageError(f"{path} holds no problem; write one {_ROW} per line.")
    return splits


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the place and the content of every row of a file; None for a line that is not JSON."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"path is {path}: give a JSONL file that can be read ({error.strerror}).") from None
    if path.suffix == ".json":
        rows = _parsed(data)
        if not isinstance(rows, list):
            raise UsageError(
                f"{path} is not a JSON list; write [{_ROW}, ...], or one row per line of a .jsonl."
            )
        yield from ((f"row {number}", row) for number, row in enumerate(rows, start=1))
    else:
        for number, line in enumerate(data.splitlines(), start=1):
            if line.strip():
                yield f"line {number}", _parsed(line)


def _parsed(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _parse(row: Any, where: str) -> tuple[_Problem, str]:
    """Read the problem of a row, and its split.

    Raises:
        UsageError: the row is not a problem; the message begins with ``where``.
    """
    if not isinstance(row, dict):
        raise UsageError(f"{where} is not a JSON object; write one {_ROW} per line.")
    numbers, target = row.get("numbers"), _target(row.get("target"))
    if not (isinstance(numbers, list) and 2 <= len(numbers) <= 10 and all(map(_is_number, numbers))):
        raise UsageError(f'{where}: "numbers" must list 2 to 10 whole numbers from 0 to {MAX_NUMBER}.')
    if target is None:
        raise UsageError(f'{where}: "target" must be a whole number, or a number in quotes, such as "98.5".')
    problem = _Problem(tuple(numbers), target)
    split = row.get("split", _split_of(numbers))
    if split not in _SPLITS:
        raise UsageError(f'{where}: "split" must be train, val or test, not {split!r}.')
    return problem, split


def _is_number(value: object) -> bool:
    return type(value) is int and 0 <= value <= MAX_NUMBER  # not isinstance: a bool is an int, too


def _target(value: object) -> int | str | None:
    """Return a target as a whole number, or as a text if it is not whole; None if it is no number."""
    text = str(value).strip() if isinstance(value, str | float) or type(value) is int else ""
    if not _DECIMAL.fullmatch(text):
        return None
    return int(Fraction(text)) if Fraction(text).denominator == 1 else text
