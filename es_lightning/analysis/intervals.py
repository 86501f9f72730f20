"""95 % intervals of means: a number with its interval, and Student's t over independent repetitions."""

from __future__ import annotations

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
