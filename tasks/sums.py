"""Sums: add whole numbers. Made here, no data set. Example: "What is 7 + 12?" -> 19."""

import hashlib
import re
from itertools import product

from es_lightning.errors import UsageError
from es_lightning.records import Prompt
from es_lightning.task import Task

_SPLITS = ("train", "val", "test")
_MOST = 100_000
_PLACE = "{sum}"
_HEAD = 2000  # characters; the answer is looked for in them
_SPACES = re.compile(r"[\s=:]+")
_NUMBER = re.compile(r"0*([0-9]+|[0-9]{1,3}(?:,[0-9]{3})+)(?:\.0+)?")


class Sums(Task):
    """Add two numbers below 20, or other numbers.

    Reward per completion: 1.0 if its answer is the sum, else 0.0; higher is better. The answer is the last
    word with a digit in the first line that has one, if it is a number by itself. So a reply commits itself
    to one number: a list of guesses is worth no more than one guess, and later lines do not count. No sum is
    one of its addends, so repeating the question earns nothing.

    All problems that the options allow are divided among the splits: half for train, an eighth for val and
    three eighths for test. Problems with the same addends in another order are in the same split, whatever
    the options.

    Args:
        largest: the largest addend; the smallest is 1.
        terms: addends of a problem, 2 or more.
        text: what the model is asked; the problem takes the place of ``{sum}``.
        chat: whether the model's chat template is applied; otherwise the model continues the raw text, which
            is shorter and so quicker.

    Raises:
        UsageError: an option is out of range, there would be more than 100,000 problems, or the text has no
            place for them.

    Example:
        >>> task = Sums()
        >>> prompt = task.problems("train")[0]
        >>> task.reward(prompt, f"It is {prompt.reference}.")
        {'reward': 1.0, 'accuracy': 1.0}
    """

    largest_reward = 1.0

    def __init__(
        self, largest: int = 19, terms: int = 2, text: str = "What is {sum}?", chat: bool = True
    ) -> None:
        if largest < 3 or terms < 2:
            raise UsageError(f"largest must be 3 or more and terms 2 or more, not {largest} and {terms}.")
        if terms > 16 or largest**terms > _MOST:
            raise UsageError(
                f"numbers up to {largest} make over {_MOST:,} sums of {terms} terms: lower one of the two."
            )
        if _PLACE not in text:
            raise UsageError(f"text must hold {_PLACE}, the place of the problem, and {text!r} does not.")
        self.largest, self.terms, self.text, self.chat = largest, terms, text, chat

    def problems(self, split: str) -> list[Prompt]:
        """Return the problems of ``train``, ``val`` or ``test``, shuffled; a reference is the sum."""
        if split not in _SPLITS:
            raise UsageError(f"split must be train, val or test, not {split!r}.")
        sums = product(range(1, self.largest + 1), repeat=self.terms)
        mine = sorted((each for each in sums if _split_of(each) == split), key=_hash)
        return [self._prompt(addends) for addends in mine]

    def _prompt(self, addends: tuple[int, ...]) -> Prompt:
        asked = " + ".join(map(str, addends))
        text = self.text.replace(_PLACE, asked)
        return Prompt(f"sums/{asked.replace(' ', '')}", text, reference=sum(addends), chat=self.chat)

    def reward(self, prompt: Prompt, completion: str) -> dict[str, float]:
        """Return ``reward`` and ``accuracy``, which are the same: whether the answer is the sum."""
        right = float(self.given_answer(prompt, completion) == str(prompt.reference))
        return {"reward": right, "accuracy": right}

    def given_answer(self, prompt: Prompt, completion: str) -> str | None:
        """Return the number that a reply commits itself to, in digits; None if it does not."""
        lines = (_with_digits(line) for line in completion[:_HEAD].splitlines())
        words = next(filter(None, lines), [""])
        return _whole(words[-1]) or None


def _with_digits(line: str) -> list[str]:
    """The words of a line that hold a digit; an equals sign and a colon separate words, too."""
    return [word for word in _SPACES.split(line) if any("0" <= character <= "9" for character in word)]


def _whole(word: str) -> str:
    """The whole number that a word is, without emphasis, punctuation and commas; empty if it is none."""
    found = _NUMBER.fullmatch(word.lstrip("*$(`\"'").rstrip("*$)`\"'.,;!?"))
    return found[1].replace(",", "") if found else ""


def _split_of(addends: tuple[int, ...]) -> str:
    """Return the one split that addends belong to, in any order."""
    return _SPLITS[(0, 0, 0, 0, 1, 2, 2, 2)[_hash(tuple(sorted(addends)))[0] % 8]]


def _hash(addends: tuple[int, ...]) -> bytes:
    return hashlib.sha256(repr(addends).encode()).digest()
