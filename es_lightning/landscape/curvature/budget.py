"""What perturbations tell of curvature against what is known, and after how many evaluations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from es_lightning.landscape.arrays import Array
from es_lightning.landscape.curvature.curvature import LEAST, Curvature, Pairs, curvature
from es_lightning.landscape.curvature.es_hessian import without_sampling
from es_lightning.landscape.curvature.lanczos import Krylov, Spectrum

Row = dict[str, Any]
WIDTH = 0.02
"""Standard deviation by which eigenvalues are smeared out, as a share of the largest."""
POINTS = 500
NAMES = ("trace", "trace_square", "participation", "gradient_square")


def budget_rows(
    pairs: Pairs, objective: str, gradient_square: float | None = None, seed: int = 0
) -> list[Row]:
    """Return what the first 8, 16, 32 ... pairs tell, one row each, and all pairs last.

    Args:
        pairs: the measured rewards.
        objective: what the rewards are, for the column ``objective``.
        gradient_square: ||g||^2 by autograd; None leaves ``odd_ratio`` empty.
        seed: seed of the bootstraps.
    """
    count = len(pairs.plus)
    sizes = sorted({count, *(size for size in (8, 16, 32, 64, 128, 256, 512) if LEAST <= size < count)})
    rows = []
    for size in sizes:
        part = Pairs(pairs.plus[:size], pairs.minus[:size], pairs.centre, pairs.sigma)
        rows.append(_row(curvature(part, seed=seed), objective, gradient_square))
    return rows


def _row(found: Curvature, objective: str, gradient_square: float | None) -> Row:
    row: Row = {"objective": objective, "sigma": found.sigma, "pairs": found.pairs}
    row["evaluations"] = 2 * found.pairs + 1
    estimates = {name: getattr(found, name) for name in NAMES}
    estimates["odd_ratio"] = None if gradient_square is None else found.odd_ratio(gradient_square)
    for name, estimate in estimates.items():
        for end in ("value", "low", "high"):
            value = np.nan if estimate is None else getattr(estimate, end)
            row[name if end == "value" else f"{name}_{end}"] = float(value) if np.isfinite(value) else None
    return row | {"bend_share": found.bend_share}


@dataclass(frozen=True)
class SampledHessian:
    """What Lanczos found of the Hessian of ES with N common seeds.

    Args:
        krylov: of the operator.
        seeds: N.
        evaluations: members that were evaluated.
    """

    krylov: Krylov
    seeds: int
    evaluations: int

    @property
    def spectrum(self) -> Spectrum:
        """Of the Ritz values, which are all there is if the rank is below the number of steps.

        The quadrature from one start would do without that, but its traces are off by sqrt(2 / PR).
        """
        return Spectrum.of_values(self.krylov.ritz[0])

    @property
    def quadrature(self) -> Spectrum:
        """By stochastic Lanczos quadrature: all N eigenvalues of the operator, also those that are 0."""
        return Spectrum.of([self.krylov])

    @property
    def participation(self) -> float:
        """Signed, of H: without what N seeds do to it."""
        return without_sampling(self.spectrum.participation, self.seeds)


def spectrum_rows(
    kind: str, values: Sequence[float] | Array, converged: Sequence[bool] | NDArray[np.bool_]
) -> list[Row]:
    """Return eigenvalues in descending order of size, one row each.

    Args:
        kind: whose they are.
        values: eigenvalues, in reward per squared unit of the weights.
        converged: whether each is an eigenvalue and no mixture.
    """
    order = np.argsort(-np.abs(np.asarray(values)), kind="stable")
    return [
        {"kind": kind, "rank": rank + 1, "value": float(values[i]), "converged": bool(converged[i])}
        for rank, i in enumerate(order)
    ]


def density_rows(spectra: Mapping[str, Spectrum]) -> list[Row]:
    """Return the density of eigenvalues of several matrices at the same points, one row each.

    Each Ritz value is smeared out as a Gaussian whose standard deviation is ``WIDTH`` of the largest of all.
    From one random start the place of a peak that stands alone is sure, and its height is not: the weight of
    one eigenvalue is chi-squared with one degree of freedom, divided by the dimension.

    Args:
        spectra: whose they are -> Ritz values and weights by stochastic Lanczos quadrature; may be empty.
    """
    if not spectra:
        return []
    low = min(float(each.values.min()) for each in spectra.values())
    high = max(float(each.values.max()) for each in spectra.values())
    width = WIDTH * max(abs(low), abs(high))
    if not width:
        return []
    at = np.linspace(low - 4 * width, high + 4 * width, POINTS)
    return [
        {"kind": kind, "eigenvalue": float(place), "density": float(value), "width": width}
        for kind, each in spectra.items()
        for place, value in zip(at, each.density(at, width), strict=True)
    ]


def agreement(one: Array, other: Array) -> float:
    """Return the correlation of two lists of numbers; NaN where one of them is constant."""
    if len(one) < 3 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return float("nan")
    return float(np.corrcoef(one, other)[0, 1])
