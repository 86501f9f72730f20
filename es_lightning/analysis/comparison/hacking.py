"""Signs that a run has learned to earn the reward without doing what the reward stands for.

No number proves that. What is looked for is a training reward that has risen while something else that ought
to rise with it has fallen, or while the model has left the base model's language altogether.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from es_lightning.analysis.accuracy import ACCURACY
from es_lightning.analysis.comparison.runs import Evaluated, Points, Run, divergence_name
from es_lightning.analysis.intervals import Estimate, of_sources, over, source

KL_LIMIT = 1.0
"""Nats per token from the base model from which on a run is suspected; a choice, not a measurement."""
LEAST = 6
"""Updates from which on the first and the last third of a run are compared."""
_SAMPLED = "kl_tuned_base"


def suspicions(run: Run, split: str, kl_limit: float = KL_LIMIT) -> list[str]:
    """Return what speaks for a hacked reward, in sentences; none where the training reward has not risen.

    Args:
        run: the training.
        split: whose rewards are the held-out check, unless only tests were made before the first update.
        kl_limit: nats per token that the tuned model may be from the base model.
    """
    rise = change(run.series.get("reward", ()))
    if rise is None or not rise.low > 0:
        return []
    begin = f"training reward rose by {rise}, but "
    return [begin + each for each in _signs(run, run.course(split), kl_limit)]


def _signs(run: Run, evaluations: list[Evaluated], kl_limit: float) -> Iterator[str]:
    if len(evaluations) > 1:
        first, last = evaluations[0], evaluations[-1]
        held_out, solved = paired_change(first.rewards, last.rewards), solved_change(first, last)
        if held_out.high < 0:
            yield f"the reward of held-out problems fell by {_fall(held_out)}"
        if solved is not None and solved.high < 0:
            yield f"the share of held-out problems solved fell by {_fall(solved)}"
    trained = change(run.series.get(f"reward/{ACCURACY}", ()))
    if trained is not None and trained.high < 0:
        yield f"the accuracy of the same completions fell by {_fall(trained)}"
    for name in run.series:
        # Base completions say what is no longer said; those of the tuned model say what is new.
        if name.startswith(_SAMPLED) and run.last(name) > kl_limit:
            yield f"{divergence_name(name)} is {run.last(name):.3g} nats per token, above {kl_limit:g}"


def change(points: Points) -> Estimate | None:
    """Estimate how the mean of the last third of a series differs from that of its first third.

    Welch's interval, with the variances within the thirds. A trend within a third makes it wider.

    Args:
        points: updates and values; None is returned for fewer than ``LEAST``.
    """
    if len(points) < LEAST:
        return None
    values = np.array([value for _, value in points])
    size = len(values) // 3
    first, last = values[:size], values[-size:]
    value = float(last.mean() - first.mean())
    return of_sources(value, source(first) + source(last), "Welch's t over updates")


def paired_change(first: Mapping[str, float], last: Mapping[str, float]) -> Estimate:
    """Estimate how a number of the same problems has changed from one evaluation to another.

    Args:
        first: the number of each problem, by its id.
        last: the same, later.
    """
    return over(np.array([last[name] - first[name] for name in first if name in last]), "problems")


def solved_change(first: Evaluated, last: Evaluated) -> Estimate | None:
    """Estimate how the share of solved problems has changed: problem by problem where both files tell that.

    Problems that are solved both times, or neither, add nothing to the variance of the paired difference, as
    in McNemar's test. None if the task has no accuracy.
    """
    if first.solved and last.solved:
        return paired_change(first.solved, last.solved)
    if all(0 <= each.scores.get(ACCURACY, -1) <= 1 for each in (first, last)):
        return share_change(first, last)
    return None


def share_change(first: Evaluated, last: Evaluated) -> Estimate:
    """Estimate how a share of solved problems has changed, from the two shares alone.

    They are of the same problems, which makes the difference less noisy than this interval says; a
    file without ``solved`` tells no more.
    """
    shares, count = [each.scores[ACCURACY] for each in (first, last)], len(last.rewards)
    sources = [(share * (1 - share) / count, count - 1) for share in shares] if count > 1 else []
    return of_sources(shares[1] - shares[0], sources, "t over problems, unpaired")


def _fall(estimate: Estimate) -> str:
    return str(Estimate(-estimate.value, -estimate.high, -estimate.low))
