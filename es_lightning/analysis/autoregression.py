"""Noise whose neighbouring points are correlated: how much, and how to make it white."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

CORRELATIONS = np.linspace(0.0, 0.95, 39)
TINY = 1e-300  # keeps logarithms finite where a fit is exact


@dataclass(frozen=True)
class Autoregression:
    """AR(1) noise of equal variance: points d apart have the correlation rho^d.

    Args:
        gaps: distances between neighbouring points in units of the usual one, all above 0, [n - 1].
        rho: correlation of points one unit apart, 0 to below 1.
    """

    gaps: Array
    rho: float = 0.0

    def whiten(self, columns: Array) -> Array:
        """Transform columns [n, k] or [n] in the way that makes the noise white, with its variance kept."""
        shared = self.rho**self.gaps
        rest = np.sqrt(1 - shared**2)
        if columns.ndim == 2:
            shared, rest = shared[:, None], rest[:, None]
        return np.concatenate([columns[:1], (columns[1:] - shared * columns[:-1]) / rest])

    def estimated(self, residuals: Array, tangents: Array) -> Autoregression:
        """Return the noise with the rho whose restricted likelihood is largest (Patterson and Thompson 1971).

        Residuals alone show too little correlation, because the fit has followed the noise. The restricted
        likelihood is that of the residuals for all values of the fit's parameters together:
        -1/2 ln|V| - 1/2 ln|X^T V^-1 X| - (n - p)/2 ln RSS.

        Args:
            residuals: of a fit, [n].
            tangents: derivatives X of the fitted curve by its p parameters, [n, p].
        """
        points, parameters = tangents.shape
        tangents = tangents / (np.linalg.norm(tangents, axis=0) + TINY)

        def likelihood(rho: float) -> float:
            noise = Autoregression(self.gaps, rho)
            orthogonal, triangle = np.linalg.qr(noise.whiten(tangents))
            left = noise.whiten(residuals)
            left = left - orthogonal @ (orthogonal.T @ left)
            size = float(np.sum(np.log(1 - rho ** (2 * self.gaps)))) / 2 if rho else 0.0
            spread = float(np.sum(np.log(np.abs(np.diag(triangle)) + TINY)))
            squares = float(np.log(left @ left + TINY))
            return -size - spread - float(points - parameters) / 2 * squares

        return Autoregression(self.gaps, max(CORRELATIONS.tolist(), key=likelihood))
