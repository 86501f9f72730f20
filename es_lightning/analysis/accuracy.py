"""Accuracy: the share of problems solved, with its binomial interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from es_lightning.records import Evaluation, Generation

ACCURACY = "accuracy"
"""Component of a task's reward that says what is right."""
CONFIDENCE = 0.95
"""Level of the intervals that summaries and pictures show."""


@dataclass(frozen=True)
class Accuracy:
    """How many problems were solved.

    Args:
        right: problems solved.
        of: problems there were, at least 1.
    """

    right: int
    of: int

    @property
    def rate(self) -> float:
        """Share of the problems solved, 0 to 1."""
        return self.right / self.of

    def interval(self) -> tuple[float, float]:
        """Return the ends of Wilson's 95 % interval: what other problems of the kind might have given."""
        from scipy.stats import binomtest

        found = binomtest(self.right, self.of).proportion_ci(CONFIDENCE, method="wilson")
        return float(found.low), float(found.high)

    def numbers(self) -> dict[str, float]:
        """Return ``right``, ``of``, ``rate``, and the interval's ends ``low`` and ``high``."""
        low, high = self.interval()
        return {"right": self.right, "of": self.of, "rate": self.rate, "low": low, "high": high}


def marks(evaluation: Evaluation) -> list[float] | None:
    """Return for each problem whether it was solved: 1.0 or 0.0, or the mean over its samples.

    That is the component ``accuracy`` of a task that has one, and otherwise the reward, if every reward is 0
    or 1. A completion whose grader failed solves nothing. Samples of one problem are not independent, so a
    problem counts once, by their mean.

    Args:
        evaluation: the results of one set of weights.

    Returns:
        One number for each problem; None if the task does not say what is right.
    """
    if _is_named(evaluation):
        return named_marks(evaluation)
    return _shares([score["reward"] for score in evaluation.scores], len(evaluation.prompts))


def named_marks(evaluation: Evaluation) -> list[float] | None:
    """Return the same by the component ``accuracy`` alone; None if the task has none."""
    if not _is_named(evaluation):
        return None
    return _shares([score.get(ACCURACY, 0.0) for score in evaluation.scores], len(evaluation.prompts))


def _is_named(evaluation: Evaluation) -> bool:
    return any(ACCURACY in score for score in evaluation.scores)


def _shares(values: Sequence[float], prompts: int) -> list[float] | None:
    """Average marks over each problem's samples; None unless all are 0 or 1."""
    if not values or not set(values) <= {0.0, 1.0}:
        return None
    samples = len(values) // prompts
    return [sum(values[i : i + samples]) / samples for i in range(0, len(values), samples)]


def population_accuracy(record: Generation) -> dict[str, float]:
    """Return ``accuracy``, the mean over the population, and ``accuracy_best``, that of its best member.

    The best member is known where the reward is the accuracy: of other numbers, only means are gathered from
    the ranks. Empty if the task does not say what is right.
    """
    rewards, reward = record.rewards, float(record.rewards.mean())
    of_samples = abs(record.scores.get("reward", reward) - reward) < 1e-9  # as they are not with pass@k
    binary = of_samples and bool(((rewards == 0) | (rewards == 1)).all())
    mean = record.scores.get("accuracy", reward if binary else None)
    if mean is None:
        return {}
    is_reward = binary or abs(mean - reward) < 1e-9
    best = {"accuracy_best": float(rewards.mean(dim=1).max())} if is_reward else {}
    return {"accuracy": mean, **best}
