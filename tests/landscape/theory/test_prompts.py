"""Simulated rewards by prompt: their mean is the curve, and they move as they are said to."""

import numpy as np
import pytest

from es_lightning.landscape.theory.prompts import graded_rewards, solved

CURVE = np.array([0.1, 0.5, 0.9, 0.7])


def test_the_mean_over_many_prompts_is_the_curve() -> None:
    many = 40_000  # standard errors below 0.004
    for rewards in (graded_rewards(CURVE, many, 0.2, 0.1, 1), solved(CURVE, many, 2, jitter=0.1)):
        assert rewards.shape == (4, many)
        assert rewards.mean(axis=1) == pytest.approx(CURVE, abs=0.015)


def test_graded_rewards_wander_and_jitter_as_stated() -> None:
    flat = np.zeros(50)
    walks = graded_rewards(flat, 20_000, 0.2, 0.0, 3, spread=0.0)
    assert walks[-1].std() == pytest.approx(0.2, rel=0.03)
    assert walks[24].std() == pytest.approx(0.2 / np.sqrt(2), rel=0.03)
    jitter = graded_rewards(flat, 20_000, 0.0, 0.1, 4, spread=0.0)
    assert np.corrcoef(jitter[10], jitter[11])[0, 1] == pytest.approx(0.0, abs=0.03)


def test_solved_prompts_stay_solved_as_long_as_nothing_moves() -> None:
    flat = np.full(3, 0.5)
    still = solved(flat, 500, 5, easy=1.0, jitter=0.0)
    assert (still == still[0]).all()
    half = solved(flat, 40_000, 6, easy=0.5, jitter=0.5, correlation=0.0)
    # Two standard normals of correlation 0.5 have the same sign with chance 1/2 + asin(0.5)/pi = 2/3.
    assert (half[0] == half[1]).mean() == pytest.approx(2 / 3, abs=0.01)
