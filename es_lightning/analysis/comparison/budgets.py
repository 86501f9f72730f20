"""Equal cost: what each run had reached when it had spent about as much as all runs have spent.

Nothing is interpolated. A run counts with its evaluation nearest to a budget, at most ``SLACK`` beyond it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from es_lightning.analysis.comparison.runs import Evaluated, Run
from es_lightning.analysis.intervals import Array, batch_error, t_quantile

UPDATES = "updates"
"""The axis that is no cost."""
SLACK = 0.05
"""Share of a budget that a run may spend beyond it.

Without it, of two runs that differ by a second, one counts with its end and the other with the evaluation
before.
"""


def last_within(evaluations: Sequence[Evaluated], axis: str, budget: float) -> Evaluated | None:
    """Return the last evaluation that had cost no more than a budget; None if there is none.

    Args:
        evaluations: of one run on one split, in the order of updates.
        axis: one of ``AXES``, or ``updates``.
        budget: in units of the axis.
    """
    within = [each for each in evaluations if spent(each, axis) <= budget]
    return within[-1] if within else None


def nearest(evaluations: Sequence[Evaluated], axis: str, budget: float) -> Evaluated | None:
    """Return the evaluation whose cost is nearest to a budget, at most ``SLACK`` beyond; None without one.

    Args:
        evaluations: of one run on one split, in the order of updates; the later of two that are equally near
            is returned.
        axis: one of ``AXES``, or ``updates``.
        budget: in units of the axis.
    """
    within = [each for each in evaluations if spent(each, axis) <= budget * (1 + SLACK)]
    return min(reversed(within), key=lambda each: abs(spent(each, axis) - budget), default=None)


def common_budget(runs: Sequence[Run], axis: str, split: str) -> float:
    """Return the smallest cost of the runs' last evaluations: all of them have got so far.

    Args:
        runs: each with an evaluation on the split.
        axis: one of ``AXES``, or ``updates``.
        split: ``val`` or ``test``.
    """
    return min(spent(run.on(split)[-1], axis) for run in runs)


def never_meeting(runs: Sequence[Run], axis: str, split: str) -> str | None:
    """Say why runs cannot be compared at equal cost: one was evaluated first when another had ended.

    Args:
        runs: each with an evaluation on the split.
        axis: one of ``AXES``, or ``updates``.
        split: ``val`` or ``test``.

    Returns:
        The sentence; None if they can.
    """
    budget = common_budget(runs, axis, split)
    latest = max(runs, key=lambda run: spent(run.on(split)[0], axis))
    first = spent(latest.on(split)[0], axis)
    if first <= budget * (1 + SLACK):
        return None
    return (
        f"{latest.name} had already cost {first:,.6g} {axis} at its first {split} evaluation, more than "
        f"another run in all ({budget:,.6g})"
    )


def spent(evaluation: Evaluated, axis: str) -> float:
    """Return what training had cost, or the updates that it had made."""
    return float(evaluation.step) if axis == UPDATES else evaluation.spent(axis)


@dataclass(frozen=True)
class Band:
    """The mean of an arm's runs along an axis, as steps: each value holds until the next cost.

    Args:
        costs: [K], rising.
        mean: [K], over the runs.
        low: [K], lower end of Student's 95 % interval over the runs; NaN with one run.
        high: [K], upper end.
        seeds: number of runs.
    """

    costs: Array
    mean: Array
    low: Array
    high: Array
    seeds: int


def band(runs: Sequence[Run], axis: str, split: str) -> Band:
    """Average the rewards of an arm's runs where all of them have got, and none has ended.

    Args:
        runs: of one arm, each with an evaluation on the split.
        axis: one of ``AXES``, or ``updates``.
        split: ``val`` or ``test``.
    """
    curves = [run.on(split) for run in runs]
    first, last = (
        max(spent(each[0], axis) for each in curves),
        min(spent(each[-1], axis) for each in curves),
    )
    costs = sorted({cost for each in curves for one in each if first <= (cost := spent(one, axis)) <= last})
    values = np.array([[_reward(each, axis, cost) for cost in costs] for each in curves])
    mean, error = values.mean(axis=0), batch_error(values)
    half = t_quantile(len(runs) - 1) * error if len(runs) > 1 else error
    return Band(np.array(costs), mean, mean - half, mean + half, len(runs))


def _reward(evaluations: Sequence[Evaluated], axis: str, cost: float) -> float:
    found = last_within(evaluations, axis, cost)
    assert found is not None, "the band begins where all runs have been evaluated"
    return found.reward
