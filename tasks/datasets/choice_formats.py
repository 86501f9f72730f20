"""Multiple-choice benchmarks: how a row becomes a question with options, and what is scored by likelihood.

The scored texts have the form in general use for these benchmarks, so that accuracies can be compared.
WinoGrande is scored by partial evaluation (arXiv 1806.02847).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any, Literal

from es_lightning.records import Choice
from es_lightning.tasks.datasets.sources import Row, Source

Normalise = Literal["none", "chars"]

# The labels of the test split are hidden: the validation split is our test split.
_HIDDEN_TEST = {"train": "train", "test": "validation"}
_ALL = {"train": "train", "val": "validation", "test": "test"}


@dataclass(frozen=True)
class Item:
    """The question in a row.

    Args:
        question: what is asked in generation mode, without the options.
        options: 2 to 26 answers.
        gold: index of the right option.
        given: the text before the choices in log-likelihood mode.
        choices: what is scored, one per option.
    """

    question: str
    options: tuple[str, ...]
    gold: int
    given: str
    choices: tuple[Choice, ...]


@dataclass(frozen=True)
class Format:
    """How to read and score one benchmark.

    Args:
        read: turns a row into an item; a row of another format raises a plain Python error.
        source: where the data set lives; None for own data.
        normalise: how its log-likelihoods are usually normalised.
    """

    read: Callable[[Row], Item]
    source: Source | None = None
    normalise: Normalise = "none"


def lettered(options: Sequence[str]) -> str:
    """Write each option on a line of its own, such as ``A. first``."""
    return "\n".join(f"{letter}. {option}" for letter, option in zip(ascii_uppercase, options, strict=False))


def _item(
    question: str,
    options: Sequence[str],
    gold: int,
    given: str | None = None,
    choices: Sequence[Choice] | None = None,
) -> Item:
    """Check and build an item; without ``given`` and ``choices``, the options are scored as answers."""
    if not all(isinstance(text, str) for text in (question, *options)):
        raise TypeError("the question and its options must be texts")
    if not 2 <= len(options) <= len(ascii_uppercase):
        raise ValueError(f"{len(options)} options instead of 2 to {len(ascii_uppercase)}")
    if not 0 <= gold < len(options):
        raise ValueError(f"the right option is number {gold}, counted from 0, of {len(options)}")
    if given is None:
        given = f"Question: {question}\nAnswer:"
    if choices is None:
        choices = [Choice(f" {option}") for option in options]
    return Item(question, tuple(options), gold, given, tuple(choices))


def _arc(row: Row) -> Item:
    labels = list(row["choices"]["label"])  # A to E, in some rows 1 to 5
    return _item(row["question"].strip(), row["choices"]["text"], labels.index(row["answerKey"]))


def _winogrande(row: Row) -> Item:
    head, blank, rest = row["sentence"].partition("_")
    if not blank:
        raise ValueError("the sentence has no blank, _")
    space = head[len(head.rstrip()) :] and " "  # before a blank behind a quote or a hyphen there is none
    head, rest = head.rstrip(), rest.rstrip()
    options = [row["option1"], row["option2"]]
    words = [f"{space if head else ''}{option}" for option in options]
    scored = [Choice(rest, before=word) if rest else Choice(word) for word in words]
    question = f"{row['sentence']}\n\nWhich option fits the blank (_)?"
    # A sentence may begin with its blank, but an engine needs some text before what it scores.
    return _item(question, options, int(row["answer"]) - 1, head or "\n", scored)


def _hellaswag(row: Row) -> Item:
    context = f"{row['ctx_a']} {row['ctx_b'].capitalize()}" if "ctx_a" in row else row["ctx"]
    given = _without_markup(f"{row['activity_label']}: {context}")
    endings = [_without_markup(ending) for ending in row["endings"]]
    # A tag at an edge leaves its space behind. An engine scores what follows the last word of the context.
    spaces = given[len(given.rstrip()) :]
    scored = [Choice(f"{spaces} {ending}") for ending in endings]
    given = given.rstrip()
    question = f"{given}\n\nWhich ending continues this text?"
    return _item(question, [ending.strip() for ending in endings], int(row["label"]), given, scored)


def _without_markup(text: str) -> str:
    """Remove the ``[header]``, ``[title]`` and ``[step]`` that HellaSwag has left in texts from WikiHow.

    The published accuracies are those of lm-evaluation-harness (tasks/hellaswag/utils.py), which removes them
    in these steps: so an ending that begins with a tag begins with two spaces.
    """
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")


def _piqa(row: Row) -> Item:
    return _item(row["goal"].strip(), [row["sol1"], row["sol2"]], int(row["label"]))


def _mmlu_pro(row: Row) -> Item:
    question, options = row["question"].strip(), row["options"]
    letters = [Choice(f" {letter}") for letter in ascii_uppercase[: len(options)]]
    given = f"{question}\n{lettered(options)}\nAnswer:"
    return _item(question, options, int(row["answer_index"]), given, letters)


def _boolq(row: Row) -> Item:
    gold = {True: 0, False: 1}[row["answer"]]
    passage, question = row["passage"].strip(), row["question"].strip().rstrip("?")
    given = f"{passage}\nQuestion: {question}?\nAnswer:"
    return _item(f"{passage}\n\n{question}?", ["yes", "no"], gold, given)


def _own(row: Row) -> Item:
    options = row["options"] if "options" in row else row["choices"]
    return _item(row["question"].strip(), options, _index(row["answer"], options))


def _index(answer: Any, options: Sequence[str]) -> int:
    """Return the index of an option, given its index from 0, its text or, if it is not one, a letter."""
    if isinstance(answer, int) and not isinstance(answer, bool):
        return answer
    if not isinstance(answer, str) or not answer:
        raise TypeError('"answer" must be an index from 0, a letter, or the text of an option')
    if list(options).count(answer) == 1:
        return list(options).index(answer)
    if len(answer) > 1:  # a text such as BC would be found in the alphabet, too
        raise ValueError(f'"answer" is {answer!r}, neither the text of one option nor a letter')
    return ascii_uppercase.index(answer)


FORMATS: Mapping[str, Format] = {
    "arc_challenge": Format(
        _arc, Source("allenai/ai2_arc", _ALL, config="ARC-Challenge", sample="arc_challenge"), "chars"
    ),
    "winogrande": Format(
        _winogrande, Source("allenai/winogrande", _HIDDEN_TEST, config="winogrande_xl", sample="winogrande")
    ),
    "hellaswag": Format(_hellaswag, Source("Rowan/hellaswag", _HIDDEN_TEST, sample="hellaswag"), "chars"),
    "piqa": Format(_piqa, Source("baber/piqa", _HIDDEN_TEST, sample="piqa"), "chars"),
    "mmlu_pro": Format(
        _mmlu_pro,
        Source("TIGER-Lab/MMLU-Pro", {"val": "validation", "test": "test"}, sample="mmlu_pro"),
    ),
    "boolq": Format(_boolq, Source("google/boolq", _HIDDEN_TEST, sample="boolq")),
    "own": Format(_own, normalise="chars"),
}
