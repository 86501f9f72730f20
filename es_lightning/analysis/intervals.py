"""95 % intervals of means: a number with its interval, and Student's t over independent repetitions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
import numpy.typing as npt

Z = 1.959963984540054
"""The 97.5th percentile of the normal distribution."""

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval.

    Args:
        value: the number.
        low: lower end; NaN where no interval is known.
        high: upper end.
        how: what the interval is over, in words.
    """

    value: float
    low: float
    high: float
    how: str = ""

    def __str__(self) -> str:
        """The number and its interval, as tables have it."""
        if not np.isfinite(self.value):
            return "-"
        if not np.isfinite(self.low):
            return f"{self.value:.4g}"
        return f"{self.value:.4g} ({self.low:.4g} to {self.high:.4g})"


def batch_error(values: Array) -> Array:
    """Compute the standard error of the mean over batches, NaN where there is only one.

    The bars of arXiv 2602.00170 are +-1.96 of it. With S batches, 95 % takes ``t_quantile(S - 1)``: 4.30 at
    S = 3, 2.78 at S = 5.

    Args:
        values: [S, ...], one per batch.
    """
    batches = len(values)
    if batches < 2:
        return np.full(np.shape(values)[1:], np.nan)
    return np.asarray(np.std(values, axis=0, ddof=1) / sqrt(batches))


def t_quantile(freedom: float) -> float:
    """Return the 97.5th percentile of Student's t distribution.

    Args:
        freedom: degrees of freedom, above 0; a fraction where several sources of error are added up.
    """
    from scipy.stats import t

    return float(t.ppf(0.975, freedom))


def over(values: Array, what: str) -> Estimate:
    """Estimate the mean over independent repetitions with Student's interval.

    Args:
        values: [S], one per repetition.
        what: what was repeated, in the plural: ``seeds``.
    """
    mean, count = float(np.mean(values)), len(values)
    if count < 2:
        return Estimate(mean, np.nan, np.nan, "a single value has no interval")
    half = t_quantile(count - 1) * float(batch_error(values))
    return Estimate(mean, mean - half, mean + half, f"t over {count} {what}")


def of_sources(value: float, sources: Sequence[tuple[float, int]], how: str = "") -> Estimate:
    """Return a number with Student's interval, where the variance is the sum of those of several sources.

    The degrees of freedom are Satterthwaite's (1946).

    Args:
        value: the number.
        sources: of each its share of the variance and its degrees of freedom, at least 1; without any, no
            interval is known.
        how: what the interval is over, in words.
    """
    total = sum(variance for variance, _ in sources)
    if not sources:
        half = np.nan
    elif total == 0:
        half = 0.0
    else:  # shares, since squares of small variances would vanish
        freedom = 1 / sum((variance / total) ** 2 / count for variance, count in sources)
        half = t_quantile(freedom) * sqrt(total)
    return Estimate(value, value - half, value + half, how)


def source(values: Array) -> list[tuple[float, int]]:
    """Return the variance of a mean and its degrees of freedom, for ``of_sources``; none of a single value.

    Args:
        values: [S], independent.
    """
    return [(float(batch_error(values)) ** 2, len(values) - 1)] if len(values) > 1 else []
