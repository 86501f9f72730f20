"""How far the centre would have moved if rewards were unrelated to the noise of the members that earned them.

Notation: T updates of d perturbed entries, N members of weights w_n, alpha the learning rate, and
delta = theta - theta_0.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import fsum, sqrt
from typing import Any

from es_lightning.algorithm.noise import FilteredNoise, Noise, TableNoise
from es_lightning.analysis.geometry import Change
from es_lightning.journal.entry import Entry


@dataclass(frozen=True)
class RandomWalk:
    """The change delta that would result if rewards were unrelated to the noise.

    The step of a generation is s = alpha / N * sum_n w_n sign_n eps_n. Members with the same seed share eps,
    so the entries of s have variance (alpha / N)^2 * sum over seeds of (sum_n w_n sign_n)^2, where the inner
    sum is over the members with that seed.

    The z-scores of independent members have sum w_n^2 = N, so that variance is alpha^2 / N, and
    ||delta|| = alpha sqrt(T d / N) after T updates of d entries (arXiv 2604.01499). With antithetic pairs it
    is alpha^2 / N * (1 - r), where r is the correlation of the two halves' weights: the same if the halves
    are uncorrelated, twice as much if one is minus the other.

    Args:
        variance: variance of an entry of delta, summed over the updates.
        reach: sum of alpha * sqrt(mean w_n^2) over the updates; the mean progress along a unit vector cannot
            exceed it (Bessel). For z-scores it is alpha * T.
    """

    variance: float
    reach: float

    def norm(self, entries: int) -> float:
        """Return the expected ||delta|| over a number of entries, all of them perturbed."""
        return sqrt(self.variance * entries)


def random_walk(header: Mapping[str, Any], entries: Sequence[Entry]) -> RandomWalk | None:
    """Compute the random walk that a journal's updates would make.

    Args:
        header: the journal's header.
        entries: the updates that led to the centre; lr and population may differ between them.

    Returns:
        None unless the optimizer is SGD with one parameter group, without momentum and weight decay; and None
        with regularisers, which shorten the steps or what they add up to.
    """
    optimizer = header["optimizer"]
    if header.get("regularisers"):
        return None
    settings = [optimizer["settings"], *(entry.hyper for entry in entries)]
    plain = not any(each.get("momentum") or each.get("weight_decay") for each in settings)
    if optimizer["class"] != "torch.optim.sgd.SGD" or optimizer["groups"] != 1 or not plain:
        return None
    variance = reach = 0.0
    for entry in entries:
        shared: dict[int, float] = defaultdict(float)
        weights = entry.weights.tolist()
        for member, weight in zip(entry.members, weights, strict=True):
            shared[member.seed] += weight * member.sign
        lr, size = entry.hyper["lr"], len(weights)
        variance += (lr / size) ** 2 * fsum(weight**2 for weight in shared.values())
        reach += lr * sqrt(fsum(weight**2 for weight in weights) / size)
    return RandomWalk(variance, reach)


def independent(noise: Noise | None) -> bool:
    """Whether no two entries of a perturbation share a draw, within a tensor or between two."""
    if isinstance(noise, FilteredNoise):
        return independent(noise.noise)
    # A tensor's label keys its draws: kinds of noise that override it may give two tensors the same draws.
    return isinstance(noise, TableNoise) and type(noise).label is TableNoise.label


def compared(
    whole: Change, tuned: Change, walk: RandomWalk | None, noise_is_independent: bool
) -> dict[str, float]:
    """Compare a change with that of a random walk; the numbers have the names of their metrics.

    Args:
        whole: the change summed over all tensors, with or without a target.
        tuned: the same summed over the tensors that the noise perturbs, in which alone the walk goes.
        walk: the random walk; None where its law does not apply.
        noise_is_independent: whether the entries of the noise are independent. If not, the spread of the
            noise depends on the direction, and no z-score is given.
    """
    metrics: dict[str, float] = {}
    spread = sqrt(walk.variance) if walk else 0.0
    if walk and spread:
        metrics["norm_ratio"] = tuned.norm / walk.norm(tuned.entries)
    if whole.target_squares:
        # p_u = <delta, u> with u = (target - theta_0) / ||target - theta_0||
        projection = whole.along / sqrt(whole.target_squares)
        metrics["projection"] = projection
        metrics["projection_cosine"] = projection / whole.norm if whole.norm else 0.0
        if walk and spread and noise_is_independent and tuned.target_squares:
            # z_u = p_u / sqrt(variance): p_u / (alpha sqrt(T / N)) for z-scores, with the ceiling sqrt(T N).
            # Frozen tensors have no part in u here: along them the walk cannot go.
            metrics["projection_z"] = tuned.along / sqrt(tuned.target_squares) / spread
            metrics["projection_z_ceiling"] = walk.reach / spread
    return {f"geometry/{name}": value for name, value in metrics.items()}
