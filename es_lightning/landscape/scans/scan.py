"""The arithmetic of scans: which points of weight space are looked at, and what their rewards say.

A scan measures the same P prompts greedily at T points theta + sum_j c_j D_j, where theta is the base model
and D_j are directions of weight space. Prompts stand for the problems of the task, so errors are over them;
comparisons of two points are paired, prompt by prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from es_lightning.errors import UsageError
from es_lightning.landscape.arrays import Array

CONFIDENCE = 0.95
RESAMPLES = 2000
MOST_POINTS = 1000
PARALLEL = 1e-3  # below this share of its length a direction adds nothing to those before it


def grid(start: float, stop: float, step: float, marks: Sequence[float] = ()) -> Array:
    """Return the numbers from start to stop, float64 [T], ascending.

    Args:
        start: the first.
        stop: the last; it is there even if the step does not lead to it.
        step: from one to the next.
        marks: numbers that are there in any case, such as those of the models.

    Raises:
        UsageError: the numbers are not finite or ascending, or there would be more than 1000.
    """
    asked = f"the scan goes from --start {start:g} to --stop {stop:g} in steps of --step {step:g}"
    if not np.isfinite([start, stop, step]).all() or not start < stop or not step > 0:
        raise UsageError(f"{asked}: give a start below the stop, and a step above 0.")
    if (stop - start) / step > MOST_POINTS:
        raise UsageError(f"{asked}, which are more than {MOST_POINTS} points: take a larger step.")
    steps = start + step * np.arange(int((stop - start) / step * (1 + 1e-12)) + 1)
    every = np.concatenate([steps, [stop], np.asarray(marks, dtype=np.float64)])
    # Two numbers that differ by rounding alone are one; the mark, which is exact, is the one to keep.
    rounded = np.round(every / step, 9)
    _, last = np.unique(rounded[::-1], return_index=True)
    return np.asarray(every[::-1][last])


def mean_and_error(rewards: Array) -> tuple[Array, Array]:
    """Return means over prompts and their standard errors, sd / sqrt(P).

    Args:
        rewards: [..., P], at least 2 prompts.
    """
    return rewards.mean(axis=-1), rewards.std(axis=-1, ddof=1) / np.sqrt(rewards.shape[-1])


def quantile(prompts: int) -> float:
    """Return by how many standard errors a 95 % interval reaches: Student's t with P - 1 degrees."""
    from scipy.stats import t

    return float(t.ppf(0.5 + CONFIDENCE / 2, prompts - 1))


@dataclass(frozen=True)
class Barrier:
    """How far the reward falls below the straight line between two models.

    Args:
        height: largest drop on the grid, max over t in [0, 1] of (1 - t) R(0) + t R(1) - R(t); 0 or more.
        at: the t where it is.
        reach: c, by which no drop is off, all of them together, with 95 %.
    """

    height: float
    at: float
    reach: float

    @property
    def low(self) -> float:
        """Lower end of the interval for the height; never below 0, which the ends of the line have."""
        return max(0.0, self.height - self.reach)

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        return self.height + self.reach

    @property
    def is_seen(self) -> bool:
        """Whether there is a barrier beyond the chance of these prompts."""
        return self.low > 0


def drops(times: Array, rewards: Array) -> Array:
    """Return how far each prompt's reward is below its own line from t = 0 to t = 1, [T, P].

    Args:
        times: t of each point, [T]; 0 and 1 are among them.
        rewards: [T, P].
    """
    first, last = rewards[times == 0][0], rewards[times == 1][0]
    along = times[:, None]
    return np.asarray((1 - along) * first + along * last - rewards)


def barrier(times: Array, rewards: Array, seed: int = 0) -> Barrier:
    """Find the barrier between two models, with an interval for its true height on the grid.

    The largest of several noisy drops is too large on average, and to resample prompts inside the maximum
    would repeat that. So the interval is one for all drops at once: the multiplier bootstrap (Chernozhukov,
    Chetverikov and Kato 2013, arXiv 1212.6906) gives the c that the largest error of any drop exceeds in 5 %
    of cases. The true barrier is then within c of the observed one, whichever point it is at.

    Args:
        times: t of each point, [T]; 0 and 1 are among them.
        rewards: [T, P], at least 2 prompts.
        seed: of the multipliers.
    """
    from scipy.stats import norm

    inside = (times >= 0) & (times <= 1)
    each = drops(times, rewards)[inside]
    mean, prompts = each.mean(axis=1), rewards.shape[1]
    centred = (each - mean[:, None]) * np.sqrt(prompts / (prompts - 1))  # as far as the sd with ddof 1
    signs = np.random.default_rng(seed).standard_normal((RESAMPLES, prompts))
    largest = np.abs(signs @ centred.T / prompts).max(axis=1)
    # Few prompts give heavier tails than a normal's, by as much as Student's t has.
    widened = quantile(prompts) / float(norm.ppf(0.5 + CONFIDENCE / 2))
    reach = float(np.quantile(largest, CONFIDENCE)) * widened
    top = int(mean.argmax())
    return Barrier(float(mean[top]), float(times[inside][top]), reach)


@dataclass(frozen=True)
class Band:
    """What random directions of the same length do, per radius.

    Args:
        mean: mean reward over the K directions, [R] or a single one.
        low: lower end of the range where one more random direction would lie with 95 %.
        high: upper end.
    """

    mean: Array
    low: Array
    high: Array


def band(rewards: Array) -> Band:
    """Return where one more random direction would lie: mean +- t_(K-1) sd sqrt(1 + 1/K).

    Args:
        rewards: mean reward of each direction, [K] or at each of R radii [K, R]; at least 2 directions.
    """
    count = len(rewards)
    mean, spread = rewards.mean(axis=0), rewards.std(axis=0, ddof=1)
    reach = quantile(count) * spread * np.sqrt(1 + 1 / count)
    return Band(mean, mean - reach, mean + reach)


def orthonormal(products: Array, names: Sequence[str]) -> Array:
    """Return the coefficients that make orthonormal axes of directions, by Gram and Schmidt.

    Args:
        products: inner products of the directions, <D_i, D_j>, float64 [J, J].
        names: of the directions, for messages.

    Returns:
        Lower triangular [J, J]: axis i is sum_j of [i, j] D_j, of length 1 and orthogonal to the axes before;
        its product with D_i is positive.

    Raises:
        UsageError: a direction has no length, or lies in the plane of those before it.
    """
    from scipy.linalg import solve_triangular

    lengths = np.sqrt(np.diag(products))
    for length, name in zip(lengths, names, strict=True):
        if not length > 0:
            raise UsageError(f"{name} has the weights of the base model: there is no direction to scan.")
    try:
        factor = np.linalg.cholesky(products / np.outer(lengths, lengths))
    except np.linalg.LinAlgError:
        factor = np.zeros_like(products)
    if np.diag(factor).min() < PARALLEL:
        raise UsageError(
            f"{' and '.join(names)} lie in one direction from the base model, and span no plane: give "
            "another model, or a single one, which is drawn beside a random direction."
        )
    # G = L L^T, so the rows of L^-1 are the axes: L^-1 G L^-T = 1.
    return np.asarray(solve_triangular(factor, np.eye(len(names)), lower=True) / lengths)
