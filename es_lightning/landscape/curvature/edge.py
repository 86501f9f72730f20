"""Which eigenvalues of the Hessian that N seeds see are those of H, and which are the seeds' own noise.

With the eigenvectors u_i of H and z_i = E^T u_i / sqrt(N), Gaussian with variance 1 / N, the operator of
``es_hessian`` is K = sum_i lambda_i z_i z_i^T on the N - 1 dimensions that C leaves. It is symmetric for any
N, so its asymmetry says nothing of N. An off-diagonal element is a sum of many terms with mean 0 and variance
tr H^2 / N^2, so many small eigenvalues become a semicircle (Wigner 1955)

    around tr H / N, with the edges tr H / N +- 2 s,    s = sqrt(tr H^2 / N),

beyond which the outermost of N goes by as much as s N^(-2/3) times a variable of Tracy and Widom (1996). An
eigenvalue lambda of H leaves the semicircle if |lambda| > s (Baik, Ben Arous and Peche 2005; Benaych-Georges
and Nadakuditi 2011), and then stands on average at

    x = lambda + (tr H - lambda) / N + rest / (N lambda),    rest = tr H^2 - lambda^2,

which is the law of Baik and Silverstein (2006) for sample covariances up to rest of second order. With
c = 1 - rest / (N lambda^2) its standard deviation is |lambda| sqrt(2 c / N) (Paul 2007), and that of the
lambda which solves the equation |lambda| sqrt(2 / (c N)).

All of that is for a rest of many eigenvalues well below s. Few that are as large as s go further: N of them
reach to 2.6 s from the middle with both signs, and to 3 s with one (Marchenko and Pastur 1967).
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from math import cbrt, ceil, copysign, sqrt

import numpy as np
from numpy.typing import NDArray

from es_lightning.landscape.arrays import Array

TRACY_WIDOM = 1.4538
"""The 97.5th percentile for real matrices: of noise alone, an eigenvalue is outside at either end once in 20
times."""
TOLD = 0.25
"""Of an eigenvalue, the standard deviation with which it counts as told."""
ROUNDING = 1e-9  # of the largest value: what is smaller is 0
MOST_SEEDS = 10**9


@dataclass(frozen=True)
class Seen:
    """An eigenvalue of K outside the edge, and the eigenvalue of H that it stands for.

    Args:
        value: of K.
        corrected: of H.
        deviation: standard deviation of ``corrected`` over draws of the seeds.
    """

    value: float
    corrected: float
    deviation: float

    @property
    def bias(self) -> float:
        """What the seeds have added on average."""
        return self.value - self.corrected


@dataclass(frozen=True)
class SamplingNoise:
    """What N common seeds do to the eigenvalues of H.

    Args:
        trace: tr H, from pairs of the same sigma.
        trace_square: tr H^2; NaN or no more than 0 where it is not known.
        seeds: N.
    """

    trace: float
    trace_square: float
    seeds: int

    @property
    def edges(self) -> tuple[float, float]:
        """The lowest and the highest eigenvalue that noise gives; infinite where tr H^2 is not known."""
        middle, far = self.trace / self.seeds, _far(self.trace_square, self.seeds)
        return middle - far, middle + far

    def outside(self, values: Array) -> NDArray[np.bool_]:
        """Tell which eigenvalues of K are outside the edges, [m]."""
        low, high = self.edges
        if not len(values):
            return np.zeros(0, dtype=bool)
        return np.asarray(
            ((values < low) | (values > high)) & (np.abs(values) > ROUNDING * abs(values).max())
        )

    def seen(self, values: Array) -> list[Seen]:
        """Return those that are outside, largest first, each without its bias.

        The squares of larger ones are taken off the rest, and the edge stays where all of tr H^2 puts it:
        by a draw that is too large, nothing else may be seen.

        Args:
            values: eigenvalues of K, [m].
        """
        found: list[Seen] = []
        trace, square, seeds = self.trace, self.trace_square, self.seeds
        out = values[self.outside(values)]
        for value in out[np.argsort(-np.abs(out - trace / seeds))].tolist():
            each = _seen(value, trace, max(square, 0.0), seeds)
            found.append(each)
            trace, square = trace - each.corrected, square - each.corrected**2
        return found


def needed_seeds(eigenvalue: float, trace_square: float) -> int:
    """Return the N at which an eigenvalue stands outside the edge on average, and is told within a quarter.

    The latter takes N = 2 / TOLD^2 + rest / lambda^2, at least 32. A step costs 2 N evaluations.

    Args:
        eigenvalue: lambda, of H, not 0.
        trace_square: tr H^2, at least lambda^2.
    """
    size = abs(eigenvalue)
    rest = max(trace_square - size**2, 0.0)
    least = ceil(2 / TOLD**2 + rest / size**2)

    def stands_out(seeds: int) -> bool:
        return size + rest / (seeds * size) >= _far(trace_square, seeds)

    return least + bisect_left(range(MOST_SEEDS), True, key=lambda more: stands_out(least + more))


def _far(trace_square: float, seeds: int) -> float:
    """Return how far from its middle noise reaches."""
    if not trace_square > 0:
        return float("inf")
    return sqrt(trace_square / seeds) * (2 + TRACY_WIDOM / cbrt(seeds) ** 2)


def _seen(value: float, trace: float, square: float, seeds: int) -> Seen:
    """Solve x = lambda (1 - 2 / N) + tr H / N + tr H^2 / (N lambda) for the lambda outside the semicircle."""
    shrunk, moved = 1 - 2 / seeds, value - trace / seeds
    root = sqrt(max(moved**2 - 4 * shrunk * square / seeds, 0.0))
    corrected = (moved + copysign(root, moved)) / (2 * shrunk)
    share = 1 - max(square - corrected**2, 0.0) / (seeds * corrected**2)
    deviation = abs(corrected) * sqrt(2 / (max(share, 1e-9) * seeds))
    return Seen(value, corrected, deviation)
