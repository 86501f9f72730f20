"""Rewards prompt by prompt whose mean over all possible prompts follows a given curve.

They try what compares centres prompt by prompt: single prompts wander, gain and lose, and only the curve says
whether a centre is better than another one.
"""

from __future__ import annotations

import numpy as np

from es_lightning.landscape.arrays import Array


def graded_rewards(
    curve: Array, prompts: int, wander: float, jitter: float, seed: int, spread: float = 0.3
) -> Array:
    """Make rewards curve_t + spread a_p + wander w_tp + jitter e_tp, with w a random walk of each prompt.

    Args:
        curve: mean reward of the centre at T points, [T].
        prompts: number of prompts P.
        wander: standard deviation of the random walk at the last point.
        jitter: standard deviation of what differs from point to point.
        seed: seed of NumPy's generator.
        spread: standard deviation of how easy prompts are.

    Returns:
        float64 [T, P].
    """
    generator, shape = np.random.default_rng(seed), (len(curve), prompts)
    easy = spread * generator.standard_normal(prompts)
    walks = np.cumsum(generator.standard_normal(shape), axis=0) / np.sqrt(len(curve))
    rewards = curve[:, None] + easy + wander * walks + jitter * generator.standard_normal(shape)
    return np.asarray(rewards)


def solved(
    curve: Array, prompts: int, seed: int, easy: float = 0.6, jitter: float = 0.02, correlation: float = 0.99
) -> Array:
    """Make rewards of 0 and 1: a prompt is solved while a latent value z_tp is below the curve's quantile.

    z is standard normal, the sum of a constant of the prompt, an AR(1) process, and what differs from point
    to point. So the chance that a prompt is solved is curve_t exactly.

    Args:
        curve: mean reward at T points, [T], each from 0 to 1.
        prompts: number of prompts P.
        seed: seed of NumPy's generator.
        easy: share of z's variance that is constant.
        jitter: share of z's variance that differs from point to point.
        correlation: correlation of the AR(1) process at neighbouring points.

    Returns:
        float64 [T, P], zeros and ones.
    """
    from scipy.special import ndtri

    generator, shape = np.random.default_rng(seed), (len(curve), prompts)
    constant = generator.standard_normal(prompts)
    steps, white = generator.standard_normal(shape), generator.standard_normal(shape)
    for t in range(1, len(curve)):
        steps[t] = correlation * steps[t - 1] + np.sqrt(1 - correlation**2) * steps[t]
    latent = np.sqrt(easy) * constant + np.sqrt(1 - easy - jitter) * steps + np.sqrt(jitter) * white
    return np.asarray(latent < ndtri(curve)[:, None], dtype=np.float64)
