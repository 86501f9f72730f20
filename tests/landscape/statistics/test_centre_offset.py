"""The mean change at sigma 0: none on smooth rewards, and the centre's luck where answers tip."""

import numpy as np
import pytest

from es_lightning.analysis.intervals import Estimate
from es_lightning.landscape.statistics.centre_offset import centre_offset

CANDIDATES, DIMENSION = (3, 240), 20


def quadratic(noise: np.ndarray, sigma: float) -> np.ndarray:
    """Slope and curvature: the mean change is -sigma^2 times half the dimension."""
    return np.asarray(sigma * noise[..., 0] - sigma**2 / 2 * (noise**2).sum(axis=-1))


def offset(seed: int, sigmas: tuple[float, float] = (0.1, 0.3)) -> Estimate:
    noise = np.random.default_rng(seed).standard_normal((*CANDIDATES, DIMENSION))
    near, far = (quadratic(noise, sigma) for sigma in sigmas)
    return centre_offset(near, far, sigmas[0] / sigmas[1])


def test_a_smooth_reward_has_none_in_95_of_100() -> None:
    inside = sum(each.low <= 0 <= each.high for each in map(offset, range(400)))
    assert inside >= 366  # 380 expected, 4.4 the standard deviation
    assert quadratic(np.random.default_rng(0).standard_normal((*CANDIDATES, DIMENSION)), 0.3).mean() < -0.5


def test_answers_that_tip_at_any_touch_shift_it_by_what_the_centre_has_missed() -> None:
    random = np.random.default_rng(1)
    tipped = random.random((2, *CANDIDATES, 8)) < 0.5  # eight prompts of 64 that the centre does not solve
    near, far = tipped.mean(axis=-1) * 8 / 64
    found = centre_offset(near, far, 0.5)
    assert found.low < 4 / 64 < found.high
    assert found.low > 0


def test_pairs_count_once() -> None:
    changes = np.random.default_rng(2).standard_normal((1, 60))
    mirrored = np.repeat(changes, 2, axis=1) * np.tile([1.0, -1.0], 60)
    found = centre_offset(mirrored, 2 * mirrored, 0.5, unit=2)
    assert (found.value, found.low, found.high) == pytest.approx((0, 0, 0), abs=1e-12)
