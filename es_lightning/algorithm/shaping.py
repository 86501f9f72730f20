"""From rewards to weights: plain functions [N, P] -> [N], float64, named in YAML by their path.

Notation: N members, P prompts, R_n the mean reward of member n over the prompts.
"""

from collections.abc import Callable, Mapping, Sequence

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


def weigh(
    rewards: Tensor,
    shaping: Callable[[Tensor], Tensor],
    groups: Sequence[str] = (),
    group_weights: Mapping[str, float] | None = None,
) -> tuple[Tensor, bool]:
    """The weights of an update, and whether it has to be skipped because all members earned alike.

    Args:
        rewards: [N, P], higher is better.
        shaping: from rewards to weights.
        groups: P names, the task of each prompt; read only where there are group weights.
        group_weights: how much each task of a mixture counts; none where there is one task.

    Returns:
        float64 [N], zeros if the update is to be skipped; and whether it is.
    """
    if group_weights:
        rewards = comparable(rewards, groups, group_weights)
    if all_alike(rewards):
        return torch.zeros(len(rewards), dtype=torch.float64), True
    return shaping(rewards), False


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


def reward_statistics(rewards: Tensor) -> dict[str, float]:
    """Mean, std (of the population, as in the z-score), min and max of the members' mean rewards R_n.

    Args:
        rewards: [N, P], gathered: the same on every rank.
    """
    means = rewards.double().mean(dim=1)
    numbers = {"mean": means.mean(), "std": means.std(correction=0), "min": means.min(), "max": means.max()}
    return {name: float(number) for name, number in numbers.items()}
