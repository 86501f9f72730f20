"""Pages of a run: one HTML file each, that needs no network and no script, whatever a model has written."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment

SHOWN_CHARACTERS = 4000
LATEST = 2  # measurements of a prompt that are shown unasked, beside the first one

# Control characters, and marks that turn the direction of what follows or hide in it; Unicode, chapter 23.
_INVISIBLE = re.compile(
    "([\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e0fff])"  # tags and variation selectors, which can spell a whole hidden text
)
_SURROGATE = re.compile("[\ud800-\udfff]")  # halves of pairs, which no file takes


@dataclass(frozen=True)
class Answer:
    """One completion of a prompt.

    Args:
        generations: generations done before the centre answered.
        sample: which of the prompt's completions of that moment.
        completion: its text, as far as it was kept.
        characters: its length before it was cut.
        finish_reason: why the engine stopped.
        tokens: tokens generated.
        scores: what the task's reward returned, ``reward`` among it.
    """

    generations: int
    sample: int
    completion: str
    characters: int
    finish_reason: str
    tokens: int
    scores: Mapping[str, float | None]

    @property
    def reward(self) -> float:
        """What it earned; higher is better."""
        return self.scores["reward"] or 0.0


def rollout_page(
    title: str, facts: Mapping[str, object], answers: Mapping[tuple[str, str], Sequence[Answer]]
) -> str:
    """The page of a few prompts and what the centre answered in the course of a run.

    Args:
        title: what was trained.
        facts: settings, shown below the title.
        answers: (id, text) of each prompt -> its answers in the order of generations.

    Returns:
        HTML in which all that a task or a model wrote is escaped, and cut after 4000 characters.
    """
    page = templates().get_template("rollout_page.html.jinja")
    return page.render(
        title=title,
        facts=[(str(name).replace("_", " "), str(value)) for name, value in facts.items()],
        overall=_overall(list(answers.values())),
        sections=[_section(name, text, rows) for (name, text), rows in answers.items()],
    )


def visible(text: str) -> str:
    """Text as HTML in which what cannot be seen is named: ``[U+202E]`` for a mark that turns the text."""
    macros = templates().get_template("visible.html.jinja").module
    return str(macros.visible(text))  # type: ignore[attr-defined]


@cache
def templates() -> Environment:
    """The templates of this folder, which escape each value that they are given."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader("es_lightning.reports", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters["pieces"] = _pieces
    return made


def _pieces(text: str) -> Iterator[tuple[str, str]]:
    """Stretches of text that can be seen, each with the code of the invisible character behind it, if any."""
    parts = _INVISIBLE.split(_SURROGATE.sub("\ufffd", text.replace("\r\n", "\n")))
    for shown, mark in zip(parts[::2], [*parts[1::2], ""], strict=True):
        yield shown, f"{ord(mark):04X}" if mark else ""


# What the page shows, as the templates take it ----------------------------------------------------------


@dataclass(frozen=True)
class Excerpt:
    """The first characters of a text, and a note that tells how many are missing."""

    text: str
    note: str = ""


@dataclass(frozen=True)
class _Change:
    """How a reward has moved since so many generations: ``up``, ``down`` or ``same``."""

    kind: str
    amount: str
    since: int


@dataclass(frozen=True)
class _Overall:
    """The mean reward of all prompts at the first and, if there are two, at the last measurement."""

    asked: str
    means: Sequence[tuple[str, str]]
    change: _Change | None


@dataclass(frozen=True)
class _Card:
    """One answer."""

    moment: str
    reward: str
    change: _Change | None
    completion: Excerpt
    badges: Sequence[str]


@dataclass(frozen=True)
class _Section:
    """A prompt and its answers, the middle of which is folded."""

    name: str
    prompt: Excerpt
    shown: Sequence[_Card]
    between: Sequence[_Card]
    folded: str


def _overall(prompts: Sequence[Sequence[Answer]]) -> _Overall | None:
    rewards: dict[int, list[float]] = {}
    for answer in (answer for rows in prompts for answer in rows):
        rewards.setdefault(answer.generations, []).append(answer.reward)
    if not rewards:
        return None
    means = {done: sum(values) / len(values) for done, values in rewards.items()}
    first, last = min(means), max(means)
    return _Overall(
        asked=_count(len(prompts), "prompt"),
        means=[(_count(done, "generation"), f"{means[done]:.4g}") for done in sorted({first, last})],
        change=_change(means[first], means[last], first) if last != first else None,
    )


def _section(name: str, text: str, rows: Sequence[Answer]) -> _Section:
    before: dict[int, Answer] = {}
    cards = []
    for answer in rows:
        cards.append(_card(answer, before.get(answer.sample), any(row.sample for row in rows)))
        before[answer.sample] = answer
    samples = max((row.sample for row in rows), default=0) + 1
    between = cards[samples : -LATEST * samples]
    shown = cards[:samples] + cards[samples + len(between) :]
    return _Section(name, excerpt(text), shown, between, _count(len(between) // samples, "measurement"))


def _card(answer: Answer, before: Answer | None, numbered: bool) -> _Card:
    sample = f", sample {answer.sample + 1}" if numbered else ""
    scores = [f"{key} {_number(value)}" for key, value in answer.scores.items() if key != "reward"]
    return _Card(
        moment=_count(answer.generations, "generation") + sample,
        reward=_number(answer.reward),
        change=_change(before.reward, answer.reward, before.generations) if before else None,
        completion=excerpt(answer.completion, answer.characters),
        badges=[*scores, _count(answer.tokens, "token"), _ended(answer.finish_reason)],
    )


def _change(before: float, after: float, since: int) -> _Change:
    kind = "same" if before == after else "up" if after > before else "down"
    return _Change(kind, f"{abs(after - before):.4g}", since)


def excerpt(text: str, characters: int | None = None) -> Excerpt:
    """Cut a text that is longer than a page shows.

    Args:
        text: the text, as far as it was kept.
        characters: its length before; None if all of it was kept.
    """
    whole = len(text) if characters is None else characters
    if whole <= SHOWN_CHARACTERS:
        return Excerpt(text)
    shown = min(len(text), SHOWN_CHARACTERS)
    return Excerpt(text[:shown], f"[cut here: {shown:,} of {whole:,} characters are shown]")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"


def _ended(reason: str) -> str:
    return {"stop": "ended by itself", "length": "cut at max_tokens", "choice": "likeliest choice"}.get(
        reason, reason
    )
