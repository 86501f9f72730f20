"""The largest useful learning rate and population of z-scored ES, from one short probe at the centre.

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
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from es_lightning.analysis.sigma_sweep import SweepVerdict, judge
from es_lightning.errors import UsageError
from es_lightning.landscape.arrays import Array
from es_lightning.landscape.steps.pair_moments import Moments, PairRewards, moments

LEVEL = (0.05, 0.95)
"""Quantiles of the resamples that make an interval."""
PAYS = 1.5
"""Doubling N pays if it multiplies the best step's gain by this; 2 would be the same gain per rollout."""
MULTIPLES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Populations that are compared, in units of the configured one."""
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


@dataclass(frozen=True)
class GainCurve:
    """Expected gain of one update against the learning rate, for one population.

    Args:
        population: N.
        lr: learning rates, [L], ascending; beyond the last one the noise of a step is larger than any sigma
            of the probe.
        gain: expected change of the reward, [L].
        low: 5th percentile, [L].
        high: 95th percentile, [L].
        best_lr: where the gain is largest.
        largest_lr: where the gain has fallen to 0.
        best_gain: the gain at ``best_lr``.
        doubling: the best gain with 2 N members over that with N; nan if no step gains, or if the best one is
            beyond what the probe can tell.
        at_edge: whether the gain still rises at the last learning rate: then ``best_lr`` is a lower bound.
        gains_at_edge: whether it is still above 0 there: then ``largest_lr`` is a lower bound.
    """

    population: int
    lr: Array
    gain: Array
    low: Array
    high: Array
    best_lr: Estimate
    largest_lr: Estimate
    best_gain: Estimate
    doubling: Estimate
    at_edge: bool
    gains_at_edge: bool


@dataclass(frozen=True)
class StepAdvice:
    """What a probe says about sigma, lr and N.

    Args:
        sigma: the noise scale with the highest score.
        sweep: the comparison of the sigmas, with its p-value.
        estimates: at ``sigma``, what decides the gain; row 0 is the estimate.
        curves: one per population, ascending.
        population: the N that is advised.
        critical: N_c = K / kappa with K at ``sigma``: from here on a larger N gains little. inf if there is
            no curvature along the step.
        pairs: K.
        doubt: why nothing can be advised, in one sentence; empty if something can.
    """

    sigma: float
    sweep: SweepVerdict
    estimates: Moments
    curves: tuple[GainCurve, ...]
    population: int
    critical: Estimate
    pairs: int
    doubt: str

    @property
    def curve(self) -> GainCurve:
        """That of the advised population."""
        return next(curve for curve in self.curves if curve.population == self.population)


def advise(
    probe: PairRewards,
    population: int,
    batch: int,
    antithetic: bool = False,
    groups: Sequence[str] = (),
    resamples: int = 400,
    seed: int = 0,
) -> StepAdvice:
    """Read sigma, the learning rate and the population off a probe.

    Args:
        probe: rewards of antithetic pairs at several sigmas, at least 3.
        population: N that is configured.
        batch: prompts of a generation.
        antithetic: whether the run's members come in pairs.
        groups: P names, the task of each prompt; empty if there is only one task.
        resamples: of pairs and prompts, for the intervals.
        seed: seed of the resampling.

    Raises:
        UsageError: there are fewer than 3 sigmas.
    """
    if len(probe.sigmas) < 3:
        raise UsageError(f"{len(probe.sigmas)} sigmas cannot be compared: give 3 or more.")
    sweep = judge([torch.from_numpy(table) for table in probe.rewards], batch, groups, seed)
    found = moments(probe, sweep.best, batch, resamples, seed)
    sizes = sorted({_whole(population * factor, antithetic) for factor in MULTIPLES})
    curves = tuple(gain_curve(found, size, antithetic) for size in sizes)
    here = _whole(population, antithetic)
    advised = _advised(curves, here)
    return StepAdvice(
        sigma=found.sigma,
        sweep=sweep,
        estimates=found,
        curves=curves,
        population=advised,
        critical=Estimate.of(critical_population(found)),
        pairs=probe.pairs,
        doubt=_doubt(sweep, next(c for c in curves if c.population == here), probe.pairs, found),
    )


def expected_gain(found: Moments, lr: Array, population: int, antithetic: bool = False) -> Array:
    """Compute the expected gain of one update, [B, L]; nan beyond the largest sigma of the probe.

    Args:
        found: what the probe measured.
        lr: learning rates alpha, [L].
        population: N.
        antithetic: whether the members come in pairs.
    """
    scale = noise_scale(found, lr, population, antithetic)
    drop = _between(found.sigmas, found.drop, scale, origin=True)
    slope = _between(found.sigmas, found.slope, scale, origin=False)
    rise = lr * shrinkage(population, antithetic) * found.sigma * slope / np.sqrt(found.variance)[:, None]
    bend = 0.5 * lr**2 * (1 - 2 / population) * found.bend[:, None]
    return np.asarray(rise - drop - bend)


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


def gain_curve(found: Moments, population: int, antithetic: bool = False) -> GainCurve:
    """Compute the expected gain against the learning rate, and where it is largest and where it ends.

    Args:
        found: what the probe measured.
        population: N.
        antithetic: whether the members come in pairs.
    """
    lr, gains = _gains(found, population, antithetic)
    best, last, gain = _optimum(lr, gains)
    twice = _optimum(*_gains(found, 2 * population, antithetic))[2]
    doubling = np.divide(twice, gain, out=np.full_like(gain, np.nan), where=gain > 0)
    low, high = np.nanquantile(gains[1:], LEVEL, axis=0)
    interval = doubling[1:][np.isfinite(doubling[1:])]
    at_edge = bool(best[0] >= lr[-1])
    known = 2 * len(interval) > len(gain) - 1 and np.isfinite(doubling[0]) and not at_edge
    return GainCurve(
        population=population,
        lr=lr,
        gain=gains[0],
        low=low,
        high=high,
        best_lr=Estimate.of(best),
        largest_lr=Estimate.of(last),
        best_gain=Estimate.of(gain),
        doubling=Estimate.of(np.append(doubling[0], interval)) if known else Estimate(*[np.nan] * 3),
        at_edge=at_edge,
        gains_at_edge=bool(last[0] >= lr[-1]),
    )


def _gains(found: Moments, population: int, antithetic: bool) -> tuple[Array, Array]:
    """The learning rates of which the probe can tell, [L], and their gains, [B, L]."""
    most = found.sigmas[-1] / noise_scale(found, np.ones(1), population, antithetic)[0, 0]
    lr = np.geomspace(most / 1000, most * (1 - 1e-9), POINTS)
    return lr, expected_gain(found, lr, population, antithetic)


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


def _whole(population: float, antithetic: bool) -> int:
    step = 2 if antithetic else 1
    return int(max(4, step * round(population / step)))


def _advised(curves: Sequence[GainCurve], configured: int) -> int:
    """Double the configured population as long as that pays; halve it where it did not pay to have doubled.

    Where it is not known what doubling gains, the population stays.
    """
    sizes = [curve.population for curve in curves]
    at = sizes.index(configured)
    while at + 1 < len(curves) and curves[at].doubling.value >= PAYS:
        at += 1
    while at > 0 and sizes[at] <= configured and curves[at - 1].doubling.value < PAYS:
        at -= 1
    return sizes[at]


def _doubt(sweep: SweepVerdict, curve: GainCurve, pairs: int, found: Moments) -> str:
    if not sweep.is_significant:
        return (
            "cannot tell: no direction is better than its opposite beyond chance "
            f"(p = {sweep.p_value:.2f}, {pairs} pairs): take more pairs or prompts, or other sigmas."
        )
    at = int(np.flatnonzero(found.sigmas == found.sigma)[0])
    low = float(np.quantile(found.slope[1:, at], LEVEL[0]))
    if low <= 0 or curve.best_gain.low <= 0:
        return (
            f"cannot tell: the signal is below the noise of {pairs} pairs, since its interval includes none: "
            f"take more pairs, such as {_more(pairs, found.slope[:, at])}, or more prompts."
        )
    return ""


def _more(pairs: int, slope: Array) -> int:
    """Pairs whose interval would end above 0, if the slope is as estimated: its error falls as 1 / sqrt K."""
    error = float(slope[1:].std())
    needed = pairs * (2 * 1.645 * error / slope[0]) ** 2 if slope[0] > 0 else np.inf
    return int(min(8 * pairs, max(2 * pairs, np.ceil(needed))))
