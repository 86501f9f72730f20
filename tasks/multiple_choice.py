"""Multiple choice by reply or by log-likelihood: ARC, WinoGrande, HellaSwag, PIQA, MMLU-Pro, BoolQ, own rows.

Benchmarks: arXiv 1803.05457, 1907.10641, 1905.07830, 1911.11641, 2406.01574, 1905.10044.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from string import ascii_uppercase
from typing import Literal, get_args

from es_lightning.errors import UsageError
from es_lightning.records import Choice, Prompt
from es_lightning.tasks.answers.letters import chosen
from es_lightning.tasks.datasets.choice_formats import FORMATS, Item, Normalise, lettered
from es_lightning.tasks.datasets.rows import RowTask
from es_lightning.tasks.datasets.sources import Row

Mode = Literal["generate", "loglikelihood"]

_WORST = -100.0  # nats; no optimiser can tell a probability of exp(-100) from 0
_TEXT = (
    "{question}\n\n{options}\n\nThink briefly, then end your reply with the sentence "
    '"The answer is (X).", where X is the letter of the right option.'
)


class MultipleChoice(RowTask):
    """Choose one of several options, by writing its letter or by the log-likelihoods of the options.

    With ``mode: generate`` the model answers in words. Reward per completion: 1.0 if the reply chooses the
    letter of the right option, else 0.0. ``es_lightning.tasks.answers.letters.chosen`` defines which replies
    are understood.

    With ``mode: loglikelihood`` nothing is generated. Reward per problem: 1.0 if the right option has the
    largest log-probability of all options (``accuracy``), else 0.0. With ``normalise: chars``, what counts is
    the log-probability per UTF-8 byte of the option's text, leading space excluded (``accuracy_per_char``).
    In a tie the first option counts as the largest. A log-probability that is not finite is smaller than all
    others; if none is finite, no option is right. With ``dense`` the reward is instead the log-softmax of the
    right option over all options' values, in nats, from -100 to 0. If a text is graded in this mode, it earns
    the largest reward if it is the right choice together with the text before it, else the smallest.

    Data sets: ``arc_challenge``, ``winogrande`` (xl), ``hellaswag``, ``piqa``, ``mmlu_pro`` (no train split),
    ``boolq``. The test labels of ``winogrande``, ``hellaswag``, ``piqa`` and ``boolq`` are hidden; there the
    hub's validation split is our test split, and a tenth of train is our val split. Files of a data set have
    the data set's own columns. ``own`` reads rows ``{"question": "2 + 2?", "options": ["3", "4"], "answer":
    "4"}``. ``options`` may be called ``choices``. ``answer`` is an index from 0, the text of an option or, if
    it is not the text of one, a letter.

    Args:
        dataset: ``arc_challenge``, ``winogrande``, ``hellaswag``, ``piqa``, ``mmlu_pro``, ``boolq`` or
            ``own``.
        data: where the rows are (see ``es_lightning.tasks.datasets.sources.read_rows``); None reads the
            data set from the hub, and ``sample`` reads 20 shipped rows.
        mode: ``generate`` or ``loglikelihood``.
        normalise: ``none`` or ``chars``: which of the two accuracies is rewarded. None takes the usual one:
            ``chars`` for arc_challenge, hellaswag, piqa and own, ``none`` for the others.
        dense: whether the reward in log-likelihood mode is smooth, instead of 0 or 1.
        chat: whether the model's chat template is applied; None applies it in mode ``generate`` only.
        n_train: training problems used; None takes all.
        n_val: the same for validation.
        n_test: the same for the test.

    Raises:
        UsageError: an option has none of the values named, or has no effect in this mode.
    """

    def __init__(
        self,
        dataset: str = "arc_challenge",
        data: str | None = None,
        mode: Mode = "generate",
        normalise: Normalise | None = None,
        dense: bool = False,
        chat: bool | None = None,
        n_train: int | None = None,
        n_val: int | None = None,
        n_test: int | None = None,
    ) -> None:
        _check_options(dataset, data, mode, normalise, dense)
        self.dataset, self.mode, self.dense = dataset, mode, dense
        super().__init__(data, FORMATS[dataset].source, n_train, n_val, n_test)
        self.normalise = normalise or FORMATS[dataset].normalise
        self.chat = mode == "generate" if chat is None else chat
        self.failure_reward, self.largest_reward = (_WORST, 0.0) if dense else (0.0, 1.0)

    @property
    def name(self) -> str:
        """Name of the data set."""
        return self.dataset

    def key(self, row: Row) -> str:
        """Return the question with its options, whatever their order."""
        item = FORMATS[self.dataset].read(row)
        return "\n".join([item.question, *sorted(item.options)])

    def family(self, row: Row) -> str:
        """Return the key; for WinoGrande, whose sentences come in twins, the options that the twins share."""
        if self.dataset != "winogrande":
            return self.key(row)
        return "\n".join(sorted(FORMATS[self.dataset].read(row).options))

    def prompt(self, row: Row, name: str) -> Prompt:
        """Make the prompt of a row; its reference holds ``letter``, ``letters`` and ``options``."""
        item = FORMATS[self.dataset].read(row)
        letters = ascii_uppercase[: len(item.options)]
        reference = {"letter": letters[item.gold], "letters": letters, "options": list(item.options)}
        if self.mode == "loglikelihood":
            return Prompt(name, item.given, reference, chat=self.chat, choices=self._choices(item))
        text = _TEXT.format(question=item.question, options=lettered(item.options))
        return Prompt(name, text if self.chat else f"{text}\n", reference, chat=self.chat)

    def _choices(self, item: Item) -> tuple[Choice, ...]:
        """Return the choices to score; after a chat template, a reply begins without a space."""
        if not self.chat:
            return item.choices
        return tuple(
            replace(choice, before=choice.before.lstrip())
            if choice.before
            else replace(choice, text=choice.text.lstrip())
            for choice in item.choices
        )

    def answer(self, prompt: Prompt) -> str:
        """Return the sentence with the right letter; in log-likelihood mode, the right choice."""
        if prompt.choices:
            gold = prompt.choices[_gold(prompt)]
            return gold.before + gold.text
        return f"The answer is ({prompt.reference['letter']})."

    def reward(self, prompt: Prompt, completion: str) -> dict[str, float]:
        """Return the ``reward`` and the ``accuracy`` of a text."""
        right_one = self.answer(prompt).strip() if prompt.choices else prompt.reference["letter"]
        right = self.given_answer(prompt, completion) == right_one
        worst, best = (_WORST, 0.0) if self.dense else (0.0, 1.0)
        return {"reward": best if right else worst, "accuracy": float(right)}

    def given_answer(self, prompt: Prompt, completion: str) -> str | None:
        """Return the letter that a reply chooses; in log-likelihood mode, the choice itself."""
        if prompt.choices:
            return completion.strip() or None
        return chosen(completion, prompt.reference["options"])

    def choice_reward(self, prompt: Prompt, logprobs: Sequence[float]) -> dict[str, float]:
        """Return ``reward``, ``accuracy`` and ``accuracy_per_char`` of the choices' log-likelihoods.

        Args:
            prompt: the problem.
            logprobs: log-probability of each choice's text in nats.

        Raises:
            ValueError: there are not as many log-probabilities as choices.
        """
        gold = _gold(prompt)
        sums = [value if math.isfinite(value) else -math.inf for value in logprobs]
        means = [value / _size(choice) for value, choice in zip(sums, prompt.choices, strict=True)]
        by_sum, by_mean = _is_first_largest(sums, gold), _is_first_largest(means, gold)
        if self.dense:
            reward = _log_softmax(means if self.normalise == "chars" else sums, gold)
        else:
            reward = by_mean if self.normalise == "chars" else by_sum
        return {"reward": reward, "accuracy": by_sum, "accuracy_per_char": by_mean}


def _check_options(dataset: str, data: str | None, mode: str, normalise: str | None, dense: bool) -> None:
    if dataset not in FORMATS:
        raise UsageError(f"dataset is {dataset!r}: give one of {', '.join(FORMATS)}.")
    if data is None and FORMATS[dataset].source is None:
        raise UsageError(
            "dataset own needs the option data: a .jsonl or .parquet file, a folder, or a hub id."
        )
    if mode not in get_args(Mode):
        raise UsageError(f"mode is {mode!r}: give generate or loglikelihood.")
    if normalise is not None and normalise not in get_args(Normalise):
        raise UsageError(f"normalise is {normalise!r}: give none or chars, or null for what is usual.")
    if mode == "generate" and (dense or normalise is not None):
        raise UsageError("dense and normalise need mode loglikelihood; set it, or leave them out.")


def _gold(prompt: Prompt) -> int:
    index: int = prompt.reference["letters"].index(prompt.reference["letter"])
    return index


def _size(choice: Choice) -> int:
    """Count the bytes of a choice, without the space that joins it to the prompt; at least 1."""
    # Text from JSON may hold lone surrogates, which UTF-8 cannot encode.
    return max(len(choice.text.strip().encode(errors="replace")), 1)


def _is_first_largest(values: Sequence[float], gold: int) -> float:
    """Return 1.0 if the right choice is the first with the largest value, and that is finite; else 0.0."""
    largest = max(values)
    return float(math.isfinite(largest) and values.index(largest) == gold)


def _log_softmax(values: Sequence[float], gold: int) -> float:
    """Return log p(gold) in nats, normalised over the choices; from -100 to 0."""
    if not math.isfinite(values[gold]):
        return _WORST
    largest = max(values)
    log_sum = largest + math.log(math.fsum(math.exp(value - largest) for value in values))
    return max(min(values[gold] - log_sum, 0.0), _WORST)
