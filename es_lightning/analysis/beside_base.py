"""The numbers of a tuned model beside its base: rows of one table, and names for loggers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import nan
from typing import Any

from es_lightning.analysis.course import Course, course, mean_course
from es_lightning.analysis.forgetting import ALONG_A_RUN, Look, measured, solved_course
from es_lightning.analysis.geometry import metrics

Row = dict[str, Any]
WEIGHTS, KL, TASK, PRIOR = "weights", "divergence", "task", "prior"
"""Parts of the table."""
CHANGED = "share_changed"
_WORDS = {
    "kl_base_tuned": "KL(base||tuned)",
    "kl_tuned_base": "KL(tuned||base)",
    "kl_tuned_base_k3": "KL(tuned||base), k3",
}
PER_TOKEN = tuple(_WORDS)
"""Names of the divergences per token."""
_UNITS = {"": "nats per token", "_completion": "nats per completion"}


@dataclass(frozen=True)
class Pair:
    """What the base model and the tuned one earned on the same problems.

    Args:
        split: of the problems.
        base: of the base model.
        tuned: of the tuned one.
        problems: their ids, in order; empty if nobody asks.
    """

    split: str
    base: Look
    tuned: Look
    problems: Sequence[str] = ()

    @property
    def earned(self) -> Course:
        """The mean reward, and its change."""
        return course(self.base.rewards, [self.tuned.rewards])

    @property
    def solved(self) -> Course | None:
        """The share of problems solved, and its change; None if the task does not say what is right."""
        return solved_course(self.base, [self.tuned])


@dataclass(frozen=True)
class Found:
    """What was measured.

    Args:
        geometry: the table of ``es_lightning.analysis.geometry``.
        divergences: in nats, ``kl_base_tuned``, ``kl_tuned_base`` and ``kl_tuned_base_k3``, each per token,
            and with ``_completion`` and ``_se``; empty if there were no tokens to compare.
        divergence_prompts: completions of each model that they are over; 0 if nothing is generated for any
            of the task's problems.
        task: on the config's own task.
        prior: on each prior task.
    """

    geometry: Mapping[str, Any]
    divergences: Mapping[str, float]
    divergence_prompts: int
    task: Pair
    prior: Mapping[str, Pair]


def rows(found: Found) -> list[Row]:
    """Return the rows of the table; what does not apply is NaN.

    A row has ``part``, ``of`` and ``quantity``; for rewards and accuracies the values ``base`` and ``tuned``;
    ``change``, which is the number itself where it compares the two models; its standard error ``se``, for
    rewards from the differences problem by problem; and the number of ``problems``.
    """
    return [*_weights(found.geometry), *_nats(found), *_rewards(found)]


def _weights(geometry: Mapping[str, Any]) -> Iterator[Row]:
    for group, row in {"all": geometry["all"], **geometry["groups"]}.items():
        for name, value in _with_share(row).items():
            yield _row(WEIGHTS, group, name, nan if value is None else value)


def _with_share(row: Mapping[str, Any]) -> dict[str, Any]:
    """Add the share of entries that changed as far as the base's precision can tell."""
    counts = ("tensors", "entries")
    numbers = {name: value for name, value in row.items() if name not in counts}
    return {CHANGED: 1 - row["sparsity_ulp"], **numbers}


def _nats(found: Found) -> Iterator[Row]:
    for metric, words in _WORDS.items():
        for end, unit in _UNITS.items():
            if metric + end in found.divergences:
                error = found.divergences.get(f"{metric}{end}_se", nan)
                value, problems = found.divergences[metric + end], found.divergence_prompts
                yield _row(KL, words, unit, value, se=error, problems=problems)


def _rewards(found: Found) -> Iterator[Row]:
    yield from _of_pair(TASK, found.task.split, found.task)
    for name, pair in found.prior.items():
        yield from _of_pair(PRIOR, name, pair)
    solved = _all_solved(found)
    if len(solved) > 1:
        problems = sum(len(pair.base.rewards) for pair in found.prior.values() if pair.solved is not None)
        yield _changed(PRIOR, f"mean of {len(solved)}", "accuracy", mean_course(solved), problems)


def _all_solved(found: Found) -> list[Course]:
    return [solved for pair in found.prior.values() if (solved := pair.solved) is not None]


def _of_pair(part: str, of: str, pair: Pair) -> Iterator[Row]:
    problems = len(pair.base.rewards)
    yield _changed(part, of, "reward", pair.earned, problems)
    if pair.solved is not None:
        yield _changed(part, of, "accuracy", pair.solved, problems)


def _changed(part: str, of: str, quantity: str, followed: Course, problems: int) -> Row:
    change, error = float(followed.changes[-1]), followed.error()
    both = {"base": followed.base, "tuned": followed.base + change}
    return _row(part, of, quantity, change, se=nan if error is None else error, problems=problems, **both)


def _row(part: str, of: str, quantity: str, change: float, **others: Any) -> Row:
    empty = {"part": part, "of": of, "quantity": quantity, "base": nan, "tuned": nan}
    return {**empty, "change": change, "se": nan, "problems": "", **others}


def summary(pair: Pair) -> dict[str, Any]:
    """Return a pair's numbers as plain JSON, named as ``Forgetting`` names them in its table.

    ``by_problem`` is the change of the accuracy, or of the reward where there is none, by the problem's id.
    """
    numbers = {"split": pair.split, "problems": len(pair.base.rewards), **_summary(pair.earned)}
    numbers |= {} if pair.solved is None else {"accuracy": _summary(pair.solved)}
    return numbers | ({"by_problem": _by_problem(pair)} if pair.problems else {})


def _by_problem(pair: Pair) -> dict[str, float]:
    base, tuned = pair.base.rewards, pair.tuned.rewards
    if pair.solved is not None:
        base, tuned = pair.base.solved or (), pair.tuned.solved or ()
    return {problem: b - a for problem, a, b in zip(pair.problems, base, tuned, strict=True)}


def _summary(followed: Course) -> dict[str, Any]:
    change = float(followed.changes[-1])
    return {
        "base": followed.base,
        "final": followed.base + change,
        "change": change,
        "change_se": followed.error(),
    }


def named_metrics(found: Found, task: str) -> dict[str, float]:
    """Name the numbers for loggers as the callbacks do: ``geometry/...``, ``kl_.../<task>``, ``prior/...``.

    Args:
        found: what was measured.
        task: name of the config's task, of characters that loggers take.
    """
    named = {**metrics(found.geometry), **_kl_named(found.divergences, task)}
    for quantity, followed in {"reward": found.task.earned, "accuracy": found.task.solved}.items():
        if followed is not None:
            told = _summary(followed)
            key = f"{found.task.split}/{quantity}"
            named |= {f"{key}_base": told["base"], key: told["final"], f"{key}_change": told["change"]}
            named |= {} if told["change_se"] is None else {f"{key}_change_se": told["change_se"]}
    if found.prior:
        before = {name: pair.base for name, pair in found.prior.items()}
        prior = measured(before, {name: [pair.tuned] for name, pair in found.prior.items()}, [])
        named |= {name: value for name, value in prior.items() if not name.endswith(ALONG_A_RUN)}
    return named


def _kl_named(divergences: Mapping[str, float], task: str) -> dict[str, float]:
    ends = ("_completion_se", "_completion", "_se")
    named = {}
    for name, value in divergences.items():
        end = next((each for each in ends if name.endswith(each)), "")
        named[f"{name.removesuffix(end)}/{task}{end}"] = value
    return named
