"""How much of the differences between members' rewards other prompts would show as well; all in float64.

Notation: N members, P prompts, r_np rewards, R_n the mean reward of member n over the prompts, K antithetic
pairs whose members 2k and 2k+1 have the same noise with opposite signs, MS a mean square.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Signal:
    """How well the rewards of a generation would agree with those on other prompts.

    Halves of the members cannot tell: their steps g_A and g_B have E[g_A . g_B] = ||E[Z eps]||^2 <= 1 against
    noise of about 2 sqrt(d) / N in d dimensions, a z-score of 1e-3. Halves of the prompts can: both steps are
    sums of the same noise vectors, which are nearly orthogonal and of equal length. So
    cos(g_A, g_B) = corr(w_A, w_B) + O(1 / sqrt(d)) for the weights w_A and w_B that the halves give.

    Args:
        member: MS among members, P Var(R_n).
        residual: MS of the residual: what member and prompt do not explain on their own.
    """

    member: float
    residual: float

    @property
    def agreement(self) -> float:
        """Cosine of the steps from two halves of the prompts, -1 to 1.

        (MS_m - MS_e) / (MS_m + MS_e) is exactly the covariance of the two halves' rewards, over all ways to
        split the prompts in half, divided by their variance.
        """
        return (self.member - self.residual) / (self.member + self.residual)

    @property
    def reliability(self) -> float:
        """Share of Var(R_n) that other prompts would show as well: Cronbach's alpha, at most 1.

        It is 1 - MS_e / MS_m, or 2 a / (1 + a) with the agreement a (Spearman and Brown, 1910).
        """
        return 1 - self.residual / self.member if self.member else 0.0

    @property
    def snr(self) -> float:
        """Variance of the signal over that of the noise in R_n: MS_m / MS_e - 1, at least -1; 0 is noise."""
        return self.member / self.residual - 1 if self.residual else float("inf")


def mean_squares(values: Tensor, groups: Sequence[str] = (), centred: bool = True) -> tuple[Tensor, Tensor]:
    """Compute the mean squares of the rows and of the residual, in a table with one value per cell.

    In a mixture, the residual is taken within each task and weighted by the task's number of prompts, since
    other prompts would come from the same tasks in the same numbers (stratified alpha: Cronbach 1965).

    Args:
        values: [..., K, P] with P at least 2; rows are members or pairs.
        groups: P names, the task of each prompt; empty if there is only one task.
        centred: whether each column has a mean of its own, which is subtracted. Differences within pairs
            have none.

    Returns:
        MS_m and MS_e, float64 [...]. Their expectations are E[MS_m] = s_e^2 + P s_m^2 and E[MS_e] = s_e^2.
    """
    values = values.double()
    rows, prompts = values.shape[-2:]
    freedom = rows - 1 if centred else rows
    values = values - values.mean(-2, keepdim=True) if centred else values
    member = prompts * values.mean(-1).square().sum(-1) / freedom
    residual = torch.zeros_like(member)
    for here in _strata(groups, prompts):
        part = values[..., here]
        rest = part - part.mean(-1, keepdim=True)
        size = len(here)
        residual += size / prompts * rest.square().sum((-2, -1)) / (freedom * (size - 1))
    return member, residual


def _strata(groups: Sequence[str], prompts: int) -> list[list[int]]:
    """Group the columns; all are one stratum if any group has only one prompt, which has no spread."""
    by_group: dict[str, list[int]] = {}
    for column, group in enumerate(groups):
        by_group.setdefault(group, []).append(column)
    strata = list(by_group.values())
    return strata if strata and min(map(len, strata)) > 1 else [list(range(prompts))]


def signal(rewards: Tensor, groups: Sequence[str] = (), pairs: bool = False) -> Signal | None:
    """Measure how much of the differences between members is signal.

    Args:
        rewards: [N, P]; the rewards of a mixture have to be made comparable first.
        groups: P names, the task of each prompt; empty if there is only one task.
        pairs: whether members come in antithetic pairs. The two have opposite noise, so the step depends
            only on (r_2k - r_2k+1) / 2.

    Returns:
        None with fewer than 2 prompts, or if all members earned the same rewards.
    """
    if rewards.shape[1] < 2:
        return None
    table = odd_and_even(rewards)[0] if pairs else rewards
    member, residual = mean_squares(table, groups, centred=not pairs)
    return Signal(float(member), float(residual)) if member + residual > rounding(rewards) else None


def rounding(rewards: Tensor) -> float:
    """Return the largest mean square that rounding alone can cause."""
    return 1e-24 * max(1.0, float(rewards.abs().max()) ** 2)


def odd_and_even(rewards: Tensor) -> tuple[Tensor, Tensor]:
    """Split each pair into an odd and an even part: half the difference and half the sum of its members.

    Args:
        rewards: [..., 2 K, P].

    Returns:
        Two tensors [..., K, P]: the odd part, which changes its sign with the noise, and the even part, which
        does not.
    """
    plus, minus = rewards.double()[..., ::2, :], rewards.double()[..., 1::2, :]
    return (plus - minus) / 2, (plus + minus) / 2
