"""Functions that turn rewards [N, P] into weights, float64 [N]; YAML names them by their import path.

Notation: N members, P prompts; R_n is the mean reward of member n over the prompts.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from es_lightning.algorithm.bounds import check_rewards, check_weights


def z_score(rewards: Tensor) -> Tensor:
    """Standardise the mean rewards: Z_n = (R_n - mean R) / (std R + 1e-8) (arXiv 2509.24372).

    The std is that of the population (divisor N), not of a sample (divisor N - 1).

    Args:
        rewards: [N, P], higher is better.

    Returns:
        float64 [N], mean 0 and variance 1.
    """
    means = rewards.double().mean(dim=1)
    return (means - means.mean()) / (means.std(correction=0) + 1e-8)


def none(rewards: Tensor) -> Tensor:
    """Return R_n unchanged: the plain estimator, whose step grows with the reward's scale and offset.

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
    """Return the weights of an update, or that there is none because all members earned the same.

    Args:
        rewards: [N, P], higher is better.
        shaping: turns rewards [N, P] into weights [N].
        groups: P names, the task of each prompt; used only together with ``group_weights``.
        group_weights: how much each task of a mixture counts; None or empty if there is only one task.

    Returns:
        The weights, float64 [N], all zero if the generation is to be skipped; and whether it is.

    Raises:
        RewardError: a reward is not finite, or so large that statistics overflow.
        UsageError: the shaping function did not return a finite weight for each member.
    """
    check_rewards(rewards)
    if group_weights:
        rewards = comparable(rewards, groups, group_weights)
    if all_alike(rewards):
        return torch.zeros(len(rewards), dtype=torch.float64), True
    weights = shaping(rewards)
    check_weights(weights, len(rewards), shaping)
    return weights, False


def comparable(rewards: Tensor, groups: Sequence[str], weights: Mapping[str, float]) -> Tensor:
    """Put the rewards of a mixture on one scale by standardising each task's rewards over the population.

    For a prompt p of task k, r'_np = w_k / (sum of w) * P / P_k * (r_np - mean R_k) / std R_k. R_kn is the
    mean reward of member n over the P_k prompts of that task. The mean of r'_n over all prompts is then the
    weighted mean of the tasks' z-scores. It depends neither on the scales of the rewards nor on how many
    prompts each task has in the batch.

    Args:
        rewards: [N, P], higher is better.
        groups: P names, the task of each prompt.
        weights: w_k of each task, above 0; weights of tasks without a prompt in the batch do not count.

    Returns:
        float64 [N, P]; zeros for a task on which all members earned the same.
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
    """Tell whether every member earned the same, so that no direction is better than another.

    A difference within rounding error counts as none: dividing by it would turn rounding into a full step.
    """
    means = rewards.double().mean(dim=1)
    tolerance = 8 * torch.finfo(torch.float64).eps * max(1.0, float(rewards.abs().max()))
    return bool(means.max() - means.min() <= tolerance)


def reward_statistics(rewards: Tensor) -> dict[str, float]:
    """Return mean, std (divisor N, as in ``z_score``), min and max of the members' mean rewards R_n.

    Args:
        rewards: [N, P], gathered, so the same on every rank.
    """
    means = rewards.double().mean(dim=1)
    numbers = {"mean": means.mean(), "std": means.std(correction=0), "min": means.min(), "max": means.max()}
    return {name: float(number) for name, number in numbers.items()}
