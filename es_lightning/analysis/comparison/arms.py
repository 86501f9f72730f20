"""Runs that are the same apart from their seeds are one arm of a comparison; its label says what it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from es_lightning.analysis.comparison.runs import Run
from es_lightning.errors import UsageError

SHOWN = 3
"""Settings in a label."""

_MISSING = "not set"


@dataclass(frozen=True)
class Arm:
    """Runs that differ in their seeds alone, or that were put together by hand.

    Args:
        label: what it is called.
        runs: one for each seed.
        mixed: settings in which its runs differ, although they were put together by hand.
    """

    label: str
    runs: tuple[Run, ...]
    mixed: tuple[str, ...] = ()

    @property
    def seeds(self) -> int:
        """Number of runs."""
        return len(self.runs)


def arms_of(runs: Sequence[Run], labels: Sequence[str | None]) -> list[Arm]:
    """Put runs together, in the order in which their arms come first.

    Args:
        runs: of the same task.
        labels: for each run the arm that it was put into by hand; None where its settings decide.

    Raises:
        UsageError: two runs are one and the same training.
    """
    groups: list[tuple[str | None, list[Run]]] = []
    for run, label in zip(runs, labels, strict=True):
        found = next((group for group in groups if _belongs(run, label, group)), None)
        if found is None:
            groups.append((label, [run]))
        else:
            found[1].append(run)
    for _, members in groups:
        _check_different(members)
    return [
        Arm(name, tuple(members), tuple(differing([run.settings for run in members])))
        for name, (_, members) in zip(_names(groups), groups, strict=True)
    ]


def _belongs(run: Run, label: str | None, group: tuple[str | None, list[Run]]) -> bool:
    if label is not None or group[0] is not None:
        return label == group[0]
    first = group[1][0]
    return (run.method, run.settings) == (first.method, first.settings)


def _check_different(runs: Sequence[Run]) -> None:
    """Refuse a run that is there twice: it would make the band over seeds too narrow."""
    for index, run in enumerate(runs):
        for other in runs[:index]:
            if is_repeat(run, other):
                raise UsageError(
                    f"{other.name} and {run.name} are the same training with the same seed, and not two "
                    "samples of it: give one of them."
                )


def is_repeat(run: Run, other: Run) -> bool:
    """Whether two runs are one and the same training: same method, settings and seed, or same weights."""
    if run.checksum is not None and run.checksum == other.checksum:
        return True
    made = [(each.method, each.settings, each.seed) for each in (run, other)]
    return run.seed is not None and made[0] == made[1]


def differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of the settings that are not the same in all of them, in alphabetical order."""
    names = sorted({name for each in settings for name in each})
    first, *others = settings
    return [
        name
        for name in names
        if any(each.get(name, _MISSING) != first.get(name, _MISSING) for each in others)
    ]


def _names(groups: Sequence[tuple[str | None, list[Run]]]) -> list[str]:
    """Name each arm: by hand, or by its method and the settings in which the method's arms differ."""
    names = [label or _described(members[0], groups) for label, members in groups]
    counts, seen = Counter(names), Counter[str]()
    for index, name in enumerate(names):
        seen[name] += 1
        if counts[name] > 1:
            names[index] = f"{name} ({seen[name]})"
    return names


def _described(run: Run, groups: Sequence[tuple[str | None, list[Run]]]) -> str:
    alike = [
        members[0].settings for label, members in groups if not label and members[0].method == run.method
    ]
    keys = differing(alike)
    shown = [
        f"{short} {_word(run.settings.get(key))}" for key, short in zip(keys, shortest(keys), strict=True)
    ]
    more = [f"and {len(shown) - SHOWN} more"] if len(shown) > SHOWN else []
    return ", ".join([run.method, *shown[:SHOWN], *more])


def shortest(keys: Sequence[str]) -> list[str]:
    """Shorten dotted names to their last words, as few as tell them apart."""
    split = [key.split(".") for key in keys]
    short = []
    for parts in split:
        size = 1
        while size < len(parts) and sum(other[-size:] == parts[-size:] for other in split) > 1:
            size += 1
        short.append(".".join(parts[-size:]))
    return short


def _word(value: Any) -> str:
    if value is None:
        return "none"
    text = f"{value:g}" if isinstance(value, float) else str(value)
    last = text.rpartition(".")[2] if isinstance(value, str) and "/" not in text else text
    return last if len(last) <= 30 else f"{last[:27]}..."
