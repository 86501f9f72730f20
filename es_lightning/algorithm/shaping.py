"""Functions that turn rewards [N, P] into weights, float64 [N]; YAML names them.

Notation: N members, P prompts; r_np is the reward of member n on prompt p, R_n its mean over the prompts, and
std that of the population (divisor N). The update is lr * (1/N) * sum_n w_n eps_n, so a shaping decides
the length of a step as well as its direction.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor

from es_lightning.algorithm.bounds import check_rewards, check_weights
from es_lightning.errors import UsageError


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


def centered_rank(rewards: Tensor) -> Tensor:
    """Return w_n = (rank of R_n) / (N - 1) - 1/2, from -1/2 to 1/2 (Salimans et al. 2017, arXiv 1703.03864).

    Members with the same R_n, up to rounding, get the mean of their ranks. Outliers count no more than their
    rank.

    Args:
        rewards: [N, P], higher is better.

    Returns:
        float64 [N], mean 0.
    """
    means = rewards.double().mean(dim=1)
    differences = means[:, None] - means[None, :]
    signs = differences.sign().masked_fill(differences.abs() <= _rounding(rewards), 0)
    # Rank, from 0: how many are worse, and half of those that are alike, oneself left out.
    ranks = (signs.sum(dim=1) + len(means) - 1) / 2
    return ranks / (len(means) - 1) - 0.5


def prompt_centred(rewards: Tensor) -> Tensor:
    """Centre each prompt, then divide by one std: w_n = mean over p of (r_np - mean_n r_np) / sqrt(v + 1e-5).

    v is the variance of all N * P rewards (arXiv 2511.16652, EGGROLL). Since all members see the same
    prompts, this is a z-score by another scale: one that differences between prompts enlarge.

    Args:
        rewards: [N, P], higher is better.

    Returns:
        float64 [N], mean 0.
    """
    rewards = rewards.double()
    return (rewards - rewards.mean(dim=0)).mean(dim=1) / (rewards.var(correction=0) + 1e-5).sqrt()


def prompt_z_score(rewards: Tensor) -> Tensor:
    """Standardise each prompt: w_n = mean over p of (r_np - mean_n r_np) / (std_n r_np + 1e-8).

    A prompt that few members solve counts as much as one that half of them solve, as in GRPO's groups
    (arXiv 2402.03300, equation 1, there over samples). One on which all members earned the same counts not.

    Args:
        rewards: [N, P], higher is better.

    Returns:
        float64 [N], mean 0.
    """
    rewards = rewards.double()
    centred = rewards - rewards.mean(dim=0)
    centred[:, (rewards == rewards[0]).all(dim=0)] = 0  # a mean of equal numbers may round to another
    return (centred / (rewards.std(dim=0, correction=0) + 1e-8)).mean(dim=1)


def leave_one_out(rewards: Tensor) -> Tensor:
    """Subtract the mean of the others: w_n = R_n - mean over m != n of R_m = N / (N - 1) * (R_n - mean R).

    It is the baseline of RLOO (arXiv 2402.14740), and of ES in arXiv 2609.10980. The step grows with the
    reward's scale.

    Args:
        rewards: [N, P], higher is better.

    Returns:
        float64 [N], mean 0.
    """
    means = rewards.double().mean(dim=1)
    return (means - means.mean()) * len(means) / (len(means) - 1)


def best_of_n(rewards: Tensor) -> Tensor:
    """Let the winner take all: w_n = N for the best member, 0 for the others; of several it is the first.

    Random search, repeated from the best member of each generation. With SGD the update is

        theta' = theta + lr * (1/N) * N * sign_b * eps_b,    b = argmax_n R_n

    so lr = sigma makes the best member the next centre, up to the rounding of one sum. Means that differ by
    no more than rounding are tied. Members that share a win would not: the mean of k of them lies nearer to
    the centre by sqrt(k), and nobody has evaluated it.

    Args:
        rewards: [N, P], higher is better.

    Returns:
        float64 [N], mean 1.
    """
    means = rewards.double().mean(dim=1)
    tied = means >= means.max() - _rounding(rewards)
    weights = torch.zeros_like(means)
    weights[tied.nonzero()[0]] = len(means)
    return weights


class FixedScale:
    """Centre, and divide by a scale that never changes: w_n = (R_n - mean R) / scale.

    Unlike z-scores, the weights shrink together with the differences between members: a generation that
    agrees makes a small step. The scale is the std R at which both are the same.

    Args:
        scale: in units of the reward, above 0.

    Raises:
        UsageError: the scale is not above 0.
    """

    def __init__(self, scale: float = 0.1) -> None:
        if not 0 < scale < math.inf:
            raise UsageError(
                f"FixedScale.scale is {scale}: give a number above 0, such as std R at the start."
            )
        self.scale = scale

    def __call__(self, rewards: Tensor) -> Tensor:
        """Return the weights, float64 [N], of rewards [N, P]."""
        means = rewards.double().mean(dim=1)
        return (means - means.mean()) / self.scale


class Shuffled:
    """Give the members another shaping's weights in a random order: steps of the same length, without signal.

    What such a run does to a model, noise alone does. A run that learns is compared with it, so that drift is
    told from learning. The order is a pure function of the seed and of the rewards, which differ from
    generation to generation, so ranks agree on it and a resumed run repeats it.

    With ``antithetic`` the two members of a pair have the same noise, and their weights cease to be opposite:
    the direction is random as well, but steps have another length.

    Args:
        shaping: the shaping whose weights are shuffled.
        seed: seed of the order.
    """

    def __init__(self, shaping: Callable[[Tensor], Any] = z_score, seed: int = 0) -> None:
        self.shaping, self.seed = shaping, seed

    def __call__(self, rewards: Tensor) -> Tensor:
        """Return the weights, float64 [N], of rewards [N, P]."""
        values = rewards.detach().double().cpu().contiguous()
        data = bytes(values.view(torch.uint8).flatten().tolist())
        key = blake2b(f"{self.seed}:".encode() + data, digest_size=32).digest()
        # The order of keyed hashes is a permutation whose bits depend on no library's generator.
        order = sorted(range(len(rewards)), key=lambda n: blake2b(b"%d" % n, key=key).digest())
        weights: Tensor = self.shaping(rewards)
        return weights[torch.tensor(order)]


SHAPINGS = (
    z_score,
    none,
    centered_rank,
    prompt_centred,
    prompt_z_score,
    leave_one_out,
    best_of_n,
    FixedScale,
    Shuffled,
)
"""Those that YAML knows by their names alone."""


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


def check_shaping(shaping: Callable[[Tensor], Tensor], members: int, prompts: int) -> None:
    """Try a shaping on rewards of 0 and 1, before anything that costs money begins.

    Args:
        shaping: turns rewards [N, P] into weights [N]; a copy of it is tried, which may learn what it wants.
        members: N.
        prompts: P.

    Raises:
        UsageError: it fails on them, or returns something else than N weights.
    """
    rewards = (torch.arange(members * prompts).reshape(members, prompts) % 3 == 0).double()
    try:
        weights = deepcopy(shaping)(rewards)
    except UsageError:
        raise
    except Exception as error:
        name = getattr(shaping, "__name__", type(shaping).__name__)
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UsageError(
            f"model.shaping {name} fails on rewards of {members} members and {prompts} prompts ({what}): "
            "give a function that returns one weight per member."
        ) from error
    # Whether they are finite depends on the rewards, of which these are only an example.
    check_weights(weights.nan_to_num() if isinstance(weights, Tensor) else weights, members, shaping)


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
    return bool(means.max() - means.min() <= _rounding(rewards))


def _rounding(rewards: Tensor) -> float:
    """Return the largest difference of two means that rounding alone can cause."""
    return 8 * torch.finfo(torch.float64).eps * max(1.0, float(rewards.abs().max()))


def reward_statistics(rewards: Tensor) -> dict[str, float]:
    """Return mean, std (divisor N, as in ``z_score``), min and max of the members' mean rewards R_n.

    Args:
        rewards: [N, P], gathered, so the same on every rank.
    """
    means = rewards.double().mean(dim=1)
    numbers = {"mean": means.mean(), "std": means.std(correction=0), "min": means.min(), "max": means.max()}
    return {name: float(number) for name, number in numbers.items()}
