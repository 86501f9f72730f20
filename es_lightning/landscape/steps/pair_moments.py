"""Slope, curvature and noise of a reward, from the rewards of the same antithetic pairs at several sigmas.

Notation: K pairs theta +- s_j eps_k at S noise scales s_1 < ... < s_S, P prompts, r rewards;
o_jkp = (r+ - r-) / 2 is the odd part and e_jkp = (r+ + r-) / 2 - r0_p the even part, with r0 the centre's
rewards. F(theta) is the mean reward over all prompts, F_s(theta) = E F(theta + s eps).

Every product of two values of a pair is taken over different prompts, so that what holds for single prompts
only (an answer that is turned over) adds nothing on average. Pairs and prompts can have weights, which is how
they are resampled.

The centre is one draw, too: answers that tip at any touch give it other rewards than its nearest neighbours
have on average. A step loses such luck, good or bad, whatever its length, so it is no part of the price of
noise: F(theta) is what the mean reward tends to as the noise shrinks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from es_lightning.landscape.arrays import Array
from es_lightning.landscape.statistics.centre_offset import at_no_noise
from es_lightning.landscape.steps.pair_rewards import PairRewards


@dataclass(frozen=True)
class Moments:
    """What decides the gain of a step; row 0 is the estimate, the others are resamples.

    Args:
        sigmas: s_j, [S].
        sigma: the noise scale of the generation, one of them.
        offset: mean reward near the centre less that of the centre itself, [B]; 0 where rewards are smooth.
        drop: F(theta) - F_s(theta), what noise of each scale costs, [B, S], from the centre's neighbours on.
        slope: grad F_s . grad F_sigma for each scale s, from the odd parts at two sigmas, [B, S]; the
            estimate is >= 0.
        slope_errors: standard deviation of the slope at ``sigma``, over resampled pairs and over prompts.
        variance: Var(R_n) of the members at ``sigma`` with a generation's number of prompts, [B].
        bend: -c^T H c, the curvature along c = E[Z eps], [B]; >= 0.
        odd_share: share of Var(R_n) in the odd part, [B]; 1/2 where members are noise alone, 1 on a plane.
        score: (o - e) / Var(R_n), as ``analysis.sigma_sweep.score`` has it, for each scale, [B, S].
    """

    sigmas: Array
    sigma: float
    offset: Array
    drop: Array
    slope: Array
    slope_errors: tuple[float, float]
    variance: Array
    bend: Array
    odd_share: Array
    score: Array


def moments(probe: PairRewards, at: int, batch: int, resamples: int = 400, seed: int = 0) -> Moments:
    """Estimate what decides the gain of a step that is made from members at one of the sigmas.

    Pairs and prompts are resampled with replacement, each for themselves, and their two deviations are added.
    What is noise of single answers is in both, so intervals are somewhat too wide rather than too narrow.
    Resampling both at once would count it three times: weights w and u with mean 1 and variance 1 give single
    answers E (w u - 1)^2 = 2 * 2 - 1 = 3 times their variance, and E (w - 1)^2 + E (u - 1)^2 = 2 times here.
    That such resampling errs on the wide side is shown by Owen and Eckles (arXiv 1106.2125). Products of a
    prompt with a copy of itself are left out in resamples, too.

    Args:
        probe: the rewards.
        at: index of the generation's sigma.
        batch: prompts of a generation.
        resamples: B - 1.
        seed: seed of NumPy's generator.
    """
    generator, prompts = np.random.default_rng(seed), probe.rewards.shape[2]
    every_pair, every_prompt = np.full((1, probe.pairs), 1 / probe.pairs), np.full((1, prompts), 1 / prompts)
    alone = _sums(probe, at, every_pair, every_prompt)
    of_pairs = _sums(probe, at, _resampled(every_pair, resamples, generator), every_prompt)
    of_prompts = _sums(probe, at, every_pair, _resampled(every_prompt, resamples, generator))
    both = {name: of_pairs[name] + of_prompts[name] - value for name, value in alone.items()}
    raw = {name: np.concatenate([alone[name], both[name]]) for name in alone}
    sigmas = np.array(probe.sigmas)
    tiny = 1e-24 * max(1.0, float(np.abs(probe.rewards).max())) ** 2
    errors = [float(_slope(sums, sigmas, at)[:, at].std()) for sums in (of_pairs, of_prompts)]
    return _from_sums(raw, sigmas, at, batch, tiny, (errors[0], errors[1]))


def _resampled(equal: Array, resamples: int, generator: np.random.Generator) -> Array:
    """Return multinomial weights, [resamples, size]; their sum is 1, and 3 or more are above 0."""
    size, drawn = equal.shape[1], np.zeros((resamples, equal.shape[1]))
    while (poor := (drawn > 0).sum(axis=1) < 3).any():
        drawn[poor] = generator.multinomial(size, equal[0], int(poor.sum()))
    return np.asarray(drawn / size)


def _sums(probe: PairRewards, at: int, w: Array, u: Array) -> dict[str, Array]:
    """Compute means and covariances with weights of pairs [B or 1, K] and of prompts [B or 1, P]."""
    rows = max(len(w), len(u))
    w, u = np.broadcast_to(w, (rows, w.shape[1])), np.broadcast_to(u, (rows, u.shape[1]))
    odd, even = probe.odd, probe.even
    alone = range(len(probe.sigmas))
    return {
        "change": np.einsum("bk,skp,bp->bs", w, even, u, optimize=True),
        "odd_with": _covariance(odd, odd[at], w, u, centred=False)[0],
        **_stacked("odd", [_covariance(odd[[j]], odd[j], w, u, centred=False) for j in alone]),
        **_stacked("even", [_covariance(even[[j]], even[j], w, u, centred=True) for j in alone]),
        "cubic": _cubic(odd[at], even[at], w, u),
    }


def _stacked(name: str, parts: Sequence[tuple[Array, Array]]) -> dict[str, Array]:
    """Name the variances at each sigma, over different prompts and within the same ones, [B, S]."""
    return {key: np.hstack([part[i] for part in parts]) for i, key in enumerate((name, f"{name}_same"))}


def _from_sums(
    raw: dict[str, Array], sigmas: Array, at: int, batch: int, tiny: float, errors: tuple[float, float]
) -> Moments:
    """Turn means and covariances into what decides a step's gain; what is a square is kept at 0 or more."""
    odd, even = raw["odd"], raw["even"]
    odd_noise = np.maximum(raw["odd_same"] - odd, 0) / batch  # of single prompts, over a generation's
    even_noise = np.maximum(raw["even_same"] - even, 0) / batch
    total = np.maximum(np.maximum(odd + even, 0) + odd_noise + even_noise, tiny)
    slope = np.maximum(_slope(raw, sigmas, at), 0)
    variance = total[:, at]
    share = np.minimum(slope[:, at] * sigmas[at] ** 2 / variance, 1)
    offset = at_no_noise(raw["change"][:, 0], raw["change"][:, 1], sigmas[0] / sigmas[1])
    drop = offset[:, None] - raw["change"]
    above = min(at + 1, len(sigmas) - 1)  # where curvature stands out from the noise of single prompts
    return Moments(
        sigmas=sigmas,
        sigma=float(sigmas[at]),
        offset=offset,
        drop=drop,
        slope=slope,
        slope_errors=errors,
        variance=variance,
        bend=_bend(
            -raw["cubic"] / (sigmas[at] ** 2 * variance),
            share,
            even[:, above],
            drop[:, above],
            sigmas[above],
        ),
        odd_share=np.clip((np.maximum(odd, 0) + odd_noise)[:, at] / variance, 0, 1),
        score=(odd - even) / total,
    )


def _slope(raw: dict[str, Array], sigmas: Array, at: int) -> Array:
    """Return grad F_s . grad F_sigma for each scale s, [B, S]; noise can make it negative."""
    return _without_own(raw["odd_with"] / (sigmas * sigmas[at]), sigmas, at)


def _bend(measured: Array, share: Array, even: Array, drop: Array, sigma: float) -> Array:
    """Estimate kappa = -c^T H c, [B], from its noisy measurement and from what the curvature is elsewhere.

    A slope that lies in the curved directions in proportion to their curvature has kappa =
    ||c||^2 tr H^2 / |tr H|, with tr H^2 = 2 e / s^4 and |tr H| = 2 (F - F_s) / s^2. This is the mean of a
    normal prior; its standard deviation is as large, with the error of e. The resamples get the spread of the
    posterior.

    Args:
        measured: from three prompts, [B].
        share: ||c||^2, [B].
        even: variance e of the even part at the scale s, [B].
        drop: F - F_s, [B].
        sigma: s.
    """
    if drop[0] <= 0 or share[0] <= 0 or not even.any():  # no curvature was seen, or no slope
        return np.zeros_like(measured)
    error = float(even[1:].std())
    unit = share[0] / (sigma**2 * drop[0])
    usual, spread = unit * max(even[0], 0.0), unit * np.hypot(even[0], error)
    most = share[0] * np.sqrt(2 * (max(even[0], 0.0) + 2 * error)) / sigma**2  # |g^T H g| <= ||g||^2 ||H||_F
    trust = spread**2 / (spread**2 + float(measured[1:].var()))
    value = trust * measured[0] + (1 - trust) * usual
    return np.asarray(np.clip(value + np.sqrt(trust) * (measured - measured[0]), 0, most))


def _without_own(slope: Array, sigmas: Array, at: int) -> Array:
    """Replace the slope of a sigma with itself by what its neighbours' slopes with it say, linear in s^2.

    The variance of the odd part at one sigma holds all that changes its sign with the noise, also where
    members are ruined at random. What two sigmas have in common is the slope: on a smooth random landscape
    (Gaussian kernel, many dimensions, (o - e) / (o + e) = exp(-u) at sigma) the product with half the sigma
    is too large by sinh(u / 2) / (u / 2), 4 % at u = 1, and the own one by sinh(u) / u, 18 %.
    """
    others = np.delete(np.arange(len(sigmas)), at)
    knots = sigmas[others] ** 2
    own = np.array([np.interp(sigmas[at] ** 2, knots, row) for row in slope[:, others]])
    return np.asarray(np.concatenate([slope[:, :at], own[:, None], slope[:, at + 1 :]], axis=1))


def _covariance(x: Array, y: Array, w: Array, u: Array, centred: bool) -> tuple[Array, Array]:
    """Covariance over pairs of x_sk and y_k, over different prompts and within the same one, both [B, S].

    Args:
        x: [S, K, P].
        y: [K, P].
        w: weights of pairs, [B, K].
        u: weights of prompts, [B, P].
        centred: whether each prompt has a mean over the pairs, which is subtracted.
    """
    square = u**2
    mean_x, mean_y = np.einsum("bp,skp->bsk", u, x), u @ y.T
    total = np.einsum("bk,bsk,bk->bs", w, mean_x, mean_y)
    products = np.tensordot(w, x * y, axes=(1, 1))  # [B, S, P]
    if centred:
        total = total - np.einsum("bk,bsk->bs", w, mean_x) * np.einsum("bk,bk->b", w, mean_y)[:, None]
        products = products - np.tensordot(w, x, axes=(1, 1)) * (w @ y)[:, None]
        freedom = 1 - (w**2).sum(axis=1)  # 1 - 1 / K with equal weights
        total, products = total / freedom[:, None], products / freedom[:, None, None]
    same, within = np.einsum("bp,bsp->bs", square, products), np.einsum("bp,bsp->bs", u, products)
    return (total - same) / (1 - square.sum(axis=1))[:, None], within


def _cubic(odd: Array, even: Array, w: Array, u: Array) -> Array:
    """Estimate Cov(o^2, e) over pairs, with three different prompts: sigma^4 g^T H g on a quadratic, [B].

    E (g . eps)^2 (eps^T H eps - tr H) = 2 g^T H g, by Isserlis' theorem.
    """
    square, cube = u**2, u**3
    centred = np.array([even - weights @ even for weights in w])  # [B, K, P]
    o, e = u @ odd.T, np.einsum("bp,bkp->bk", u, centred)
    o2 = square @ (odd**2).T
    oe = np.einsum("bp,kp,bkp->bk", square, odd, centred, optimize=True)
    o2e = np.einsum("bp,kp,bkp->bk", cube, odd**2, centred, optimize=True)
    distinct = (o**2 - o2) * e - 2 * (o * oe - o2e)
    norm = 1 - 3 * square.sum(axis=1) + 2 * cube.sum(axis=1)
    freedom = 1 - (w**2).sum(axis=1)
    return np.asarray((w * distinct).sum(axis=1) / (norm * freedom))
