"""Countdown: combine the given numbers into a target (arXiv 2509.24372, 2601.20861, 2605.30148).

Problems are generated here and need no download; your own can be read from a JSONL file.
"""

import hashlib
import json
import operator
import random
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from es_lightning.generation import Prompt
from es_lightning.task import Task
from es_lightning.tasks.arithmetic import MAX_CHARS, MAX_NUMBER, evaluate

_SPLITS = ("train", "val", "test")
_LARGEST_DRAWN = 99
_TARGETS = range(10, 101)
_DRAWS_PER_PROBLEM = 10_000

_TEXT = (
    "Use the numbers {numbers} to make {target}. Every number must be used exactly once. You may add (+), subtract (-), "
    "multiply (*) and divide (/), and group with parentheses. Reason inside <think> </think> tags, then write the final "
    "expression, and nothing else, inside <answer> </answer> tags. For example, to make 30 from 2, 6 and 7 you "
    "would end with <answer>(7 - 2) * 6</answer>"
)
_PREFILL = "Let me solve this step by step.\n<think>"

_Item = TypeVar("_Item")


class _Problem(NamedTuple):
    numbers: tuple[int, ...]
    target: int

    @property
    def key(self) -> str:
        """The same for problems that differ in the order of the numbers alone."""
        return f"{sorted(self.numbers)}={self.target}"


class Countdown(Task):
    """Combine three or four numbers, each exactly once, into an expression that equals the target.

    Reward per completion: ``answer + 0.1 * format``, from 0 to 1.1; higher is better. The reply is read together with
    its prefill, so that the opening think tag counts. ``answer`` is 1.0 if the last answer block is an expression
    of exactly the given numbers whose exact value is the target, else 0.0; ``= target`` may follow the expression, since
    it claims nothing new. ``format`` is 1.0 for a think block and then an answer block, 0.5 for an answer block without
    a think block before it, 0.1 for a think block alone, else 0.0.

    Generated problems always have a solution: numbers from 1 to 99 are joined at random until the result is a whole
    number from 10 to 100. A problem belongs to one split for good, whatever the seed and the sizes, and a larger
    split begins with the smaller one.

    Args:
        n_train: generated problems of the train split.
        n_val: generated problems of the val split.
        n_test: generated problems of the test split.
        numbers: how many numbers a generated problem may have, each from 2 to 6.
        seed: which problems are generated.
        path: JSONL file to read instead of generating, one ``{"numbers": [3, 7, 8], "target": 32}`` per line, which
            may also say ``"split"``: train, val or test. A row without it goes where a generated problem of the same
            numbers and target would go, a third to each split. The four options above then have no effect.
        chat: whether the model's chat template is applied; otherwise the model continues the raw text.

    Raises:
        ValueError: an option is out of range, or a line of the file is not a problem; the message names the line.
    """

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
            raise ValueError(f"numbers must list counts from 2 to 6, such as [3, 4], not {list(numbers)}.")
        if min(n_train, n_val, n_test) < 0:
            raise ValueError(f"n_train, n_val and n_test must be 0 or more, not {n_train}, {n_val}, {n_test}.")
        self.sizes = {"train": n_train, "val": n_val, "test": n_test}
        self.counts = tuple(numbers)
        self.seed = seed
        self.chat = chat
        self._own = None if path is None else _read(Path(path))

    def problems(self, split: str) -> list[Prompt]:
        """Problems of ``train``, ``val`` or ``test``; the reference holds ``numbers`` and ``target``.

        Raises:
            ValueError: the split is none of the three, or there are not as many different problems as it should hold.
        """
        if split not in _SPLITS:
            raise ValueError(f"split must be train, val or test, not {split!r}.")
        if self._own is not None:
            return [self._prompt(split, i, problem) for i, problem in enumerate(self._own[split])]
        found = _generate(split, self.sizes[split], self.counts, self.seed)
        return [self._prompt(split, i, problem) for i, problem in enumerate(found)]

    def _prompt(self, split: str, index: int, problem: _Problem) -> Prompt:
        text = _TEXT.format(numbers=", ".join(map(str, problem.numbers)), target=problem.target)
        return Prompt(
            id=f"countdown/{split}/{index}",
            text=text if self.chat else f"{text}\n",
            reference={"numbers": list(problem.numbers), "target": problem.target},
            prefill=_PREFILL,
            chat=self.chat,
        )

    def reward(self, prompt: Prompt, completion: str) -> dict[str, float]:
        """``reward`` from 0 to 1.1, ``accuracy`` (the answer's 0 or 1) and ``format``; see the class."""
        text = prompt.prefill + completion
        answer = _answer_score(text, prompt.reference["numbers"], prompt.reference["target"])
        form = _format_score(text)
        # R = answer + 0.1 * format  (arXiv 2509.24372, 2605.30148)
        return {"reward": answer + 0.1 * form, "accuracy": answer, "format": form}


def _answer_score(text: str, numbers: Sequence[int], target: int) -> float:
    """1.0 if the last answer block solves the problem, else 0.0."""
    block = _last_block(text, "answer")
    if block is None or len(block) > MAX_CHARS:
        return 0.0
    expression, equals, claim = block.partition("=")
    if equals and claim.strip() != str(target):
        return 0.0
    result = evaluate(expression)
    solved = result is not None and result.value == target and sorted(result.numbers) == sorted(numbers)
    return float(solved)


def _format_score(text: str) -> float:
    """1.0 for a think block and then an answer block, 0.5 for an answer block, 0.1 for a think block, else 0.0."""
    think_end = _block_end(text, "think", 0)
    if think_end is not None and _block_end(text, "answer", think_end) is not None:
        return 1.0
    if _block_end(text, "answer", 0) is not None:
        return 0.5
    return 0.0 if think_end is None else 0.1


def _block_end(text: str, tag: str, start: int) -> int | None:
    """Where the first complete block of a tag ends, looking from ``start``; linear in the length of the text."""
    opened = text.find(f"<{tag}>", start)
    closed = -1 if opened < 0 else text.find(f"</{tag}>", opened)
    return None if closed < 0 else closed + len(f"</{tag}>")


def _last_block(text: str, tag: str) -> str | None:
    """Content of the last complete block of a tag; linear in the length of the text."""
    opened = text.rfind(f"<{tag}>", 0, max(text.rfind(f"</{tag}>"), 0))
    if opened < 0:
        return None
    start = opened + len(f"<{tag}>")
    return text[start : text.index(f"</{tag}>", start)]


def _generate(split: str, size: int, counts: Sequence[int], seed: int) -> list[_Problem]:
    """The first different problems of a split, in the order in which its own random stream yields them."""
    # Only random() is promised to give the same numbers in every version of Python; the seed must be an integer.
    digest = hashlib.sha256(f"countdown/{seed}/{split}".encode()).digest()
    rng = random.Random(int.from_bytes(digest, "big"))
    found: dict[str, _Problem] = {}
    draws = iter(range(_DRAWS_PER_PROBLEM * size))
    while len(found) < size:
        if next(draws, None) is None:
            raise ValueError(
                f"only {len(found)} of {size} {split} problems with {list(counts)} numbers were found; "
                f"lower n_{split} or allow more numbers."
            )
        problem = _draw(rng, counts)
        if problem is not None and _split_of(problem) == split:
            found.setdefault(problem.key, problem)
    return list(found.values())


def _split_of(problem: _Problem) -> str:
    """The split that a problem belongs to, a third of all problems each: never two, so splits cannot overlap."""
    return _SPLITS[hashlib.sha256(problem.key.encode()).digest()[0] % 3]


_OPERATIONS: tuple[Callable[[Fraction, Fraction], Fraction], ...] = (
    operator.add,
    operator.sub,
    operator.mul,
    operator.truediv,
)


def _draw(rng: random.Random, counts: Sequence[int]) -> _Problem | None:
    """Join random numbers in random pairs, as a tree with exact values; None if the result is no target."""
    numbers = tuple(_pick(rng, range(1, _LARGEST_DRAWN + 1)) for _ in range(_pick(rng, counts)))
    values = [Fraction(number) for number in numbers]
    while len(values) > 1:
        left = values.pop(_pick(rng, range(len(values))))
        right = values.pop(_pick(rng, range(len(values))))
        operation = _pick(rng, _OPERATIONS)
        if operation is operator.truediv and right == 0:
            return None
        values.append(operation(left, right))
    return _Problem(numbers, int(values[0])) if values[0] in _TARGETS else None


def _pick(rng: random.Random, options: Sequence[_Item]) -> _Item:
    """One of the options, each as likely as the others."""
    return options[int(rng.random() * len(options))]


def _read(path: Path) -> dict[str, list[_Problem]]:
    """Problems of a JSONL file by split, in the order of the file; empty lines are passed over."""
    splits: dict[str, list[_Problem]] = {split: [] for split in _SPLITS}
    line_of: dict[str, int] = {}
    for number, where, line in _lines(path):
        problem, split = _row(where, line)
        if problem.key in line_of:
            raise ValueError(f"{where} repeats the problem of line {line_of[problem.key]}; remove one of the two.")
        line_of[problem.key] = number
        splits[split].append(problem)
    if not line_of:
        raise ValueError(f'{path} holds no problem; write one {{"numbers": [3, 7, 8], "target": 32}} per line.')
    return splits


def _lines(path: Path) -> Iterator[tuple[int, str, bytes]]:
    """Number, name for messages, and bytes of every line that is not empty."""
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if line.strip():
            yield number, f"{path} line {number}", line


def _row(where: str, line: bytes) -> tuple[_Problem, str]:
    """The problem and split that one line of a file says.

    Raises:
        ValueError: the line is no problem; the message begins with ``where``.
    """
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError(f"{where} is not JSON; write one object per line.") from None
    if not isinstance(row, dict):
        raise ValueError(f'{where} must be an object such as {{"numbers": [3, 7, 8], "target": 32}}.')
    numbers, target = row.get("numbers"), row.get("target")
    if not (isinstance(numbers, list) and 2 <= len(numbers) <= 10 and all(map(_is_number, numbers))):
        raise ValueError(f'{where}: "numbers" must list 2 to 10 whole numbers from 0 to {MAX_NUMBER}.')
    if not (isinstance(target, int) and not isinstance(target, bool)):
        raise ValueError(f'{where}: "target" must be a whole number.')
    problem = _Problem(tuple(numbers), target)
    split = row.get("split", _split_of(problem))
    if split not in _SPLITS:
        raise ValueError(f'{where}: "split" must be train, val or test, not {split!r}.')
    return problem, split


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_NUMBER
