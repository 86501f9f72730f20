"""The effective dimension of a maximum, measured by how much reward the noise of an ascent costs there.

At a steady state the mean reward lies below the maximum by a gap that is proportional to the number of curved
directions, so ascents with several populations tell that number (arXiv 2602.00170, "steady-state scaling").
The estimate is only as good as its conditions, and there is none where one of them is not met.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from es_lightning.errors import UsageError
from es_lightning.landscape.arrays import Array

LEVEL = 0.9  # of the interval
CHANCE = 0.01  # below which a drift, or a bend of the line, is not taken for noise
FEWEST = 3  # populations: two determine a line, and a third tests it


def gap_per_dimension(alpha: float, sigma: float, population: int) -> float:
    """Return what a dimension costs in the model: alpha / 4 * kappa, with kappa = sigma^2 / N.

    Args:
        alpha: step size of theta <- theta + alpha grad J + alpha sigma / sqrt(N) eps.
        sigma: noise scale of the same equation.
        population: number of members N.
    """
    return alpha * sigma**2 / (4 * population)


def z_scored_gap_per_dimension(
    lr: float, sigma: float, reward_std: float, population: int, noise: float = 1.0
) -> float:
    """Return what a dimension costs a run with z-scored rewards: lr std(R) / (4 sigma N) for large N.

    The weights have variance 1, so the noise of a step is lr / sqrt(N), whatever sigma is, and the step
    follows lr sigma / std(R) times the gradient. That is the model with alpha = lr sigma / std(R) and
    std(R) / sigma in place of its sigma. In a small population the step follows the gradient less, by the
    factor of ``spread_of_population``: the weights are divided by the members' own standard deviation.

    Args:
        lr: learning rate.
        sigma: noise scale, in units of the weights.
        reward_std: standard deviation that the members' rewards have on average over many populations, that
            is, the root of their mean unbiased variance.
        population: number of members N.
        noise: variance of a step's noise in units of lr^2 / N; 1 if the members are independent.
    """
    return noise * lr * reward_std / (4 * sigma * population) / spread_of_population(population)


def spread_of_population(population: int) -> float:
    """Return the mean standard deviation, by the divisor N, of N independent normal numbers of variance 1.

    That is sqrt(2 / N) Gamma(N / 2) / Gamma((N - 1) / 2): 0.92 for N = 10, 0.97 for N = 30.
    """
    from scipy.special import gammaln

    return float(np.sqrt(2 / population) * np.exp(gammaln(population / 2) - gammaln((population - 1) / 2)))


@dataclass(frozen=True)
class Ascent:
    """What one ascent from the maximum has shown.

    Args:
        rewards: reward before the first step and after each, [T + 1].
        farthest: its largest distance from where it began, in units of the weights.
    """

    rewards: Array
    farthest: float


@dataclass(frozen=True)
class Rules:
    """When an ascent counts, and when there is an estimate.

    Args:
        window: steps of each of the two windows at the end that are compared.
        farthest: distance from the maximum beyond which an ascent has left it.
        drift: difference of the means of the two windows, as a share of the reward lost since the start, at
            which an ascent is not stationary.
        seeds: ascents that a population needs.
        largest: populations that the line is fitted to, from the largest down; small ones wander too far.

    Raises:
        UsageError: a number is outside its range.
    """

    window: int
    farthest: float
    drift: float = 0.5
    seeds: int = 5
    largest: int = 4

    def __post_init__(self) -> None:
        """Check the numbers."""
        checks = {
            f"the window is {self.window} steps: give at least 2.": self.window >= 2,
            f"the farthest distance is {self.farthest}: give a number above 0.": self.farthest > 0,
            f"the drift is {self.drift}: give a share above 0.": self.drift > 0,
            f"{self.seeds} ascents per population: give at least 3.": self.seeds >= 3,
            f"{self.largest} populations: a line that can be wrong needs at least 3.": self.largest >= FEWEST,
        }
        for sentence, met in checks.items():
            if not met:
                raise UsageError(sentence)


@dataclass(frozen=True)
class Level:
    """The steady reward at one population.

    Args:
        population: number of members N.
        kept: ascents that count.
        far: ascents that left the maximum.
        drifting: ascents whose windows differ too much.
        reward: mean reward over both windows and all ascents that count; nan if none does.
        error: its standard error, from the ascents' own means.
        reason: why the population does not count; empty if it does.
    """

    population: int
    kept: int
    far: int
    drifting: int
    reward: float
    error: float
    reason: str


@dataclass(frozen=True)
class SteadyState:
    """The effective dimension, or why there is no estimate of it.

    Args:
        levels: of all populations, ascending.
        used: the populations that the line was fitted to.
        dimension: d_eff; nan without an estimate.
        interval: its 90 % interval.
        top: reward that the line has where the noise is 0.
        reason: why there is no estimate; empty if there is one.
    """

    levels: tuple[Level, ...]
    used: tuple[int, ...] = ()
    dimension: float = np.nan
    interval: tuple[float, float] = (np.nan, np.nan)
    top: float = np.nan
    reason: str = ""


def effective_dimension(
    ascents: Mapping[int, Sequence[Ascent]], per_dimension: Mapping[int, float], rules: Rules
) -> SteadyState:
    """Estimate d_eff from ascents that began at a maximum.

    The steady reward is J_inf(N) = J_max - d_eff g(N) with g from ``gap_per_dimension``, or from
    ``z_scored_gap_per_dimension``. The line is fitted to the largest populations that count, with their
    ``pooled_errors``.

    Args:
        ascents: by population; all of them with one alpha.
        per_dimension: g, by population.
        rules: what counts.

    Raises:
        UsageError: an ascent is shorter than both windows.
    """
    levels = tuple(_level(population, ascents[population], rules) for population in sorted(ascents))
    valid = [level for level in levels if not level.reason][-rules.largest :]
    used = tuple(level.population for level in valid)
    if len(valid) < FEWEST:
        reasons = "; ".join(f"N = {level.population}: {level.reason}" for level in levels if level.reason)
        counted = f"{len(valid)} of {len(levels)} populations count, and a line needs {FEWEST}"
        return SteadyState(levels, used, reason=f"{counted}{f' ({reasons})' if reasons else ''}")
    costs = np.array([per_dimension[level.population] for level in valid])
    errors = pooled_errors(valid, costs)
    if not (errors > 0).all():
        return SteadyState(
            levels, used, reason="the ascents do not differ, so nothing tells how sure the line is"
        )
    return _line(levels, valid, costs, errors)


def pooled_errors(levels: Sequence[Level], costs: Array) -> Array:
    """Return the standard errors of the steady rewards by the spread that all populations share.

    Distances from a maximum grow as sqrt(g), so what a reward has lost grows as g, and so does its spread
    among ascents: std / g is the same for all populations. Errors by each population's own spread would
    weigh the line by their luck, and make its interval too narrow.

    Args:
        levels: k populations that count.
        costs: g of each, [k].

    Returns:
        float64 [k].
    """
    kept = np.array([level.kept for level in levels])
    spreads = np.array([level.error for level in levels]) * np.sqrt(kept) / costs
    pooled = np.sqrt(np.sum((kept - 1) * spreads**2) / np.sum(kept - 1))
    return np.asarray(pooled * costs / np.sqrt(kept))


def _line(levels: tuple[Level, ...], valid: Sequence[Level], costs: Array, errors: Array) -> SteadyState:
    """Fit the line by weighted least squares, and test it."""
    from scipy.stats import f, t

    used, rewards = tuple(level.population for level in valid), np.array([level.reward for level in valid])
    columns = np.stack([np.ones_like(costs), -costs], axis=1) / errors[:, None]
    covariance = np.linalg.inv(columns.T @ columns)
    top, dimension = (covariance @ columns.T @ (rewards / errors)).tolist()
    missed = float(np.sum((columns @ [top, dimension] - rewards / errors) ** 2))
    seeds = sum(level.kept - 1 for level in valid)
    chance = float(f.sf(missed / (len(costs) - 2), len(costs) - 2, seeds))
    if chance < CHANCE:
        bent = f"the steady reward is no straight line in 1/N (F test: p = {chance:.2g})"
        return SteadyState(levels, used, reason=bent)
    wide = float(t.ppf((1 + LEVEL) / 2, seeds)) * float(np.sqrt(covariance[1, 1]))
    interval = (dimension - wide, dimension + wide)
    if interval[0] <= 0:
        told = f"the steady reward does not tell 1/N from nothing: d_eff {dimension:.3g} +- {wide:.2g}"
        return SteadyState(levels, used, reason=told)
    return SteadyState(levels, used, dimension, interval, top)


def _level(population: int, ascents: Sequence[Ascent], rules: Rules) -> Level:
    """Find the steady reward of one population, and whether it counts."""
    far = drifting = 0
    earlier, later = [], []
    for ascent in ascents:
        if len(ascent.rewards) <= 2 * rules.window:
            raise UsageError(
                f"an ascent has {len(ascent.rewards) - 1} steps, and two windows take {2 * rules.window}: "
                "give more steps or a smaller window."
            )
        first = float(ascent.rewards[-2 * rules.window : -rules.window].mean())
        second = float(ascent.rewards[-rules.window :].mean())
        lost = abs(float(ascent.rewards[0]) - (first + second) / 2)
        if ascent.farthest > rules.farthest:
            far += 1
        elif abs(second - first) > rules.drift * lost:
            drifting += 1
        else:
            earlier.append(first)
            later.append(second)
    kept = len(later)
    means = (np.array(earlier) + np.array(later)) / 2
    reward = float(means.mean()) if kept else np.nan
    error = float(means.std(ddof=1) / np.sqrt(kept)) if kept > 1 else np.nan
    reason = ""
    if kept < rules.seeds:
        lost_to = f"{far} left the maximum, {drifting} were not stationary"
        reason = f"{kept} of {len(ascents)} ascents count, and {rules.seeds} are needed: {lost_to}"
    elif (chance := _chance_of_drift(np.array(later) - np.array(earlier))) < CHANCE:
        reason = f"its ascents still drift together (t test: p = {chance:.2g})"
    return Level(population, kept, far, drifting, reward, error, reason)


def _chance_of_drift(differences: Array) -> float:
    """Chance of such a mean difference between the windows, if there is no common drift."""
    from scipy.stats import ttest_1samp

    if not np.ptp(differences) > 0:
        return 1.0 if abs(differences[0]) == 0 else 0.0
    return float(ttest_1samp(differences, 0.0).pvalue)
