"""How far two arms are apart on the same problems, and how sure that is over problems and over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan, sqrt

from es_lightning.analysis.intervals import Array, Estimate, of_sources, source


@dataclass(frozen=True)
class Difference:
    """Mean reward of one arm minus that of another, on the same problems.

    Args:
        estimate: with its 95 % interval; ``how`` names the sources that the interval has.
        problems_error: standard error over problems, NaN with one problem.
        seeds_error: standard error over seeds, of the arms that have several; NaN if none has.
        problems: number P of problems.
        seeds: runs of either arm.
    """

    estimate: Estimate
    problems_error: float
    seeds_error: float
    problems: int
    seeds: tuple[int, int]


def difference(one: Array, other: Array) -> Difference:
    """Estimate how much better ``one`` is than ``other``, paired problem by problem.

    Rewards are first averaged over an arm's seeds. The problems are a sample of the problems of their kind,
    and the differences d_p spread over them: V_P = var(d_p) / P. The seeds are a sample of possible runs, and
    the runs' means m_s spread over them: V_s = var(m_s) / S for each arm. The variance of the difference is
    V_P + V_1 + V_2. What is peculiar to one run on one problem is in both, so the sum is a little too large
    and never too small. The interval is Student's, with the degrees of freedom of Satterthwaite (1946). An
    arm with a single run has no V_s: the interval then says nothing of its other seeds.

    Args:
        one: [S1, P] rewards of the runs of an arm; the problems are in the same order in both.
        other: [S2, P] of the other arm.
    """
    problems, seeds = one.shape[1], (len(one), len(other))
    per_problem = one.mean(axis=0) - other.mean(axis=0)
    of_problems = source(per_problem)
    of_seeds = source(one.mean(axis=1)) + source(other.mean(axis=1))
    names = [f"{problems} problems"] * bool(of_problems) + [f"{seeds[0]} and {seeds[1]} seeds"] * bool(
        of_seeds
    )
    how = f"t over {' and '.join(names)}" if names else ""
    return Difference(
        of_sources(float(per_problem.mean()), of_problems + of_seeds, how),
        _error(of_problems),
        _error(of_seeds),
        problems,
        seeds,
    )


def _error(sources: Sequence[tuple[float, int]]) -> float:
    return sqrt(sum(variance for variance, _ in sources)) if sources else nan
