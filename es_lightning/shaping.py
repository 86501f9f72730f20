"""From rewards to weights: plain functions [N, P] -> [N], float64, named in YAML by their path.

Notation: N members, P prompts, R_n the mean reward of member n over the prompts.
"""

import torch
from torch import Tensor


def z_score(rewards: Tensor) -> Tensor:
    """Z_n = (R_n - mean R) / (std R + 1e-8), std of the population, not the sample (arXiv 2509.24372).

    Args:
        rewards: [N, P], higher is better.

    Returns:
        float64 [N], mean 0 and variance 1.
    """
    means = rewards.double().mean(dim=1)
    return (means - means.mean()) / (means.std(correction=0) + 1e-8)


def none(rewards: Tensor) -> Tensor:
    """R_n as it is: the plain estimator, whose step grows with the reward's scale and offset.

    Args:
        rewards: [N, P], higher is better.

    Returns:
        float64 [N].
    """
    return rewards.double().mean(dim=1)


def all_alike(rewards: Tensor) -> bool:
    """Whether every member earned the same, so that no direction is better than another.

    A difference within rounding counts as none: dividing by it would turn rounding into a full step.
    """
    means = rewards.double().mean(dim=1)
    tolerance = 8 * torch.finfo(torch.float64).eps * max(1.0, float(rewards.abs().max()))
    return bool(means.max() - means.min() <= tolerance)
