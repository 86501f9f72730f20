"""How well a population's rewards measure its members; everything is computed in float64.

Notation: N members, P prompts, r_np rewards, R_n the mean reward of member n over the prompts, K antithetic
pairs whose members 2k and 2k+1 have the same noise with opposite signs, MS a mean square.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from torch import Tensor

from es_lightning.algorithm.signal import mean_squares, odd_and_even, rounding


def linear_share(rewards: Tensor) -> float | None:
    """Compute the odd part's share of the variance of an antithetic population's rewards.

    It is 1 if the reward is linear on the scale of sigma, 0.5 if noise or chance decides, and lower if
    curvature does.

    Args:
        rewards: [N, P], pairs side by side.

    Returns:
        None with fewer than 2 pairs, or if all members earned the same.
    """
    odd, even = (part.mean(-1) for part in odd_and_even(rewards))
    if len(even) < 2:
        return None
    slope, bend = odd.square().mean(), even.var(correction=1)
    return float(slope / (slope + bend)) if slope + bend > rounding(rewards) else None


@lru_cache
def agreement_by_chance(members: int, prompts: int, pairs: bool) -> tuple[float, float]:
    """Return mean and standard deviation of a generation's agreement where members differ by chance alone.

    MS_m / MS_e then has the F distribution with m and m (P - 1) degrees of freedom, where m is N - 1, or the
    number of pairs K: differences within pairs have no mean to subtract. The agreement is (F - 1) / (F + 1).
    Its mean is below 0 for more than 2 prompts. Rewards of 0 and 1 have these numbers within a few percent.

    Args:
        members: N, at least 2.
        prompts: P, at least 2.
        pairs: whether members come in antithetic pairs.
    """
    from scipy.stats import f

    freedom = members // 2 if pairs else members - 1
    ratio = f(freedom, freedom * (prompts - 1))
    mean = float(ratio.expect(lambda x: (x - 1) / (x + 1)))
    return mean, float(ratio.expect(lambda x: ((x - 1) / (x + 1) - mean) ** 2)) ** 0.5


def variance_shares(rewards: Tensor) -> Mapping[str, float]:
    """Split the variance of single rewards into the shares of member, prompt and residual, which sum to 1.

    This is a two-way analysis of variance with random effects: s_m^2 = (MS_m - MS_e) / P,
    s_p^2 = (MS_p - MS_e) / N and s_e^2 = MS_e. Estimates below 0 count as 0.

    Args:
        rewards: [N, P].

    Returns:
        ``member``, ``prompt`` and ``residual``; empty with fewer than 2 prompts, or if all rewards are equal.
    """
    members, prompts = rewards.shape
    if prompts < 2:
        return {}
    member, residual = mean_squares(rewards)
    prompt, _ = mean_squares(rewards.T)
    parts = {"member": (member - residual) / prompts, "prompt": (prompt - residual) / members}
    variances = {name: max(0.0, float(part)) for name, part in {**parts, "residual": residual}.items()}
    total = sum(variances.values())
    return {name: part / total for name, part in variances.items()} if total > rounding(rewards) else {}


def above(rewards: Tensor, centre: Tensor) -> float:
    """Compute the share of members that earn more than the centre on the same prompts; ties count half.

    Args:
        rewards: [N, P].
        centre: [P].
    """
    gain = rewards.double().mean(1) - centre.double().mean()
    # Rounding may not break a tie.
    gain[gain.abs() <= 1e-12 * max(1.0, float(centre.abs().max()))] = 0
    return float((gain.sign() + 1).mean() / 2)


def informative(rewards: Tensor) -> float:
    """Compute the share of prompts on which members' rewards differ; the others show no direction.

    Args:
        rewards: [N, P].
    """
    spread = rewards.amax(0) - rewards.amin(0)
    return float((spread > 1e-12 * max(1.0, float(rewards.abs().max()))).double().mean())
