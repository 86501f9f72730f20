"""How far a centre would have come if no reward had anything to do with the noise that it came from.

Notation: T updates of d entries, N members of weights w_n, alpha the learning rate, delta = theta - theta_0.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import fsum, sqrt
from typing import Any

from es_lightning.algorithm.noise import Noise, TableNoise
from es_lightning.analysis.geometry import Change
from es_lightning.journal.entry import Entry


@dataclass(frozen=True)
class RandomWalk:
    """What delta would be if no reward had anything to do with the noise it came from.

    The step of a generation is s = alpha / N * sum_n w_n sign_n eps_n. Members of one seed share eps, so its
    entries have variance (alpha / N)^2 * sum over seeds of (sum_n w_n sign_n)^2. z-scores of independent
    members have sum w_n^2 = N, hence alpha^2 / N: ||delta|| = alpha sqrt(T d / N) after T updates of d
    entries (arXiv 2604.01499). In antithetic pairs it is alpha^2 / N * (1 - r), r the correlation of the two
    halves' weights: as much where they have nothing in common, twice as much where one is minus the other.

    Args:
        variance: of an entry of delta, summed over the updates.
        reach: sum of alpha * sqrt(mean w_n^2), which the mean progress along a unit vector cannot exceed
            (Bessel; alpha * T for z-scores).
    """

    variance: float
    reach: float

    def norm(self, entries: int) -> float:
        """Expected ||delta|| of so many entries."""
        return sqrt(self.variance * entries)


def random_walk(header: Mapping[str, Any], entries: Sequence[Entry]) -> RandomWalk | None:
    """The random walk along a journal's updates.

    Args:
        header: of the journal.
        entries: the updates that led to the centre, whatever their lr and population.

    Returns:
        None where the optimizer is not SGD with one parameter group, without momentum and weight decay.
    """
    optimizer = header["optimizer"]
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
    return isinstance(noise, TableNoise) and type(noise).label is TableNoise.label


def compared(whole: Change, walk: RandomWalk | None, noise_is_independent: bool) -> dict[str, float]:
    """What a change is, next to what a random walk would have made it; by the names of metrics.

    Args:
        whole: of all tensors, with a target or without.
        walk: None where the law does not apply.
        noise_is_independent: without that, noise along a direction has another spread than along others, and
            no z-score is given.
    """
    metrics: dict[str, float] = {}
    spread = sqrt(walk.variance) if walk else 0.0
    if walk and spread:
        metrics["norm_ratio"] = whole.norm / walk.norm(whole.entries)
    if whole.target_squares:
        # p_u = <delta, u>, u = (target - theta_0) / ||target - theta_0||
        projection = whole.along / sqrt(whole.target_squares)
        metrics["projection"] = projection
        metrics["projection_cosine"] = projection / whole.norm if whole.norm else 0.0
        if walk and spread and noise_is_independent:
            # z_u = p_u / sqrt(variance), for z-scores p_u / (alpha sqrt(T / N)); its ceiling is sqrt(T N)
            metrics["projection_z"] = projection / spread
            metrics["projection_z_ceiling"] = walk.reach / spread
    return {f"geometry/{name}": value for name, value in metrics.items()}
