"""Puzzles that the library reasoning-gym generates, from sudoku to integrals (arXiv 2505.24760)."""

import time
from typing import Any

from es_lightning.errors import UsageError
from es_lightning.records import Prompt
from es_lightning.task import Task
from es_lightning.tasks.puzzles.answers import grade, last_answer
from es_lightning.tasks.puzzles.library import check, generate, open_dataset

_PREPARE_SECONDS = 20.0
_ORDER = ("test", "val", "train")  # the order in which the splits are filled
_DRAWS_PER_PROBLEM = 4
_SPARE_DRAWS = 1_000
_MAX_PROBLEMS = 4_000  # so that draws stay below 20,000: some generators refuse, or make at once, more
_SEED_STEP = 20_000  # the library seeds entry i with seed + i; a step apart, two seeds share no entry
_MAX_SEED = 200_000  # times the step it stays below 2**32, where numpy's seeds end
_REQUEST = (
    "\n\nWrite the final answer, and nothing else, inside <answer> </answer> tags at the end of your reply."
)


def _nothing_made() -> dict[str, Any]:
    """The private attributes of a task that has made no problem yet."""
    return {"_source": None, "_entries": {}, "_drawn": [], "_seen": set(), "_draws": 0}


class ReasoningGym(Task):
    """Puzzles of one generator of the library reasoning-gym.

    Reward per completion: the score of the last complete answer block, from 0 to 1; higher is better.
    ``accuracy`` is 1 where the reward is 1, else 0. The score is the library's for most generators: many give
    from 0.01 to 0.1 for a wrong answer of the right form, and some give more for one that is partly right. If
    the library would run the model's text, or pays for text that answers nothing, our own grader replaces the
    library's: see ``puzzles.graders``. The right answer counts however it is set (``puzzle_text``).

    A reply without an answer block earns 0. So does an answer that has more than 1,000 characters plus four
    times the length of the right one, and an answer that would keep the grader busy for long (a move repeated
    1,000 times).

    The problems depend on the data set, its options, the seed and the version of the library, and in ``acre``
    also on the sizes. No question occurs twice, neither within a split nor in two splits. The test split is
    filled first, then val, then train; so a larger train split begins with the problems of a smaller one.

    ``reference`` holds the number of the problem and one right answer, or None if the library gives none. A
    grading process generates the problem again from its number. This takes milliseconds for most generators.
    It takes longest, sometimes seconds, for ``knight_swap``, ``futoshiki``, ``zebra_puzzles``, ``puzzle24``
    and ``sokoban``. The data set ``codeio`` runs the library's own code samples to make its problems.

    Args:
        dataset: name of the generator, such as ``mini_sudoku``, ``zebra_puzzles`` or ``composite``.
        n_train: number of problems in the train split.
        n_val: the same for the val split.
        n_test: the same for the test split.
        seed: selects which problems are generated, from 0 to 200,000; two seeds share hardly any problem.
        chat: whether the model's chat template is applied; otherwise the model continues the raw text.
        config: further options of the generator, such as ``min_empty`` and ``max_empty`` of ``mini_sudoku``.
            ``composite`` has ``datasets``, a list of ``{name: ..., weight: ..., config: {...}}``.

    Raises:
        UsageError: there is no such data set, it has no such option, or a value is out of range.
    """

    largest_reward = 1.0

    def __init__(
        self,
        dataset: str = "mini_sudoku",
        n_train: int = 200,
        n_val: int = 50,
        n_test: int = 200,
        seed: int = 0,
        chat: bool = True,
        **config: Any,
    ) -> None:
        self.sizes = {"test": n_test, "val": n_val, "train": n_train}
        if min(self.sizes.values()) < 0:
            raise UsageError(f"n_train, n_val and n_test must be 0 or more, not {[n_train, n_val, n_test]}.")
        if sum(self.sizes.values()) > _MAX_PROBLEMS:
            raise UsageError(f"n_train, n_val and n_test must be {_MAX_PROBLEMS} together at most.")
        if not 0 <= seed <= _MAX_SEED:
            raise UsageError(f"seed must be from 0 to {_MAX_SEED}, not {seed}.")
        check(dataset, config)
        self.dataset = dataset
        self.seed = seed
        self.chat = chat
        self.config = config
        self._known: list[int] = []
        self._source: Any
        self._entries: dict[int, dict[str, Any]]
        self._drawn: list[int]
        self._seen: set[str]
        self._draws: int
        self.__dict__.update(_nothing_made())

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the options and the problems' numbers; a grading process generates the problems itself."""
        return {**self.__dict__, **_nothing_made(), "_known": list(self._drawn)}

    def prepare(self) -> None:
        """Load the library and generate known problems for up to 20 s; the others are made when needed."""
        end = time.monotonic() + _PREPARE_SECONDS
        open_dataset(self.dataset, self.seed * _SEED_STEP, self._limit, self.config)
        for index in self._known:
            if time.monotonic() > end:
                break
            self._entry(index)

    @property
    def name(self) -> str:
        """Name of the data set."""
        return self.dataset

    def problems(self, split: str) -> list[Prompt]:
        """Return the problems of ``train``, ``val`` or ``test``; references hold ``index`` and ``answer``.

        Raises:
            UsageError: the split is none of the three, or there are too few different problems to fill it.
        """
        if split not in _ORDER:
            raise UsageError(f"split must be train, val or test, not {split!r}.")
        before = 0
        for filled in _ORDER:
            after = before + self.sizes[filled]
            self._draw(after, filled)
            if filled == split:
                break
            before = after
        return [self._prompt(split, i, index) for i, index in enumerate(self._drawn[before:after])]

    def _draw(self, count: int, split: str) -> None:
        """Draw problems until there are ``count`` different ones."""
        while len(self._drawn) < count:
            if self._draws == self._limit:
                raise UsageError(
                    f"the data set {self.dataset} has only {len(self._drawn)} different problems in "
                    f"{self._limit} draws, too few to fill the {split} split; lower n_{split}, or n_train, "
                    f"n_val and n_test together to {len(self._drawn)}, or set options that allow for more."
                )
            self._keep_if_new(self._draws)
            self._draws += 1

    @property
    def _limit(self) -> int:
        return _DRAWS_PER_PROBLEM * sum(self.sizes.values()) + _SPARE_DRAWS

    def _keep_if_new(self, index: int) -> None:
        try:
            entry = self._entry(index)
        except Exception:  # sometimes a generator finds no problem that meets its own rules
            return
        question = " ".join(entry["question"].casefold().split())
        if question in self._seen:
            del self._entries[index]
            return
        self._seen.add(question)
        self._drawn.append(index)

    def _entry(self, index: int) -> dict[str, Any]:
        """Return the library's entry for a problem, generated once per process."""
        if index not in self._entries:
            if self._source is None:
                self._source = open_dataset(self.dataset, self.seed * _SEED_STEP, self._limit, self.config)
            self._entries[index] = generate(self._source, index)
        return self._entries[index]

    def _prompt(self, split: str, number: int, index: int) -> Prompt:
        entry = self._entry(index)
        answer = entry["answer"]
        return Prompt(
            id=f"{self.dataset}/{split}/{number}",
            text=entry["question"] + _REQUEST + ("" if self.chat else "\n"),
            reference={"index": index, "answer": answer if answer is None else str(answer)},
            chat=self.chat,
        )

    def answer(self, prompt: Prompt) -> str | None:
        """Return the library's answer in its tags; None if the library gives none that earns 1."""
        known = prompt.reference["answer"]
        text = f"<answer>{known}</answer>"
        return text if known is not None and self.reward(prompt, text)["reward"] >= 1 else None

    def reward(self, prompt: Prompt, completion: str) -> dict[str, float]:
        """Return the ``reward`` from 0 to 1, and ``accuracy``, which is 1 where the reward is 1.

        Raises:
            RuntimeError: this process generates a different problem for the same number.
        """
        entry = self._entry(prompt.reference["index"])
        if entry["question"] not in prompt.text:
            raise RuntimeError(f"{prompt.id} is another problem in this process; was the library updated?")
        score = grade(self._source, entry, last_answer(prompt.prefill + completion))
        return {"reward": score, "accuracy": float(score >= 1)}

    def given_answer(self, prompt: Prompt, completion: str) -> str | None:
        """Return the content of the last answer block; None if there is none."""
        return last_answer(prompt.prefill + completion) or None
