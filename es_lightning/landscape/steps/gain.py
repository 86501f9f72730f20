"""The expected gain of one update of z-scored ES, or of a run of T, by learning rate and population.

An update is theta <- theta + (alpha / N) sum_n Z_n eps_n with z-scored rewards Z. As sum Z^2 = N, it is the
expected step alpha c, c = E[Z eps] = sigma grad F_sigma / std R, and beside it Gaussian noise of scale
s = alpha / sqrt N on every weight: the noise of a step is a perturbation like that of a member. So its price
F(theta) - F_s(theta) is what the probe measures at noise scale s, whatever the landscape. The expected gain:

    gain(alpha, N) = alpha b_N c . grad F_s - (F - F_s) - (alpha^2 / 2) (1 - 2 / N) (-c^T H c)
    b_N = sqrt(2 / N) Gamma(N / 2) / Gamma((N - 1) / 2) ~ 1 - 3 / (4 N)

exact for a quadratic F and rewards that are linear in eps, with noise. There F - F_s = K s^2 / 2 with
K = -tr H, and with A = c . grad F and kappa = -c^T H c the best step and its gain are

    alpha* = b_N A / (K / N + (1 - 2 / N) kappa),   gain* = b_N^2 A^2 / (2 (K / N + (1 - 2 / N) kappa)),

the form of McCandlish et al. (arXiv 1812.06162, section 2.2): the best step's gain grows with N
up to N_c = K / kappa, their B_noise, and no faster than 1 / (1 + N_c / N) of its limit.

A run: the noise of T updates adds up to the scale s_T = alpha sqrt(T / N), and costs F - F_s at that scale,
while the signal is measured anew before every update. Along c the slope a = b_N c . grad F_s falls by
k = (1 - 2 / N) kappa with each unit that was gone, so that t updates leave (1 - alpha k / a)^t of it, and

    gain_T(alpha, N) = a^2 / (2 k) (1 - (1 - alpha k / a)^(2 T)) - (F - F_s)(s_T),

which is the gain above for T = 1. N members and T updates have the noise and the signal of N T members and
one update with T alpha, as long as the slope lasts: so a run's best learning rate is far below that of one
update. Later updates take noise back in directions that bend; that is left out, and so the price is rather
too high, and the best learning rate too low.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from es_lightning.landscape.arrays import Array
from es_lightning.landscape.steps.pair_moments import Moments

LEVEL = (0.05, 0.95)
"""Quantiles of the resamples that make an interval."""
MOST_EXPONENT = 50.0  # of what diverges
POINTS = 300  # learning rates of a grid, from lr_max / 1000 to lr_max: 2.3 % apart


@dataclass(frozen=True)
class Estimate:
    """A number with its interval.

    Args:
        value: the estimate.
        low: 5th percentile of its resamples.
        high: 95th percentile.
    """

    value: float
    low: float
    high: float

    @staticmethod
    def of(samples: Array) -> Estimate:
        """Take the estimate from row 0, the interval from the others."""
        low, high = np.quantile(samples[1:], LEVEL, method="nearest")  # some may be infinite
        return Estimate(float(samples[0]), float(low), float(high))


UNKNOWN = Estimate(np.nan, np.nan, np.nan)


@dataclass(frozen=True)
class GainCurve:
    """Expected gain of one update or of a run against the learning rate, for one population.

    Args:
        population: N.
        updates: T.
        lr: learning rates, [L], ascending; beyond the last one the noise of all updates is larger than any
            sigma of the probe.
        gain: expected change of the reward, [L].
        low: 5th percentile, [L].
        high: 95th percentile, [L].
        best_lr: where the gain is largest.
        largest_lr: where the gain has fallen to 0.
        best_gain: the gain at ``best_lr``.
        best_gains: its estimate and resamples, [B].
        doubling: the best gain with 2 N members over that with N, of as many updates; nan if no step gains,
            or if the best one is beyond what the probe can tell.
        at_edge: whether the gain still rises at the last learning rate: then ``best_lr`` is a lower bound.
        gains_at_edge: whether it is still above 0 there: then ``largest_lr`` is a lower bound.
    """

    population: int
    updates: int
    lr: Array
    gain: Array
    low: Array
    high: Array
    best_lr: Estimate
    largest_lr: Estimate
    best_gain: Estimate
    best_gains: Array
    doubling: Estimate
    at_edge: bool
    gains_at_edge: bool


def expected_gain(
    found: Moments, lr: Array, population: int, antithetic: bool = False, updates: int = 1
) -> Array:
    """Compute the expected gain of some updates, [B, L]; nan beyond the largest sigma of the probe.

    Args:
        found: what the probe measured.
        lr: learning rates alpha, [L].
        population: N.
        antithetic: whether the members come in pairs.
        updates: T.
    """
    scale = noise_scale(found, lr, population, antithetic)
    drop = _between(found.sigmas, found.drop, scale * np.sqrt(updates), origin=True)
    # The slope is linear in s^2, which grows evenly: its mean over the updates is that at the mean s^2.
    slope = _between(found.sigmas, found.slope, scale * np.sqrt((updates + 1) / 2), origin=False)
    rise = shrinkage(population, antithetic) * found.sigma * slope / np.sqrt(found.variance)[:, None]
    return np.asarray(_climbed(lr, rise, (1 - 2 / population) * found.bend[:, None], updates) - drop)


def _climbed(lr: Array, slope: Array, bend: Array, updates: int) -> Array:
    """Compute a^2 / (2 k) (1 - (1 - alpha k / a)^(2 T)), what the signal gains without noise, [B, L].

    Args:
        lr: alpha, [L].
        slope: a, [B, L]; where it is not above 0, T (alpha a - alpha^2 k / 2) is computed, as if every update
            was the first.
        bend: k, [B, 1].
        updates: T.
    """
    flat = updates * lr * slope
    with np.errstate(divide="ignore", invalid="ignore"):
        gone = lr * bend / slope
        left = np.where(gone < 0.5, np.log1p(-gone), np.log(np.abs(1 - gone)))
        share = -np.expm1(np.minimum(2 * updates * left, MOST_EXPONENT)) / (2 * updates * gone)
    climbing = flat * np.where(gone > 0, share, 1.0)
    return np.asarray(np.where(slope > 0, climbing, flat - 0.5 * updates * lr**2 * bend))


def noise_scale(found: Moments, lr: Array, population: int, antithetic: bool = False) -> Array:
    """Return the noise that an update adds to each weight, [B, L]: alpha / sqrt N.

    Of antithetic members only the odd part moves the centre: alpha sqrt(2 q / N), q its share of Var(R_n).
    """
    factor = 2 * found.odd_share if antithetic else np.ones_like(found.odd_share)
    return np.asarray(np.sqrt(factor / population)[:, None] * lr)


def shrinkage(population: int, antithetic: bool = False) -> float:
    """Return b_N, by which z-scores of N members shorten the expected step: E[std R] over its limit."""
    from scipy.special import gammaln

    if antithetic:  # N / 2 differences, whose mean is known to be 0
        pairs = population / 2
        return float(np.sqrt(2 / pairs) * np.exp(gammaln((pairs + 1) / 2) - gammaln(pairs / 2)))
    return float(np.sqrt(2 / population) * np.exp(gammaln(population / 2) - gammaln((population - 1) / 2)))


def critical_population(found: Moments) -> Array:
    """Compute N_c = K / kappa, [B], with K = 2 (F - F_sigma) / sigma^2; inf without curvature along c."""
    at = int(np.flatnonzero(found.sigmas == found.sigma)[0])
    trace = np.maximum(2 * found.drop[:, at] / found.sigma**2, 0)
    return np.asarray(np.divide(trace, found.bend, out=np.full_like(trace, np.inf), where=found.bend > 0))


def gain_curve(found: Moments, population: int, antithetic: bool = False, updates: int = 1) -> GainCurve:
    """Compute the expected gain against the learning rate, and where it is largest and where it ends.

    Args:
        found: what the probe measured.
        population: N.
        antithetic: whether the members come in pairs.
        updates: T.
    """
    lr, gains = _gains(found, population, antithetic, updates)
    best, last, gain = _optimum(lr, gains)
    twice = _optimum(*_gains(found, 2 * population, antithetic, updates))[2]
    low, high = np.nanquantile(gains[1:], LEVEL, axis=0)
    at_edge = bool(best[0] >= lr[-1])
    return GainCurve(
        population=population,
        updates=updates,
        lr=lr,
        gain=gains[0],
        low=low,
        high=high,
        best_lr=Estimate.of(best),
        largest_lr=Estimate.of(last),
        best_gain=Estimate.of(gain),
        best_gains=gain,
        doubling=UNKNOWN if at_edge else ratio_of(twice, gain),
        at_edge=at_edge,
        gains_at_edge=bool(last[0] >= lr[-1]),
    )


def ratio_of(gain: Array, other: Array) -> Estimate:
    """Divide one gain by another, sample by sample; nan where most samples, or the estimate, have none.

    Args:
        gain: estimate and resamples, [B].
        other: the same of the other, >= 0.
    """
    ratio = np.divide(gain, other, out=np.full_like(gain, np.nan), where=other > 0)
    samples = ratio[1:][np.isfinite(ratio[1:])]
    if 2 * len(samples) <= len(ratio) - 1 or not np.isfinite(ratio[0]):
        return UNKNOWN
    return Estimate.of(np.append(ratio[0], samples))


def _gains(found: Moments, population: int, antithetic: bool, updates: int) -> tuple[Array, Array]:
    """The learning rates of which the probe can tell, [L], and their gains, [B, L]."""
    once = noise_scale(found, np.ones(1), population, antithetic)[0, 0]
    most = found.sigmas[-1] / once / np.sqrt(updates)
    lr = np.geomspace(most / 1000, most * (1 - 1e-9), POINTS)
    return lr, expected_gain(found, lr, population, antithetic, updates)


def _optimum(lr: Array, gains: Array) -> tuple[Array, Array, Array]:
    """Best learning rate, the first beyond it that gains nothing, and the best gain, each [B]; 0 if none."""
    filled = np.where(np.isnan(gains), -np.inf, gains)
    at = filled.argmax(axis=1)
    gain = np.maximum(filled.max(axis=1), 0)
    beyond = (filled <= 0) & (np.arange(len(lr)) > at[:, None])
    ends = np.where(beyond.any(axis=1), beyond.argmax(axis=1), len(lr) - 1)
    some = gain > 0
    return np.where(some, lr[at], 0.0), np.where(some, lr[ends], 0.0), gain


def _between(sigmas: Array, values: Array, scale: Array, origin: bool) -> Array:
    """Interpolate linearly in the square of the noise scale, as is exact on a quadratic; nan beyond the last.

    Args:
        sigmas: [S].
        values: [B, S].
        scale: [B, L].
        origin: whether the value is 0 without noise; else it is that of the smallest sigma there.
    """
    start = np.zeros_like(values[:, :1]) if origin else values[:, :1]
    knots, levels = np.append(0.0, sigmas**2), np.hstack([start, values])
    rows = [np.interp(at, knots, level, right=np.nan) for at, level in zip(scale**2, levels, strict=True)]
    return np.array(rows)
