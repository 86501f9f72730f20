"""How a mean over problems goes from look to look: paired changes, and the lowest value with its null.

Notation: P problems, the same at every look, word for word; x_ip is what problem p earned at look i, and look
0 is the one that all others are compared with. d_ip = x_ip - x_0p.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import mean

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
DRAWS = 4000
DOUBT = 0.05
"""Share of the runs that forget nothing whose lowest look is below ``Course.lowest_bound``."""


@dataclass(frozen=True)
class Course:
    """How the mean of one quantity has gone since the first look.

    Args:
        base: the mean at the first look.
        changes: float64 [k + 1], the changes since then; the first is that of the first look itself, 0.
        covariance: float64 [k + 1, k + 1], of the changes; None if there is only one problem.
        freedom: P - 1, the degrees of freedom of the covariance.
    """

    base: float
    changes: Array
    covariance: Array | None
    freedom: int

    def error(self) -> float | None:
        """Return the standard error of the last change; None if there is only one problem."""
        return None if self.covariance is None else sqrt(self.covariance[-1, -1])

    def lowest_by_chance(self) -> tuple[float, float] | None:
        """Return what the lowest value would be if nothing had changed, and the p-value of the one found.

        The lowest of k noisy values is below their mean: by 1.87 standard errors if they are 20 independent
        ones. Looks are not independent: all are compared with the same first one, and neighbouring centres
        solve the same problems. So the null is the lowest of k + 1 normal changes with mean 0 and the
        covariance that was found. The p-value is the share of such changes, of Student's t with P - 1
        degrees of freedom, of which one is as low as the lowest that was found.

        Returns:
            The mean of the lowest value over 4000 draws, and p; None if there is only one problem.
        """
        drawn = self._drawn_lowest()
        if drawn is None:
            return None
        lowest, tails = drawn
        p_value = np.mean(tails <= self.changes.min() + 1e-12)  # rounding may not turn a tie into less
        return self.base + float(lowest.mean()), float(p_value)

    def lowest_bound(self, doubt: float = DOUBT) -> float | None:
        """Return the value that the lowest look is below in 5 of 100 runs that forget nothing.

        By the draws of the p-value of ``lowest_by_chance``: the lowest look is below this value where p is
        below ``doubt``.

        Args:
            doubt: another share of such runs.

        Returns:
            In units of the quantity; None if there is only one problem.
        """
        drawn = self._drawn_lowest()
        if drawn is None:
            return None
        return self.base + float(np.quantile(drawn[1], doubt, method="inverted_cdf"))

    def _drawn_lowest(self) -> tuple[Array, Array] | None:
        """Draw the lowest change if nothing had changed, normal and Student's t, [DRAWS] each."""
        if self.covariance is None:
            return None
        generator, centre = np.random.default_rng(0), np.zeros(len(self.changes))
        changes = generator.multivariate_normal(
            centre, self.covariance, DRAWS, check_valid="ignore", method="eigh"
        )
        lowest = changes.min(axis=1)
        return lowest, lowest * np.sqrt(self.freedom / generator.chisquare(self.freedom, DRAWS))


def course(before: Sequence[float], looks: Sequence[Sequence[float]]) -> Course:
    """Follow one quantity of one task: the mean change of d_ip over problems, Cov = cov(d_i, d_j) / P.

    Args:
        before: P numbers at the first look.
        looks: per later look P numbers of the same problems.
    """
    size = len(before)
    differences = np.array([np.zeros(size), *(np.subtract(look, before) for look in looks)])
    covariance = np.atleast_2d(np.cov(differences)) / size if size > 1 else None
    return Course(mean(before), differences.mean(axis=1), covariance, size - 1)


def mean_course(courses: Sequence[Course]) -> Course:
    """Average one quantity over T tasks, which have to have it in the same unit and at the same looks.

    The tasks' problems are not the same, so the covariances add up: sum_t Cov_t / T^2.

    Args:
        courses: one per task.
    """
    known = [each.covariance for each in courses if each.covariance is not None]
    covariance = np.sum(known, axis=0) / len(courses) ** 2 if len(known) == len(courses) else None
    changes = np.mean([each.changes for each in courses], axis=0)
    return Course(
        mean(each.base for each in courses), changes, covariance, sum(each.freedom for each in courses)
    )
