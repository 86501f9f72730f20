"""Rewards prompt by prompt whose mean over all possible prompts follows a given curve."""

import numpy as np
from scipy.special import ndtr, ndtri


def autoregressive(noise, correlation):
    out = noise.copy()
    for t in range(1, out.shape[0]):
        out[t] = correlation * out[t - 1] + np.sqrt(1 - correlation**2) * noise[t]
    return out

def dense(curve, prompts, wander, jitter, seed, rho=None, spread=0.3, heavy=None):
    g = np.random.default_rng(seed)
    T = len(curve)
    steps = g.standard_normal((T, prompts)) if heavy is None else g.standard_t(heavy, (T, prompts))
    w = np.cumsum(steps, axis=0) / np.sqrt(T) if rho is None else autoregressive(steps, rho)
    e = g.standard_normal((T, prompts)) if heavy is None else g.standard_t(heavy, (T, prompts))
    return curve[:, None] + spread * g.standard_normal(prompts) + wander * w + jitter * e

def binary(curve, prompts, own, jitter, rho, seed):
    g = np.random.default_rng(seed)
    T = len(curve)
    z = np.sqrt(own) * g.standard_normal(prompts) + np.sqrt(1 - own - jitter) * autoregressive(g.standard_normal((T, prompts)), rho) + np.sqrt(jitter) * g.standard_normal((T, prompts))
    return (z < ndtri(np.clip(curve, 1e-9, 1 - 1e-9))[:, None]).astype(float)
