"""What autograd knows of slope and curvature, on disk step by step: the measure of what perturbations
tell."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from es_lightning.algorithm.noise import Noise, member_seed
from es_lightning.errors import UsageError
from es_lightning.landscape.arrays import Array
from es_lightning.landscape.curvature.basis import FileBasis
from es_lightning.landscape.curvature.gradients import DenseObjective, HessianProduct, coordinates, direction
from es_lightning.landscape.curvature.lanczos import Krylov, inner, lanczos
from es_lightning.system.files import replacing, to_json

log = logging.getLogger(__name__)
TRUTH, FILE, BASIS = "truth", "truth.json", "basis"
"""The folder in a run's, the file in it, and the folder of vectors in it."""


@dataclass(frozen=True)
class Truth:
    """What autograd has found at the centre.

    Args:
        gradient_square: ||g||^2.
        along: g . eps of each seed, [K].
        bends: eps^T H eps of the first seeds, [n].
        krylov: of the Hessian, from a random start; None without steps.
        coordinates: eps^T q of each seed and each Lanczos vector q, [K, m].
    """

    gradient_square: float
    along: Array
    bends: Array
    krylov: Krylov | None
    coordinates: Array

    @property
    def top(self) -> tuple[Array, NDArray[np.bool_]]:
        """Ritz values in descending order of size, [m], and whether each has converged, [m]."""
        if self.krylov is None:
            return np.zeros(0), np.zeros(0, dtype=bool)
        values, _, _ = self.krylov.ritz
        order = np.argsort(-np.abs(values))
        return values[order], self.krylov.converged[order]

    @property
    def sure(self) -> tuple[Array, Array]:
        """Converged Ritz values, largest first: from either end inwards up to the first gap, and the rest.

        Between two that have converged there may be eigenvalues that have not been found.
        """
        values, converged = self.top
        gapless = np.zeros(len(values), dtype=bool)
        for sign in (-1, 1):
            own = np.flatnonzero(values * sign > 0)
            gapless[own[np.logical_and.accumulate(converged[own])]] = True
        return values[gapless], values[converged & ~gapless]

    def along_top(self, count: int) -> tuple[Array, int]:
        """Return eps^T u of each seed and ``count`` Ritz vectors u, and how many of these have converged.

        Converged ones come first, and each kind in descending order of size.

        Returns:
            [K, count], fewer columns where there are fewer vectors; and the number.
        """
        if self.krylov is None:
            return np.zeros((len(self.along), 0)), 0
        values, _, vectors = self.krylov.ritz
        converged = self.krylov.converged
        order = np.lexsort((-np.abs(values), ~converged))[:count]
        return np.asarray(self.coordinates @ vectors[:, order]), int(converged[order].sum())


def squares_shared(outermost: Array, trace_square: float, inside: Array | None = None) -> tuple[float, float]:
    """Return bounds of (tr H^2)^2 / tr H^4, the number of directions that share the squared curvature.

    Signs do not matter to it. With the outermost eigenvalues known, sum l^4 is at least theirs, and the rest
    of tr H^2 adds at most b^2 times itself, where b bounds the size of all other eigenvalues.

    Args:
        outermost: eigenvalues from both ends inwards without a gap, [k], at least one of each sign.
        trace_square: tr H^2.
        inside: others that are known; None for none.
    """
    every = outermost if inside is None else np.concatenate([outermost, inside])
    known, square = float((every**4).sum()), max(trace_square, float((every**2).sum()))
    inner_bound = max(np.abs(outermost[outermost * sign > 0]).min() for sign in (-1, 1))
    most = known + inner_bound**2 * (square - float((every**2).sum()))
    return square**2 / most, square**2 / known


def is_known(folder: Path, about: Mapping[str, Any], steps: int) -> bool:
    """Return whether a folder holds a truth, all of it, of the same settings and as many Lanczos steps."""
    try:
        state = json.loads((folder / FILE).read_text(encoding="utf-8"))
        same = state["about"] == json.loads(to_json(dict(about)))
        taken = len(state["coordinates"][0]) if steps else 0
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return False
    return same and taken == steps


class TruthRun:
    """Computes what is missing of the truth, and keeps each part in a folder as soon as it is known.

    Args:
        objective: the log-likelihood at the centre.
        noise: kind of noise.
        seeds: K 64-bit keys.
        folder: where it is kept; a vector of Lanczos takes 2 bytes per weight.
        about: what decides the results, in plain JSON.

    Raises:
        UsageError: the folder belongs to other settings, or is damaged.
    """

    def __init__(
        self,
        objective: DenseObjective,
        noise: Noise,
        seeds: Sequence[int],
        folder: Path,
        about: Mapping[str, Any],
    ) -> None:
        self.objective, self.noise, self.seeds, self.folder = objective, noise, list(seeds), folder
        self.state: dict[str, Any] = {"about": json.loads(to_json(dict(about)))}
        path = folder / FILE
        if path.is_file():
            try:
                state = json.loads(path.read_text(encoding="utf-8"))
                same = state["about"] == self.state["about"]
            except (ValueError, KeyError, TypeError) as error:
                raise UsageError(f"{path} is damaged ({error}): delete {folder}.") from error
            if not same:
                raise UsageError(f"{folder} belongs to a run with other settings: give another --output.")
            self.state = state

    def run(self, products: int, steps: int) -> Truth:
        """Return the truth, and compute what of it is missing.

        Args:
            products: seeds whose eps^T H eps is computed; two gradients each.
            steps: Lanczos steps; two gradients each. 0 takes none.
        """
        gradient: Tensor | None = None
        if "gradient_square" not in self.state:
            gradient = self.objective.gradient()
            self._keep(gradient_square=inner(gradient, gradient))
        square = float(self.state["gradient_square"])
        if square == 0:
            raise UsageError("the gradient is 0: there is nothing to compare with.")
        if "along" not in self.state:
            gradient = self.objective.gradient() if gradient is None else gradient
            self._keep(along=[inner(gradient, each) for each in self._directions()])
        del gradient
        product = HessianProduct(self.objective.gradient_at, float(np.sqrt(square)))
        self._bends(product, min(products, len(self.seeds)))
        krylov, coordinates = self._lanczos(product, steps)
        bends = np.array(self.state["bends"], dtype=np.float64)
        return Truth(square, np.array(self.state["along"]), bends, krylov, coordinates)

    def _bends(self, product: HessianProduct, count: int) -> None:
        found: list[float] = self.state.get("bends", [])
        for index, eps in enumerate(self._directions(count)):
            if index >= len(found):
                found = [*found, inner(eps, product(eps))]
                self._keep(bends=found)
                log.info("Curvature along seed %d of %d: %.4g.", index + 1, count, found[-1])
        self._keep(bends=found)

    def _lanczos(self, product: HessianProduct, steps: int) -> tuple[Krylov | None, Array]:
        if not steps:
            return None, np.zeros((len(self.seeds), 0))
        known = self.state.get("projection")
        basis = FileBasis(self.folder / BASIS)
        if known is None:
            basis.cut(0)

        def tell(step: int, projection: Array) -> None:
            self._keep(projection=projection.tolist())
            size = np.linalg.eigvalsh((projection[:step] + projection[:step].T) / 2)
            log.info("Lanczos step %d of %d: eigenvalues %.4g to %.4g.", step, steps, size[0], size[-1])

        generator = torch.Generator().manual_seed(member_seed(0, 0, 0) % 2**63)
        start = torch.randn(self.objective.dimension, generator=generator)
        krylov = lanczos(
            product, start, steps, basis, tell, None if known is None else np.array(known, dtype=np.float64)
        )
        count = len(krylov.projection)
        table = self.state.get("coordinates")
        if table is None or len(table[0]) != count:
            table = coordinates(basis, count, self._directions()).tolist()
            self._keep(coordinates=table)
        return krylov, np.array(table, dtype=np.float64)

    def _directions(self, count: int | None = None) -> Iterator[Tensor]:
        for seed in self.seeds[:count]:
            yield direction(self.noise, seed, self.objective.parameters)

    def _keep(self, **values: Any) -> None:
        self.state |= values
        with replacing(self.folder / FILE) as file:
            file.write(to_json(self.state).encode())
