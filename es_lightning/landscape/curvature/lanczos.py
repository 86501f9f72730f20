"""Spectra of Hessians that are known by their products alone: stochastic Lanczos quadrature.

Lanczos steps from a start z, orthogonalised against all earlier vectors (twice), give Q with orthonormal
columns and T = Q^T H Q. The eigenvalues of T, the Ritz values, approach those of H from the ends of the
spectrum inwards, and with the squares w_k of the first components of T's eigenvectors

    z^T f(H) z / ||z||^2  ~=  sum_k w_k f(ritz_k),

exactly so for polynomials up to degree 2 m - 1 of m steps (Golub and Welsch 1969). Averaged over random z
this is tr f(H) / D (Ubaru, Chen and Saad 2017; arXiv 2602.00170, appendix G.10).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from es_lightning.errors import UsageError
from es_lightning.landscape.arrays import Array
from es_lightning.landscape.curvature.basis import Basis, MemoryBasis

Operator = Callable[[Tensor], Tensor]
"""From a vector, flat [D], to the product of a matrix with it, in the same precision."""

BREAKDOWN = 1e-10  # of the largest entry of T: what is left of a product in exact arithmetic is 0
CONVERGED = 0.1
"""Of a Ritz value's size: with a smaller residual an eigenvalue is no further away than that."""
EXHAUSTED = 1e-3  # of the largest Ritz value: what noise of measurements leaves of a product
BLOCK, MANY_BLOCKS = 2**12, 2**16  # elements that are summed in single precision


@dataclass(frozen=True)
class Krylov:
    """What m steps from one start have found.

    Args:
        projection: Q^T A Q, float64 [m, m]; tridiagonal if A is symmetric.
        dimension: D, the length of a vector.
        rest: length of what the last product has outside the span of Q.
    """

    projection: Array
    dimension: int
    rest: float = 0.0

    @property
    def residuals(self) -> Array:
        """||A u - ritz u|| of each Ritz value and its vector u, [m]: small where it has converged."""
        return np.asarray(self.rest * np.abs(self.ritz[2][-1]))

    @property
    def converged(self) -> NDArray[np.bool_]:
        """Whether each Ritz value is an eigenvalue and no mixture, [m]."""
        return np.asarray(self.residuals <= CONVERGED * np.abs(self.ritz[0]))

    @property
    def exhausted(self) -> bool:
        """Whether the Ritz values are all eigenvalues of A, but for those that are 0.

        The last product leaves nothing outside the span of Q, of which a random start has a part in every
        direction. That all have converged is not enough: one step does on eigenvalues that are nearly alike.
        """
        return bool(self.rest <= EXHAUSTED * float(np.abs(self.ritz[0]).max()))

    @property
    def asymmetry(self) -> float:
        """||T - T^T|| / ||T + T^T|| in Frobenius norms: 0 if A is symmetric, about 1 if it is random."""
        projection = self.projection
        whole = np.linalg.norm(projection + projection.T)
        return float(np.linalg.norm(projection - projection.T) / whole) if whole else 0.0

    @property
    def ritz(self) -> tuple[Array, Array, Array]:
        """Ritz values ascending, [m], the weight w_k of each, and the eigenvectors of T in columns, [m, m].

        Those of the symmetric part of T.
        """
        values, vectors = np.linalg.eigh((self.projection + self.projection.T) / 2)
        return values, vectors[0] ** 2, vectors


def lanczos(
    apply: Operator,
    start: Tensor,
    steps: int,
    basis: Basis | None = None,
    tell: Callable[[int, Array], None] = lambda step, projection: None,
    known: Array | None = None,
) -> Krylov:
    """Take Lanczos steps with full re-orthogonalisation.

    All of Q^T A Q is kept, as Arnoldi does, since the operator may be an estimate and not quite symmetric.

    Args:
        apply: the operator A.
        start: z, flat [D], not 0.
        steps: m, at most; fewer if a vector leads nowhere new.
        basis: keeps the columns of Q; it may have some already, of the same start. None keeps them in memory.
        tell: called after each step with the number j of steps and what is known of Q^T A Q, [j + 1, j].
        known: what ``tell`` was told last in a run that was killed, whose vectors ``basis`` has.

    Raises:
        UsageError: the start is 0 or not finite, there are no steps, or a product is not finite.
    """
    if steps < 1:
        raise UsageError(f"{steps} Lanczos steps were asked for: give at least 1.")
    basis = basis if basis is not None else MemoryBasis()
    projection = np.zeros((steps + 1, steps))
    done = 0
    if known is not None and len(basis):
        done = min(known.shape[1], steps, len(basis))
        done -= done == len(basis) < steps  # the vector of the next step is missing
        projection[: done + 1, :done] = known[: done + 1, :done]
        basis.cut(done + 1)
    if not len(basis):
        length = norm(start)
        if not 0 < length < np.inf:
            raise UsageError("Lanczos was given a start of length 0, or one that is not finite.")
        basis.append(start / length)
    while done < steps:
        rest = apply(basis[done])
        size = norm(rest)
        if not np.isfinite(size):
            raise UsageError("a product with the Hessian is not finite: lower sigma or the radius.")
        for _ in range(2):  # once leaves what rounding has left; twice is enough (Parlett 1980)
            for index in range(done + 1):
                column = basis[index]
                part = inner(column, rest)
                projection[index, done] += part
                rest = rest - part * column
        length = norm(rest)
        ends = length <= BREAKDOWN * max(np.abs(projection).max(), size) or done + 1 >= len(start)
        projection[done + 1, done] = 0.0 if ends else length
        done += 1
        if done < steps and not ends:
            basis.append(rest / length)
        tell(done, projection[: done + 1, :done].copy())
        if ends:
            break
    return Krylov(projection[:done, :done].copy(), len(start), float(projection[done, done - 1]))


def inner(a: Tensor, b: Tensor) -> float:
    """Return <a, b> of flat vectors, each block summed in their precision, and the blocks in float64."""
    whole = len(a) - len(a) % BLOCK
    rows, columns = a[:whole].view(-1, 1, BLOCK), b[:whole].view(-1, BLOCK, 1)
    rest = torch.dot(a[whole:].double(), b[whole:].double())
    return float(torch.bmm(rows, columns).double().sum() + rest)


def inners(rows: Tensor, vector: Tensor) -> list[float]:
    """Return the inner products of all rows, [K, D], with a vector, flat [D], summed as by ``inner``.

    The vector is read once, so that K products cost little more than the reading of the rows.
    """
    sums = torch.zeros(len(rows), dtype=torch.float64)
    for start in range(0, len(vector), MANY_BLOCKS):
        block = slice(start, start + MANY_BLOCKS)
        sums += (rows[:, block] @ vector[block]).double()
    return sums.tolist()


def norm(vector: Tensor) -> float:
    """Return the Euclidean norm of a flat vector, summed in float64."""
    return float(np.sqrt(inner(vector, vector)))


@dataclass(frozen=True)
class Spectrum:
    """The spectral density of a matrix from one or several starts.

    Args:
        values: Ritz values of all starts, [R].
        weights: their share of the spectrum; they sum to 1.
        dimension: D.
    """

    values: Array
    weights: Array
    dimension: int

    @classmethod
    def of(cls, runs: Sequence[Krylov]) -> Spectrum:
        """Join the runs from several starts, each of which counts alike."""
        parts = [run.ritz for run in runs]
        values = np.concatenate([part[0] for part in parts])
        weights = np.concatenate([part[1] / part[1].sum() for part in parts]) / len(runs)
        order = np.argsort(values)
        return cls(values[order], weights[order], runs[0].dimension)

    @classmethod
    def of_values(cls, values: Array) -> Spectrum:
        """Take values as all eigenvalues that are not 0: right where the steps are ``Krylov.exhausted``."""
        return cls(np.sort(values), np.full(len(values), 1 / len(values)), len(values))

    @property
    def trace(self) -> float:
        """tr A = D sum_k w_k ritz_k."""
        return float(self.dimension * self.weights @ self.values)

    @property
    def trace_square(self) -> float:
        """tr A^2 = D sum_k w_k ritz_k^2."""
        return float(self.dimension * self.weights @ self.values**2)

    @property
    def trace_square_error(self) -> float:
        """Standard error of ``trace_square`` from one start, sqrt(2 tr A^4): of z^T A^2 z for Gaussian z.

        tr A^4 is of the same start, which takes at least 3 steps.
        """
        return float(np.sqrt(2 * self.dimension * self.weights @ self.values**4))

    @property
    def participation(self) -> float:
        """(tr A)^2 / tr A^2, signed: opposite eigenvalues cancel."""
        return self.trace**2 / self.trace_square if self.trace_square else float("nan")

    @property
    def size_participation(self) -> float:
        """(tr |A|)^2 / tr A^2, on |lambda|: never less than the signed one."""
        total = float(self.dimension * self.weights @ np.abs(self.values))
        return total**2 / self.trace_square if self.trace_square else float("nan")

    @property
    def effective_rank(self) -> float:
        """exp(-sum p ln p) with p = |lambda| / sum |lambda| over the D eigenvalues."""
        sizes = np.abs(self.values)
        total = self.weights @ sizes
        if not total:
            return float("nan")
        # Of D w_k eigenvalues of size |ritz_k|, each has p = |ritz_k| / (D total).
        share = np.where(sizes > 0, sizes / (self.dimension * total), 1.0)
        return float(np.exp(-self.dimension * (self.weights * share * np.log(share))[sizes > 0].sum()))

    def density(self, at: Array, width: float) -> Array:
        """Return the density of eigenvalues at points, each Ritz value smeared out as a Gaussian.

        Args:
            at: points, [T].
            width: standard deviation of the Gaussian, in units of the eigenvalues.

        Returns:
            [T], eigenvalues per unit; its integral is D.
        """
        apart = (at[:, None] - self.values) / width
        return np.asarray(
            self.dimension * np.exp(-(apart**2) / 2) @ self.weights / (width * np.sqrt(2 * np.pi))
        )
