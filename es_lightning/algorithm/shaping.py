"""From rewards to weights: plain functions [N, P] -> [N], float64, named in YAML by their path.

Notation: N members, P prompts, R_n the mean reward of member n over the prompts.
"""

from collections.abc import Mapping, Sequence

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


def comparable(rewards: Tensor, groups: Sequence[str], weights: Mapping[str, float]) -> Tensor:
    """Rewards of a mixture on one scale: each task's are standardised over the population first.

    r'_np = w_k / (sum of w) * P / P_k * (r_np - mean R_k) / std R_k for a prompt p of task k, R_kn the mean
    reward of member n over the P_k prompts of that task. The mean of r'_n over all prompts is then the
    weighted mean of z-scores, whatever the rewards' scales and however many prompts a task has in the batch.

    Args:
        rewards: [N, P], higher is better.
        groups: P names, the task of each prompt.
        weights: w_k of each task, above 0; those of tasks that the batch lacks do not count.

    Returns:
        float64 [N, P]; zeros where all members did alike on a task.
    """
    rewards, result = rewards.double(), torch.zeros(rewards.shape, dtype=torch.float64)
    names = dict.fromkeys(groups)
    total = sum(weights[name] for name in names)
    for name in names:
        here = torch.tensor([group == name for group in groups])
        part = rewards[:, here]
        if not all_alike(part):
            means = part.mean(dim=1)
            share = weights[name] / total * len(groups) / part.shape[1]
            result[:, here] = share * (part - means.mean()) / means.std(correction=0)
    return result


def all_alike(rewards: Tensor) -> bool:
    """Whether every member earned the same, so that no direction is better than another.

    A difference within rounding counts as none: dividing by it would turn rounding into a full step.
    """
    means = rewards.double().mean(dim=1)
    tolerance = 8 * torch.finfo(torch.float64).eps * max(1.0, float(rewards.abs().max()))
    return bool(means.max() - means.min() <= tolerance)
