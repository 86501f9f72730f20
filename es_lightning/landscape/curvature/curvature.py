"""Slope and curvature of a reward from antithetic pairs, without gradients and without Lanczos; float64.

Notation: K pairs theta +- sigma eps_k with eps ~ N(0, I), P prompts, g and H the gradient and the Hessian of
the mean reward at theta. To third order in sigma

    o = (R+ - R-) / (2 sigma)          = g . eps           with mean 0 and variance ||g||^2,
    q = (R+ + R- - 2 R_0) / sigma^2    = eps^T H eps       with mean tr H and variance 2 tr H^2.

The last holds for Gaussian noise alone: elements of another kurtosis kappa add (kappa - 3) sum_i H_ii^2. With
the eigenvalues lambda of H, tr H^2 = sum lambda^2, and the signed participation ratio
(sum lambda)^2 / sum lambda^2 counts those that matter, if they have one sign; opposite signs cancel in its
numerator and make it smaller.

A reward in steps is not smooth at theta: some answers tip at any touch, and R_0 has one of several. Such luck
of the centre is the same at every sigma and in every pair. It would enter tr H as -2 luck / sigma^2, and is
taken off by what two noise scales say of it. It has no part in variances.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import sqrt

import numpy as np
import numpy.typing as npt

from es_lightning.analysis.intervals import Estimate
from es_lightning.errors import UsageError
from es_lightning.landscape.arrays import Array
from es_lightning.landscape.statistics.centre_offset import at_no_noise

REPLICATES = 1000
LEAST = 4
"""Pairs: with fewer, a variance has no interval."""


@dataclass(frozen=True)
class Pairs:
    """Rewards of antithetic pairs at one noise scale.

    Args:
        plus: rewards at theta + sigma eps_k, float64 [K, P].
        minus: rewards at theta - sigma eps_k, [K, P].
        centre: rewards at theta, [P].
        sigma: noise scale in units of the weights.
        offset: how much more than the centre its nearest neighbours earn, per pair, [K], as
            ``offset_per_pair`` finds; NaN where it is not known. None is 0, as where rewards are smooth.

    Raises:
        UsageError: there are fewer than 4 pairs, the shapes differ, a reward is not finite, or sigma is not
            above 0.
    """

    plus: Array
    minus: Array
    centre: Array
    sigma: float
    offset: Array | None = None

    def __post_init__(self) -> None:
        """Refuse what has no curvature in it."""
        if self.plus.shape != self.minus.shape or self.plus.shape[1:] != self.centre.shape:
            raise UsageError(
                f"the rewards of the pairs are {self.plus.shape} and {self.minus.shape}, and the centre's "
                f"{self.centre.shape}: give [pairs, prompts] twice, and [prompts]."
            )
        if len(self.plus) < LEAST:
            raise UsageError(
                f"curvature was asked for from {len(self.plus)} pairs: measure at least {LEAST}."
            )
        if not 0 < self.sigma < np.inf:
            raise UsageError(f"curvature was asked for at sigma {self.sigma:g}: give a number above 0.")
        if not all(np.isfinite(each).all() for each in (self.plus, self.minus, self.centre)):
            raise UsageError("a reward of the pairs is not finite: measure at a smaller sigma.")

    def first(self, count: int) -> Pairs:
        """Return the first pairs alone."""
        offset = None if self.offset is None else self.offset[:count]
        return replace(self, plus=self.plus[:count], minus=self.minus[:count], offset=offset)

    @property
    def slopes(self) -> Array:
        """The odd part per pair and prompt, o = (R+ - R-) / (2 sigma), [K, P]."""
        return np.asarray((self.plus - self.minus) / (2 * self.sigma))

    @property
    def bends(self) -> Array:
        """The second difference per pair and prompt, q = (R+ + R- - 2 R_0) / sigma^2, [K, P]."""
        return np.asarray((self.plus + self.minus - 2 * self.centre) / self.sigma**2)

    @property
    def even(self) -> Array:
        """How much more a pair earns than the centre, on average over both members and all prompts, [K]."""
        return np.asarray(((self.plus + self.minus) / 2 - self.centre).mean(axis=1))


@dataclass(frozen=True)
class Curvature:
    """What pairs tell of slope and curvature, each number with a 95 % interval.

    Args:
        sigma: noise scale in units of the weights.
        pairs: number of pairs K.
        trace: tr H, reward per squared unit of the weights; NaN where the pairs' ``offset`` is not known.
        trace_square: tr H^2.
        participation: (tr H)^2 / tr H^2, signed; NaN where nothing is left of tr H^2 once noise is taken off,
            or tr H is not known.
        gradient_square: ||g||^2, from the variance of the odd part.
    """

    sigma: float
    pairs: int
    trace: Estimate
    trace_square: Estimate
    participation: Estimate
    gradient_square: Estimate

    def odd_ratio(self, gradient_square: float) -> Estimate:
        """Compare the odd part with a known gradient: Var(o) / ||g||^2, 1 if ES sees the gradient alone.

        By chance it is 1 +- sqrt(2 / K), one standard error: a variance of K Gaussian numbers.

        Args:
            gradient_square: ||g||^2 of the same objective on the same prompts.
        """
        own = self.gradient_square
        low, high = own.low / gradient_square, own.high / gradient_square
        return Estimate(own.value / gradient_square, low, high, own.how)

    @property
    def bend_share(self) -> float:
        """Share of the variance of a member's reward that curvature causes, 0 to 1.

        sigma^2 ||g||^2 is linear in the noise and sigma^4 tr H^2 / 2 quadratic.
        """
        straight, bent = self.gradient_square.value, self.sigma**2 * self.trace_square.value / 2
        return max(bent, 0.0) / total if (total := max(straight, 0.0) + max(bent, 0.0)) > 0 else float("nan")


def curvature(pairs: Pairs, noise: float = 0.0, of_prompts: bool = False, seed: int = 0) -> Curvature:
    """Estimate slope and curvature, with bootstrap-t intervals over pairs.

    By simulation on four spectra of participation ratio 6 to 50 (benchmarks/landscape_intervals.py),
    intervals of nominal 95 % hold the truth in 92 to 97 % of cases with 128 pairs, in 87 to 96 % with 64 and
    in 82 to 96 % with 22; least where one eigenvalue dominates.

    Args:
        pairs: the measured rewards.
        noise: variance of one measurement of a member's mean reward around its true value, as
            ``repeat_variance`` finds; it is taken off both variances. 0 where the same weights always give
            the same reward.
        of_prompts: whether H and g are those of all prompts that the P are drawn from. Then what holds for
            single prompts only is taken off as well: MS_e / P, with MS_e the mean square of the residual, and
            P >= 2. Otherwise they are those of the mean over just these prompts.
        seed: seed of the bootstrap.

    Raises:
        UsageError: ``of_prompts`` with one prompt.
    """
    if of_prompts and pairs.centre.size < 2:
        raise UsageError(
            "what one prompt has in common with others cannot be told: measure at least 2 prompts."
        )
    bends, slopes = pairs.bends, pairs.slopes
    q, o = bends.mean(axis=1), slopes.mean(axis=1)
    count, middle = len(q), float(q.mean())
    # What is the same in all pairs, the centre's luck and noise, shifts the mean of q, and no variance.
    bent = q if pairs.offset is None else q - 2 * pairs.offset / pairs.sigma**2
    mean = float(bent.mean())
    # Var(q) holds the noise of R+ and R- over sigma^4.
    spread = (q - middle) ** 2 - 2 * noise / pairs.sigma**4
    square = o**2 - noise / (2 * pairs.sigma**2)
    if of_prompts:
        spread = spread - _residual(bends - bends.mean(axis=0))
        square = square - _residual(slopes)
    each = (q - middle, bent - mean, spread, square)
    found = _statistics(*each, np.arange(count)[None], mean)
    parts = [_statistics(*each, rows, mean) for rows in _draws(count, seed)]
    again = {name: np.concatenate([part[name] for part in parts], axis=1) for name in found}
    how = f"bootstrap-t of {count} pairs"
    return Curvature(
        sigma=pairs.sigma,
        pairs=count,
        trace=_plain(found["mean"], again["mean"], how),
        trace_square=_positive(found["square"], again["square"], how),
        participation=_participation(found["ratio"], again["ratio"], how),
        gradient_square=_positive(found["slope"], again["slope"], how),
    )


def offset_per_pair(near: Pairs, far: Pairs) -> Array:
    """Extrapolate how much more pairs earn than the centre to sigma 0, per pair, [K]: 0 of a smooth reward.

    Args:
        near: pairs at the smaller sigma.
        far: pairs of the same noise at the larger.
    """
    return at_no_noise(near.even, far.even, near.sigma / far.sigma)


def repeat_variance(repeats: Array) -> float:
    """Estimate the variance of one measurement of a mean reward, from weights that were measured repeatedly.

    Args:
        repeats: mean rewards, [W, R]: W sets of weights, each measured R >= 2 times.
    """
    return float(np.var(repeats, axis=1, ddof=1).mean())


def needed_pairs(participation: float, error: float) -> int:
    """Return the pairs after which tr H has a relative standard error, as a plan.

    Var(mean q) = 2 tr H^2 / K, so the relative error of tr H is sqrt(2 / (K PR)). That of ||g||^2 is
    sqrt(2 / K).

    Args:
        participation: the signed participation ratio, guessed.
        error: relative standard error of tr H that is wanted, for example 0.1.
    """
    return max(LEAST, int(np.ceil(2 / (participation * error**2))))


def _draws(count: int, seed: int) -> Iterator[npt.NDArray[np.intp]]:
    """Yield resampled sets of pairs, [B, K], as many at once as a few megabytes hold."""
    generator = np.random.default_rng(seed)
    size = max(1, 500_000 // count)
    for first in range(0, REPLICATES, size):
        yield generator.integers(count, size=(min(size, REPLICATES - first), count))


def _statistics(
    apart: Array, bent: Array, spread: Array, square: Array, rows: npt.NDArray[np.intp], middle: float
) -> dict[str, Array]:
    """Compute the statistics of B sets of pairs, each with its standard error by the influence of each pair.

    Args:
        apart: q of each pair less its mean, [K].
        bent: q without the centre's luck, less ``middle``, [K].
        spread: the square of ``apart``, less noise, [K].
        square: square of the odd part, less noise, [K].
        rows: which pairs are in each set, [B, K].
        middle: mean of q without the centre's luck over the pairs that were measured.

    Returns:
        [2, B] each, value and standard error: ``mean``, tr H; ``square``, tr H^2; ``ratio``,
        tr H / sqrt(tr H^2); ``slope``, ||g||^2.
    """
    apart, bent, spread, square = apart[rows], bent[rows], spread[rows], square[rows]
    count = rows.shape[1]
    moved, shifted = apart.mean(axis=1, keepdims=True), bent.mean(axis=1, keepdims=True)
    variance = (spread.mean(axis=1, keepdims=True) - moved**2) * count / (count - 1)
    mean, of_mean = middle + shifted, bent - shifted
    of_variance = spread - spread.mean(axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        deviation = np.sqrt(variance)  # NaN where noise explains all of it
        ratio = mean / deviation
        of_ratio = of_mean / deviation - ratio * of_variance / (2 * variance)
    slope = square.mean(axis=1, keepdims=True)
    return {
        "mean": _with_error(mean, of_mean),
        "square": _with_error(variance / 2, of_variance / 2),
        "ratio": _with_error(sqrt(2) * ratio, sqrt(2) * of_ratio),
        "slope": _with_error(slope, square - slope),
    }


def _with_error(value: Array, influence: Array) -> Array:
    return np.stack([value[:, 0], np.sqrt((influence**2).mean(axis=1) / (influence.shape[1] - 1))])


def _residual(table: Array) -> Array:
    """Return each pair's share of MS_e / P, [K]: how far its prompts are from its own mean."""
    prompts = table.shape[1]
    rest = table - table.mean(axis=1, keepdims=True)
    return np.asarray((rest**2).sum(axis=1) / (prompts * (prompts - 1)))


def _plain(found: Array, again: Array, how: str) -> Estimate:
    """Bootstrap-t: t = (value* - value) / error* stands for (value - truth) / error."""
    [[value], [error]], (values, errors) = found, again
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = _quantiles((values - value) / errors)
    return Estimate(float(value), float(value - high * error), float(value - low * error), how)


def _positive(found: Array, again: Array, how: str) -> Estimate:
    """The same on the scale of logarithms, where the spread of a variance hardly depends on its size."""
    [[value], [error]], (values, errors) = found, again
    if not value > 0:
        return Estimate(float(value), float("nan"), float("nan"), "no more than noise")
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        # A set of pairs with nothing beyond noise is as low as can be: the truth may be any larger number.
        low, high = _quantiles(np.where(values > 0, np.log(values / value) * values / errors, -np.inf))
        ends = value * np.exp(-np.array([high, low]) * error / value)
    return Estimate(float(value), float(ends[0]), float(ends[1]), how)


def _participation(found: Array, again: Array, how: str) -> Estimate:
    """The interval of r = tr H / sqrt(tr H^2), squared; from 0 on where the sign of tr H is not known."""
    if not np.isfinite(found[0, 0]):
        return Estimate(float("nan"), float("nan"), float("nan"), "not known, or no more than noise")
    root = _plain(found, again, how)
    ends = sorted((root.low**2, root.high**2))
    return Estimate(root.value**2, 0.0 if root.low < 0 < root.high else ends[0], ends[1], how)


def _quantiles(values: Array) -> tuple[float, float]:
    known = values[~np.isnan(values)]
    if known.size < REPLICATES / 2:
        return float("nan"), float("nan")
    low, high = np.quantile(known, [0.025, 0.975], method="nearest")
    return float(low), float(high)
