"""Expected best of N candidates, from M candidates measured once; all in float64.

The best of N of arXiv 2602.00170, appendix G, without its Monte Carlo subsets. Of the M values in ascending
order x_(1) .. x_(M), the i-th is the largest of C(i - 1, N - 1) of the C(M, N) subsets of size N, so

    E max = sum_i x_(i) C(i - 1, N - 1) / C(M, N).

It is an unbiased estimate of the expected largest of N independent candidates (a U-statistic).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from es_lightning.errors import UsageError
from es_lightning.landscape.arrays import Array

SIZES = (5, 10, 20, 30, 50)
"""The N of arXiv 2602.00170."""
SHARE = 0.9
"""Of the best of the largest N, which the best of N_90 reaches."""


def shares_below(count: int, size: int) -> Array:
    """Compute C(i, N) / C(M, N) for i = 0 .. M, float64 [M + 1]: how often the best is among the i lowest.

    The ratio of neighbours is C(i - 1, N) / C(i, N) = (i - N) / i, so the shares are a running product from
    the last, 1, downwards: exact to a few roundings for any M, without a binomial coefficient.

    Args:
        count: candidates M.
        size: members N of a subset.

    Raises:
        UsageError: there are fewer candidates than a subset has members, or N is below 1.
    """
    if size < 1:
        raise UsageError(f"a best of {size} candidates was asked for: give at least 1.")
    if count < size:
        raise UsageError(
            f"the best of N = {size} was asked for, and only M = {count} independent candidates were "
            "measured: measure more candidates, or ask for a smaller N."
        )
    descending = np.arange(count, 0, -1, dtype=np.float64)
    ratios = np.maximum(descending - size, 0) / descending
    return np.concatenate([np.cumprod(ratios)[::-1], [1.0]])


def order_weights(count: int, size: int) -> Array:
    """Compute C(i - 1, N - 1) / C(M, N) for i = 1 .. M, float64 [M]: how often the i-th lowest is the best.

    They are the steps of ``shares_below``: C(i, N) - C(i - 1, N) = C(i - 1, N - 1).

    Args:
        count: candidates M.
        size: members N of a subset.

    Raises:
        UsageError: M < N, or N < 1.
    """
    # (N / i) C(i, N) = C(i - 1, N - 1): no difference of near numbers is taken.
    places = np.arange(1, count + 1, dtype=np.float64)
    return np.asarray(shares_below(count, size)[1:] * size / places)


def best_of(values: Array, sizes: Sequence[int]) -> Array:
    """Compute the expected largest of N values, drawn without replacement.

    Args:
        values: [..., M], one per candidate, in any order.
        sizes: K values of N, each at most M.

    Returns:
        float64 [..., K], in the unit of the values.

    Raises:
        UsageError: M < N, or N < 1.
    """
    count = np.shape(values)[-1]
    weights = np.stack([order_weights(count, size) for size in sizes])
    return np.asarray(np.sort(values, axis=-1) @ weights.T)


def best_of_pairs(values: Array, sizes: Sequence[int]) -> Array:
    """Compute the expected largest of N values of which none share their noise.

    The two members of an antithetic pair depend on one another. The members of one sign do not, and are
    candidates like any others, so the result is the mean over both signs.

    Args:
        values: [..., 2 K], the two members of a pair side by side.
        sizes: values of N, each at most K.

    Returns:
        float64 [..., len(sizes)].

    Raises:
        UsageError: there are fewer pairs than N, or N < 1.
    """
    return (best_of(values[..., ::2], sizes) + best_of(values[..., 1::2], sizes)) / 2


def leave_one_out(values: Array, sizes: Sequence[int]) -> Array:
    """Compute the expected best of N without each of the candidates in turn, for the jackknife.

    Args:
        values: [..., M], one per candidate, in any order.
        sizes: K values of N, each at most M - 1.

    Returns:
        float64 [..., K, M], in the order of the values.

    Raises:
        UsageError: M - 1 < N, or N < 1.
    """
    order = np.argsort(values, axis=-1)
    ascending = np.take_along_axis(np.asarray(values, dtype=np.float64), order, axis=-1)
    ends = np.zeros_like(ascending[..., :1])
    found = np.empty((*ascending.shape[:-1], len(sizes), ascending.shape[-1]))
    for row, size in enumerate(sizes):
        weights = order_weights(ascending.shape[-1] - 1, size)
        # Without x_(i), those below it keep their places, and those above it move one place down.
        below = np.cumsum(ascending[..., :-1] * weights, axis=-1)
        above = np.cumsum((ascending[..., 1:] * weights)[..., ::-1], axis=-1)[..., ::-1]
        without = np.concatenate([ends, below], axis=-1) + np.concatenate([above, ends], axis=-1)
        np.put_along_axis(found[..., row, :], order, without, axis=-1)
    return found


def choice_weights(values: Array, sizes: Sequence[int]) -> Array:
    """Compute how often each candidate is the best of N, drawn without replacement.

    Candidates with the same value share their part, since each is chosen as often as the other.

    Args:
        values: [..., M], what the choice looks at.
        sizes: K values of N, each at most M.

    Returns:
        float64 [..., K, M]; the M weights sum up to 1.

    Raises:
        UsageError: M < N, or N < 1.
    """
    from scipy.stats import rankdata

    count = np.shape(values)[-1]
    below = np.stack([shares_below(count, size) for size in sizes])
    # Candidates with values in the places lower + 1 .. upper are equal.
    lower = np.asarray(rankdata(values, method="min", axis=-1), dtype=np.intp) - 1
    upper = np.asarray(rankdata(values, method="max", axis=-1), dtype=np.intp)
    shared = np.stack([(row[upper] - row[lower]) / (upper - lower) for row in below], axis=-2)
    return np.asarray(shared)


def first_within(curve: Array, share: float = SHARE) -> int | None:
    """Find N_90, the least N whose best reaches 0.9 of the best of the largest N.

    Args:
        curve: expected best of N = 1, 2, .. N_max.
        share: of the last value.

    Returns:
        None where the last value is not above 0: nine tenths of no gain, or of a loss, mean nothing.
    """
    if curve[-1] <= 0:
        return None
    return int(np.argmax(curve >= share * curve[-1])) + 1


def headroom(centre: float, most: float = 1.0) -> float:
    """Return by how much a reward can rise at most: 1 - R_0 where the largest reward is 1.

    Args:
        centre: R_0, the centre's mean reward.
        most: largest reward that the task gives.

    Raises:
        UsageError: there is none.
    """
    if not most > centre:
        raise UsageError(
            f"the centre already earns {centre:g} of at most {most:g}, so there is no headroom to divide "
            "changes by: take harder prompts."
        )
    return most - centre
