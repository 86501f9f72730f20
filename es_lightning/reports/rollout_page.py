"""Pages of a run: one HTML file each, that needs no network and no script, whatever a model has written."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

SHOWN_CHARACTERS = 4000
LATEST = 2  # measurements of a prompt that are shown unasked, beside the first one

# Control characters, and marks that turn the direction of what follows or hide in it; Unicode, chapter 23.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e0fff]"  # tags and variation selectors, which can spell a whole hidden text
)
# Halves of pairs, which no file takes, and the two characters that stand for tags until all is escaped.
_UNUSABLE = re.compile("[\ud800-\udfff\ue000\ue001]")

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --quiet: #57606a; --paper: #ffffff; --card: #f6f8fa;
  --line: #d0d7de; --up: #116329; --down: #a40e26; --mark: #0b6bcb; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --quiet: #9aa4af; --paper: #0d1117;
  --card: #161b22; --line: #30363d; --up: #56d364; --down: #ff7b72; --mark: #79b8ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 80rem; padding: 1.5rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.45rem; margin: 0 0 .3rem; } h2 { font-size: 1.05rem; margin: 0 0 .5rem; }
section { border-top: 2px solid var(--line); padding: 1rem 0 .6rem; }
.facts { color: var(--quiet); margin: .2rem 0; } .facts b { color: var(--ink); font-weight: 600; }
.text { white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: isolate; margin: 0;
  font: 13px/1.5 ui-monospace, "SF Mono", Menlo, "DejaVu Sans Mono", monospace; }
.prompt { border-left: 4px solid var(--mark); padding: .3rem .8rem; margin-bottom: .9rem;
  max-height: 18rem; overflow: auto; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(17.5rem, 1fr)); gap: .7rem;
  margin: .6rem 0; }
article { background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: .6rem .8rem; }
article .text { max-height: 26rem; overflow: auto; margin: .4rem 0 .5rem; }
article header { display: flex; flex-wrap: wrap; gap: .1rem .6rem; align-items: baseline; }
.badges { display: flex; flex-wrap: wrap; gap: .3rem; font-size: .78rem; color: var(--quiet); }
.badges span { border: 1px solid var(--line); border-radius: 999px; padding: 0 .5rem; }
.up { color: var(--up); } .down { color: var(--down); } .change { font-weight: 600; font-size: .85rem; }
.note { color: var(--quiet); font-style: italic; font-size: .85rem; } .mark { color: var(--down); }
summary { cursor: pointer; color: var(--mark); }
"""


@dataclass(frozen=True)
class Answer:
    """One completion of a prompt.

    Args:
        updates: updates that the centre had seen.
        sample: which of the prompt's completions of that moment.
        completion: its text, as far as it was kept.
        characters: its length before it was cut.
        finish_reason: why the engine stopped.
        tokens: tokens generated.
        scores: what the task's reward returned, ``reward`` among it.
    """

    updates: int
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
        answers: (id, text) of each prompt -> its answers in the order of updates.

    Returns:
        HTML in which all that a task or a model wrote is escaped, and cut after 4000 characters.
    """
    sections = [
        _section(number, name, text, rows)
        for number, ((name, text), rows) in enumerate(answers.items(), start=1)
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # Nothing is loaded and nothing runs, whatever slipped through.
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{visible(title)}</title><style>{STYLE}</style></head><body>\n"
        f"<h1>{visible(title)}</h1>\n<p class=facts>{_facts(facts)}</p>\n"
        f"<p class=facts>{_overall(list(answers.values()))}</p>\n"
        + "\n".join(sections)
        + "\n</body></html>\n"
    )


def visible(text: str) -> str:
    """Text as HTML in which what cannot be seen is named: ``[U+202E]`` for a mark that turns the text."""
    text = _UNUSABLE.sub("\ufffd", text.replace("\r\n", "\n"))
    escaped = html.escape(_INVISIBLE.sub(lambda found: f"\ue000{ord(found[0]):04X}\ue001", text))
    return escaped.replace("\ue000", "<span class=mark>[U+").replace("\ue001", "]</span>")


def _facts(facts: Mapping[str, object]) -> str:
    return " &middot; ".join(
        f"{visible(str(key).replace('_', ' '))} <b>{visible(str(value))}</b>" for key, value in facts.items()
    )


def _overall(prompts: Sequence[Sequence[Answer]]) -> str:
    """The mean reward of all prompts at the first and the last measurement."""
    rewards: dict[int, list[float]] = {}
    for answer in (answer for rows in prompts for answer in rows):
        rewards.setdefault(answer.updates, []).append(answer.reward)
    if not rewards:
        return "Nothing was measured yet."
    means = {updates: sum(values) / len(values) for updates, values in rewards.items()}
    first, last = min(means), max(means)
    start = f"after {_updates(first)} <b>{means[first]:.4g}</b>"
    end = f", after {_updates(last)} <b>{means[last]:.4g}</b> {_change(means[first], means[last], first)}"
    asked = _count(len(prompts), "prompt")
    return f"Mean reward of {asked} {start}{end if last != first else ''}."


def _section(number: int, name: str, text: str, rows: Sequence[Answer]) -> str:
    before: dict[int, Answer] = {}
    cards = []
    for answer in rows:
        cards.append(_card(answer, before.get(answer.sample), any(row.sample for row in rows)))
        before[answer.sample] = answer
    samples = max((row.sample for row in rows), default=0) + 1
    between = cards[samples : -LATEST * samples]
    shown = cards[:samples] + cards[samples + len(between) :]
    count = _count(len(between) // samples, "measurement")
    more = f"<details><summary>{count} between</summary>{_grid(between)}</details>"
    return (
        f"<section><h2>{number}. {visible(name)}</h2><div class='prompt text' dir=auto>{_cut(text)}</div>"
        f"{_grid(shown)}{more if between else ''}</section>"
    )


def _grid(cards: Sequence[str]) -> str:
    return f"<div class=cards>{''.join(cards)}</div>"


def _card(answer: Answer, before: Answer | None, numbered: bool) -> str:
    scores = [f"{key} {_number(value)}" for key, value in answer.scores.items() if key != "reward"]
    badges = [*scores, _count(answer.tokens, "token"), _ended(answer.finish_reason)]
    sample = f", sample {answer.sample + 1}" if numbered else ""
    body = _cut(answer.completion, answer.characters) or "<span class=note>an empty completion</span>"
    return (
        f"<article><header><b>after {_updates(answer.updates)}{sample}</b>"
        f"<span>reward <b>{answer.reward:.4g}</b></span>"
        f"{_change(before.reward, answer.reward, before.updates) if before else ''}</header>"
        f"<div class=text dir=auto>{body}</div>"
        f"<div class=badges>{''.join(f'<span>{visible(badge)}</span>' for badge in badges)}</div></article>"
    )


def _change(before: float, after: float, since: int) -> str:
    """How a reward has moved since so many updates, in words, signs and colour."""
    if before == after:
        return f"<span class=change>as after {since}</span>"
    kind, words = ("up", "&#9650; better by") if after > before else ("down", "&#9660; worse by")
    return f"<span class='change {kind}'>{words} {abs(after - before):.4g} since {since}</span>"


def _cut(text: str, characters: int | None = None) -> str:
    """Text as HTML, the first 4000 characters of it."""
    whole = len(text) if characters is None else characters
    if whole <= SHOWN_CHARACTERS:
        return visible(text)
    shown = min(len(text), SHOWN_CHARACTERS)
    note = f"<span class=note>[cut here: {shown:,} of {whole:,} characters are shown]</span>"
    return f"{visible(text[:shown])}\n{note}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _updates(number: int) -> str:
    return _count(number, "update")


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"


def _ended(reason: str) -> str:
    return {"stop": "ended by itself", "length": "cut at max_tokens", "choice": "likeliest choice"}.get(
        reason, reason
    )
