"""The numbers of a comparison: rewards at equal cost and at the end, their differences, stability, signs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from es_lightning.analysis.comparison.agreement import check_agreement
from es_lightning.analysis.comparison.arms import Arm, arms_of
from es_lightning.analysis.comparison.budgets import UPDATES, common_budget, nearest, never_meeting
from es_lightning.analysis.comparison.differences import Difference, difference
from es_lightning.analysis.comparison.forgotten import Forgotten, forgotten
from es_lightning.analysis.comparison.hacking import KL_LIMIT, suspicions
from es_lightning.analysis.comparison.runs import AXES, Evaluated, Run, curve_split
from es_lightning.analysis.intervals import Array, Estimate, over
from es_lightning.errors import UsageError


@dataclass(frozen=True)
class Reached:
    """What an arm has reached at one moment of each of its runs.

    Args:
        evaluations: one of each run.
        reward: mean over seeds, with its interval over seeds.
        versus: how much better it is than the first arm; None for the first arm itself.
    """

    evaluations: tuple[Evaluated, ...]
    reward: Estimate
    versus: Difference | None


@dataclass(frozen=True)
class AtBudget:
    """All arms at equal cost.

    Args:
        axis: one of ``AXES``, or ``updates``.
        budget: the smallest cost of a run's last evaluation.
        reached: per arm, on the split of the curves.
        test: per arm on the test split; None where a run was not tested at that moment.
    """

    axis: str
    budget: float
    reached: tuple[Reached, ...]
    test: tuple[Reached | None, ...]


@dataclass(frozen=True)
class Stability:
    """How different the runs of an arm are, by their last evaluations.

    Args:
        deviation: standard deviation over seeds; NaN with one.
        worst: reward of the worst run.
        best: reward of the best run.
        below_start: runs that ended below their start, see ``Run.course``.
        largest_fall: of a run's reward from its best evaluation to its last.
    """

    deviation: float
    worst: float
    best: float
    below_start: int
    largest_fall: float


@dataclass(frozen=True)
class Comparison:
    """Everything that a report shows.

    Args:
        task: name of the task.
        arms: in their order; the first is the one that others are compared with.
        split: whose rewards make the curves, ``val`` or ``test``.
        budgets: at equal cost, per axis, then at equal updates; without those at which not all runs meet.
        apart: why there is no budget of an axis, for each that has none.
        ends: split and, per arm, the last evaluation of each run on it; costs differ.
        stability: per arm.
        forgotten: by prior task what each arm has forgotten of it, None where that was not measured.
        suspicions: per arm the runs that are suspected of a hacked reward, each with its signs.
    """

    task: str
    arms: tuple[Arm, ...]
    split: str
    budgets: tuple[AtBudget, ...]
    apart: dict[str, str]
    ends: tuple[str, tuple[Reached, ...]]
    stability: tuple[Stability, ...]
    forgotten: dict[str, tuple[Forgotten | None, ...]]
    suspicions: tuple[dict[str, list[str]], ...]

    @property
    def runs(self) -> list[Run]:
        """All runs, arm by arm."""
        return [run for arm in self.arms for run in arm.runs]


def compare(runs: Sequence[Run], labels: Sequence[str | None], kl_limit: float = KL_LIMIT) -> Comparison:
    """Compare runs of one task.

    Args:
        runs: at least two.
        labels: for each run the arm that it was put into by hand; None where its settings decide.
        kl_limit: nats per token from the base model from which on a run is suspected.

    Raises:
        UsageError: they cannot be compared.
    """
    if len(runs) < 2:
        raise UsageError("there is nothing to compare: give the folders of two runs or more.")
    check_agreement(runs)
    arms = arms_of(runs, labels)
    split = curve_split(runs)
    if split is None:
        without = next(run.name for run in runs if not run.on("val"))
        raise UsageError(
            f"{without} has no validation, and not all runs were tested: leave it out, or compare runs whose "
            "task has validation problems."
        )
    why = {axis: never_meeting(runs, axis, split) for axis in (*AXES, UPDATES)}
    apart = {axis: reason for axis, reason in why.items() if reason is not None}
    if len(apart) == len(why):
        raise UsageError(f"{next(iter(apart.values()))}: leave one of the two out.")
    last = "test" if all(map(_ends_with_a_test, runs)) else split
    return Comparison(
        task=next((run.task for run in runs if run.task), "unnamed task"),
        arms=tuple(arms),
        split=split,
        budgets=tuple(at_budget(arms, axis, split) for axis in why if axis not in apart),
        apart=apart,
        ends=(last, _all_reached([[run.on(last)[-1] for run in arm.runs] for arm in arms])),
        stability=tuple(stability(arm, split) for arm in arms),
        forgotten=forgotten(arms),
        suspicions=tuple(_suspicions(arm, split, kl_limit) for arm in arms),
    )


def _ends_with_a_test(run: Run) -> bool:
    """Whether the last model that was evaluated was tested; a stopped run may have tested its base alone."""
    tests = run.on("test")
    return bool(tests) and tests[-1].step == run.evaluations[-1].step


def at_budget(arms: Sequence[Arm], axis: str, split: str) -> AtBudget:
    """Compare arms at the smallest cost that all of their runs have got to.

    Args:
        arms: the first is the one that the others are compared with.
        axis: one of ``AXES``, or ``updates``.
        split: whose rewards are compared.
    """
    budget = common_budget([run for arm in arms for run in arm.runs], axis, split)
    found = [[_near(run, axis, split, budget) for run in arm.runs] for arm in arms]
    tests = [_tests_of(arm, evaluations) for arm, evaluations in zip(arms, found, strict=True)]
    return AtBudget(axis, budget, _all_reached(found), _reached_by_some(tests))


def _near(run: Run, axis: str, split: str, budget: float) -> Evaluated:
    found = nearest(run.on(split), axis, budget)
    assert found is not None, "runs that never meet have no budget"
    return found


def _tests_of(arm: Arm, evaluations: Sequence[Evaluated]) -> list[Evaluated]:
    """Return the tests of the models that were evaluated; none unless every run has one."""
    tests = [
        next((test for test in run.on("test") if test.is_of_model_of(each)), None)
        for run, each in zip(arm.runs, evaluations, strict=True)
    ]
    known = [each for each in tests if each is not None]
    return known if len(known) == arm.seeds else []


def _all_reached(evaluations: Sequence[Sequence[Evaluated]]) -> tuple[Reached, ...]:
    """Compare arms with the first one, each by an evaluation of each of its runs."""
    return tuple(each for each in _reached_by_some(evaluations) if each is not None)


def _reached_by_some(evaluations: Sequence[Sequence[Evaluated]]) -> tuple[Reached | None, ...]:
    """Do the same where some arms have no evaluations, whose place is None."""
    first = _rewards(evaluations[0]) if evaluations[0] else None
    return tuple(
        _reached(each, first if index else None) if each else None for index, each in enumerate(evaluations)
    )


def _reached(evaluations: Sequence[Evaluated], first: Array | None) -> Reached:
    table = _rewards(evaluations)
    versus = None if first is None else difference(table, first)
    return Reached(tuple(evaluations), over(table.mean(axis=1), "seeds"), versus)


def _rewards(evaluations: Sequence[Evaluated]) -> Array:
    """Return the rewards of an arm's runs, [S, P], with the problems in alphabetical order."""
    problems = sorted(evaluations[0].rewards)
    return np.array([[each.rewards[problem] for problem in problems] for each in evaluations])


def stability(arm: Arm, split: str) -> Stability:
    """Tell how different the runs of an arm are."""
    curves = [[each.reward for each in run.on(split)] for run in arm.runs]
    courses = [run.course(split) for run in arm.runs]
    last = [curve[-1] for curve in curves]
    return Stability(
        deviation=float(np.std(last, ddof=1)) if len(last) > 1 else np.nan,
        worst=min(last),
        best=max(last),
        below_start=sum(each[-1].reward < each[0].reward for each in courses),
        largest_fall=max(max(curve) - curve[-1] for curve in curves),
    )


def _suspicions(arm: Arm, split: str, kl_limit: float) -> dict[str, list[str]]:
    found = {run.name: suspicions(run, split, kl_limit) for run in arm.runs}
    return {name: signs for name, signs in found.items() if signs}
