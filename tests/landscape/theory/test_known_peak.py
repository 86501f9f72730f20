"""Ascents on a known landscape: the reward is highest when the exact moments of ES say."""

from dataclasses import replace

import numpy as np
import pytest

from es_lightning.algorithm.population import Population
from es_lightning.analysis.two_modes import fit_two_modes
from es_lightning.landscape import known
from es_lightning.landscape.arrays import Array
from es_lightning.landscape.known import KnownLandscape

COUNTS, CURVATURES = np.array([8, 40]), np.array([1.0, 0.05])  # stiff and soft directions
ALPHA, SIGMA, MEMBERS, STEPS = 0.2, 0.5, 20, 150
ALL, STIFF = known.quadratic(48, 64, CURVATURES[1]), known.quadratic(8, 64, CURVATURES[0] - CURVATURES[1])
START = np.r_[np.ones(8), np.zeros(56)]


def two_groups() -> KnownLandscape:
    """The sum of two quadratics, of which one has the rank of the other's stiff part."""
    return KnownLandscape(lambda x: ALL.rewards(x) + STIFF.rewards(x) - 1, START)


def ascent(landscape: KnownLandscape, seed: int) -> Array:
    """Rewards before each step of theta + alpha / (N sigma) sum (R_n - R_0) eps_n, [T + 1]."""
    population, rewards = Population(MEMBERS, seed), [landscape.centre().mean()]
    for generation in range(STEPS):
        members = population.members(generation)
        changes = landscape.members(members, SIGMA).mean(axis=1) - rewards[-1]
        noise = np.stack([landscape.noise(member) for member in members])
        step = ALPHA / (MEMBERS * SIGMA) * changes @ noise
        landscape = replace(landscape, start=landscape.start + step)
        rewards.append(landscape.centre().mean())
    return np.array(rewards)


def exact() -> tuple[Array, float]:
    """Expected rewards of that ascent, and when they are highest, from the mean squares of both groups.

    With g = -H x, the variance of a step along i is alpha^2 / N times
    |g|^2 + g_i^2 + sigma^2 / 4 (tr^2 H + 2 tr H^2 + 4 lambda_i tr H + 8 lambda_i^2), by the moments of normal
    numbers. So the mean squares follow an affine map, and the rewards are a sum of its two modes.
    """
    trace, square = COUNTS @ CURVATURES, COUNTS @ CURVATURES**2
    bends = trace**2 + 2 * square + 4 * CURVATURES * trace + 8 * CURVATURES**2
    drawn = ALPHA**2 / MEMBERS
    apply = np.diag((1 - ALPHA * CURVATURES) ** 2 + drawn * CURVATURES**2) + drawn * COUNTS * CURVATURES**2
    steady = np.linalg.solve(np.eye(2) - apply, drawn * SIGMA**2 / 4 * bends)
    factors, modes = np.linalg.eig(apply)
    parts = -(COUNTS * CURVATURES / 2) @ modes * np.linalg.solve(modes, np.array([1.0, 0.0]) - steady)
    curve = 1 - COUNTS * CURVATURES / 2 @ steady + factors ** np.arange(STEPS + 1.0)[:, None] @ parts
    slopes = parts * np.log(factors)
    return curve, float(np.log(-slopes[0] / slopes[1]) / np.log(factors[1] / factors[0]))


def test_the_fit_finds_when_an_ascent_on_a_known_landscape_is_highest() -> None:
    curve, peak = exact()
    assert curve[0] == pytest.approx(two_groups().centre().mean())
    whole = fit_two_modes(np.arange(STEPS + 1), curve)
    assert whole is not None
    assert whole.peak == pytest.approx(peak, rel=1e-3)
    fits = [fit_two_modes(np.arange(STEPS + 1), ascent(two_groups(), seed)) for seed in range(5)]
    found = [fit for fit in fits if fit is not None]
    assert all(fit.interval[1] - fit.interval[0] <= peak for fit in found)
    # At 90 %, fewer than 3 of 5 intervals hold the truth with a chance of 0.009.
    assert sum(fit.interval[0] <= peak <= fit.interval[1] for fit in found) >= 3
