"""Conciseness: answer as briefly as the shortest correct answer (arXiv 2509.24372, the conciseness study)."""

import json
import math
import re
from importlib import resources
from typing import NamedTuple

from es_lightning.errors import UsageError
from es_lightning.records import Prompt
from es_lightning.task import Task

_MAX_CHARS = 100_000


class _Row(NamedTuple):
    id: str
    split: str
    question: str
    answer: str


# The questions and their answers are those of the paper; the wording is ours.
_PAPER = (
    _Row("sum", "train", "Solve: 3 + 5 =", "8"),
    _Row("penguin", "train", "Many birds can fly. A penguin is a bird. Can a penguin fly?", "No"),
    _Row("capital", "test", "What is the capital of France?", "Paris"),
    _Row("product", "test", "Calculate: 12 x 7 =", "84"),
    _Row("statement", "test", "True or false: at sea level, water freezes at 0 degrees Celsius.", "True"),
    _Row("sequence", "test", "What is the next number in the sequence 2, 4, 6, 8?", "10"),
    _Row("translation", "test", "Translate the word hello into Spanish.", "Hola"),
    _Row("percentage", "test", "What is 15% of 200?", "30"),
    _Row("colour", "test", "What colour is a ripe tomato?", "Red"),
    _Row("week", "test", "How many days are in a week?", "7"),
)


class Conciseness(Task):
    """Short questions; a reply should be as long as the shortest correct answer.

    Reward per completion: ``-|characters of the completion - characters of the reference|``, at most 0;
    higher is better. Only the completion is measured; the published code also measured the prompt, which
    shifts every length. White space around the completion is not counted: nobody sees it, and whether a reply
    starts with a space depends on the tokenizer.

    By itself the reward ignores what the reply says, and a model soon learns to answer briefly and wrongly;
    ``accuracy`` shows that. ``wrong_costs`` mends it: a reply that is not accurate is worth as much as one
    that has so many more characters.

    Args:
        variant: ``questions``, 192 questions written for this project (96 train, 32 val, 64 test, all sixteen
            kinds in each), or ``paper``, the 2 training and 8 evaluation prompts of the paper in our wording.
            With ``paper``, the 8 are the test split, and val is empty, since the paper has no third set.
        wrong_costs: characters that a reply costs on top if the reference does not occur in it; 0 is the
            paper's reward.

    Raises:
        UsageError: the variant is neither of the two, or the costs are below 0 or not finite.

    Example:
        >>> task = Conciseness()
        >>> task.reward(task.problems("train")[0], " It is Tokyo.")
        {'reward': -7.0, 'accuracy': 1.0}
    """

    largest_reward = 0.0

    def __init__(self, variant: str = "questions", wrong_costs: float = 0.0) -> None:
        if variant not in ("questions", "paper"):
            raise UsageError(f"variant must be questions or paper, not {variant!r}.")
        if not 0 <= wrong_costs < math.inf:
            raise UsageError(f"wrong_costs must be a number of characters, 0 or more, not {wrong_costs}.")
        self.variant, self.wrong_costs = variant, float(wrong_costs)
        self.failure_reward = -2000.0 - self.wrong_costs
        self._rows = _PAPER if variant == "paper" else _own_questions()

    def problems(self, split: str) -> list[Prompt]:
        """Return questions of ``train``, ``val`` or ``test``; a reference is the shortest correct answer."""
        if split not in ("train", "val", "test"):
            raise UsageError(f"split must be train, val or test, not {split!r}.")
        return [
            Prompt(id=f"conciseness/{self.variant}/{row.id}", text=row.question, reference=row.answer)
            for row in self._rows
            if row.split == split
        ]

    def reward(self, prompt: Prompt, completion: str) -> dict[str, float]:
        """Compare lengths, in characters, and look for the reference in the completion.

        Returns:
            ``reward``, and ``accuracy``: 1.0 if the reference occurs as a whole word or phrase, in upper or
            lower case, within the first 100,000 characters.
        """
        # R = -| len(y) - len(s) |  (arXiv 2509.24372); y the completion, s the shortest correct answer.
        difference = len(completion.strip()) - len(prompt.reference)
        accuracy = float(_mentions(completion, prompt.reference))
        return {"reward": -float(abs(difference)) - self.wrong_costs * (1 - accuracy), "accuracy": accuracy}


def _own_questions() -> tuple[_Row, ...]:
    """Read the rows of conciseness.jsonl."""
    text = resources.files("es_lightning.tasks").joinpath("conciseness.jsonl").read_text(encoding="utf-8")
    return tuple(_Row(**json.loads(line)) for line in text.splitlines())


def _mentions(text: str, phrase: str) -> bool:
    """Whether a text contains a phrase with no letter or digit beside it, and not inside a decimal."""
    words = re.escape(_folded(phrase))
    whole = rf"(?<![^\W_])(?<!\d[.,]){words}(?![^\W_]|[.,]\d)"
    return re.search(whole, _folded(text[:_MAX_CHARS])) is not None


def _folded(text: str) -> str:
    """Remove differences in case and white space."""
    return " ".join(text.casefold().split())
