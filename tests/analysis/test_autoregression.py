"""Whitening against a Cholesky factor; the restricted likelihood against its definition."""

import numpy as np
import pytest

from es_lightning.analysis.autoregression import CORRELATIONS, Autoregression

GENERATOR = np.random.default_rng(3)
GAPS = np.array([1.0, 2.0, 1.0, 0.5, 3.0, 1.0, 1.0])
PLACES = np.concatenate([[0.0], np.cumsum(GAPS)])


def covariance(rho: float) -> np.ndarray:
    return rho ** np.abs(PLACES[:, None] - PLACES)


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.9])
def test_whitening_is_the_inverse_of_a_cholesky_factor(rho: float) -> None:
    factor = np.linalg.cholesky(covariance(rho) if rho else np.eye(len(PLACES)))
    columns = GENERATOR.standard_normal((len(PLACES), 3))
    noise = Autoregression(GAPS, rho)
    assert noise.whiten(columns) == pytest.approx(np.linalg.solve(factor, columns), abs=1e-12)
    assert noise.whiten(columns[:, 0]) == pytest.approx(noise.whiten(columns)[:, 0])


def test_the_correlation_has_the_largest_restricted_likelihood() -> None:
    residuals, tangents = GENERATOR.standard_normal(8), GENERATOR.standard_normal((8, 2))

    def likelihood(rho: float) -> float:
        inverse = np.linalg.inv(covariance(rho))
        inner = tangents.T @ inverse @ tangents
        projected = inverse - inverse @ tangents @ np.linalg.inv(inner) @ tangents.T @ inverse
        sizes = np.linalg.slogdet(covariance(rho))[1] + np.linalg.slogdet(inner)[1]
        return float(-sizes / 2 - 3 * np.log(residuals @ projected @ residuals))

    rhos = [max(float(rho), 1e-9) for rho in CORRELATIONS]
    best = max(rhos, key=likelihood)
    assert Autoregression(GAPS).estimated(residuals, tangents).rho == pytest.approx(best, abs=1e-6)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.8])
def test_the_correlation_is_found_although_a_fit_follows_the_noise(rho: float) -> None:
    points = 60
    columns = np.vander(np.linspace(-1, 1, points), 5)
    found = []
    for seed in range(40):
        white = np.random.default_rng(seed).standard_normal(points)
        wander = white.copy()
        for t in range(1, points):
            wander[t] = rho * wander[t - 1] + np.sqrt(1 - rho**2) * white[t]
        residuals = wander - columns @ np.linalg.lstsq(columns, wander, rcond=None)[0]
        found.append(Autoregression(np.ones(points - 1)).estimated(residuals, columns).rho)
    assert np.mean(found) == pytest.approx(rho, abs=0.08)
