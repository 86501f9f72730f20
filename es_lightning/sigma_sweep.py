"""Which noise scale makes the most of a step, from rewards of the same antithetic pairs at several scales.

Notation: K pairs theta +- sigma eps_k, P prompts, r rewards, R a member's mean over the prompts; o and e the
variances of (R+ - R-) / 2 and (R+ + R-) / 2, the odd and the even part, over all pairs and prompts there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from es_lightning.health import mean_squares, odd_and_even

RESAMPLES = 400
SHUFFLES = 999


@dataclass(frozen=True)
class Verdict:
    """What a sweep says.

    Args:
        scores: per sigma, smoothed over its neighbours, at most 1.
        low: 5th percentile of the scores, drawing the pairs anew.
        high: their 95th percentile.
        p_value: how often directions would look as consistent from sigma to sigma by chance alone.
        best: position of the sigma with the highest score.
        between: 5th and 95th percentile of that position.
    """

    scores: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    p_value: float
    best: int
    between: tuple[int, int]

    @property
    def found(self) -> bool:
        """Whether directions are better or worse beyond chance: p below 0.05."""
        return self.p_value < 0.05 and self.scores[self.best] > 0


def score(rewards: Tensor, batch: int, groups: Sequence[str] = ()) -> Tensor:
    """(o - e) / Var(R_n) = -Cov(R+, R-) / Var(R_n): what a step gains, as far as a few pairs can tell.

    With z-scored rewards the expected step is alpha c, c = E[Z eps], and its gain is alpha c . grad J. A
    direction's part in c is its correlation with R (Bessel: ||c||^2 <= 1), so that ||c||^2, the share of
    Var(R_n) that is linear in the noise, decides what a step of given length gains.

    The odd part o holds the linear share, and cubic and further terms as well: half of Var(R_n) where members
    are ruined at random. The even part e is then the other half, and o - e vanishes. On a smooth random
    landscape (Gaussian kernel, many dimensions), where unrelated members correlate by exp(-u), the score is
    exp(-u) and the linear share u / (exp(u) - 1), which is never less. On a quadratic J = g.x - x^T C x / 2
    with noise s^2 in R, o = sigma^2 ||g||^2 and e = sigma^4 tr(C^2) / 2: the score prefers a sigma below
    that of the linear share, sigma^4 = 2 s^2 / tr(C^2), by a factor of 1.2 with little noise, 1.5 with much.

    Args:
        rewards: [..., 2 K, P], the two members of a pair side by side.
        batch: prompts of a generation, over which the residual will be averaged.
        groups: P names, the task of each prompt; none where there is one task.

    Returns:
        float64 [...], at most 1; 0 by chance, below it where curvature outweighs the slope.
    """
    prompts = rewards.shape[-1]
    odd, even = odd_and_even(rewards)
    slope, odd_noise = mean_squares(odd, groups, centred=False)
    bend, even_noise = mean_squares(even, groups)
    # What holds for single prompts alone is taken out of both: s_m^2 = (MS_m - MS_e) / P.
    slope, bend = (slope - odd_noise) / prompts, (bend - even_noise) / prompts
    total = (slope + bend).clamp(min=0) + (odd_noise + even_noise) / batch
    tiny = 1e-24 * rewards.double().abs().amax((-2, -1)).square()  # rounding is no difference
    return torch.where(total > tiny, (slope - bend) / total.clamp(min=1e-300), 0.0)


def smoothed(scores: Tensor) -> Tensor:
    """Means with the neighbouring sigmas, in the proportion 1 : 2 : 1.

    Args:
        scores: [..., S], in order of sigma.
    """
    total, weight = 2 * scores, torch.full_like(scores, 2.0)
    total[..., 1:] += scores[..., :-1]
    total[..., :-1] += scores[..., 1:]
    weight[..., 1:] += 1
    weight[..., :-1] += 1
    return total / weight


def judge(rewards: Sequence[Tensor], batch: int, groups: Sequence[str] = (), seed: int = 0) -> Verdict:
    """Compare the sigmas.

    The pairs have the same noises at every sigma, so that luck with the directions is common to all.

    Args:
        rewards: per sigma [2 K, P], in order of sigma.
        batch: prompts of a generation.
        groups: P names, the task of each prompt.
        seed: of the resampling.
    """
    scores = smoothed(torch.stack([score(table, batch, groups) for table in rewards]))
    generator = torch.Generator().manual_seed(seed)
    pairs = rewards[0].shape[0] // 2
    drawn = torch.randint(pairs, (RESAMPLES, pairs), generator=generator)
    members = torch.stack([2 * drawn, 2 * drawn + 1], dim=-1).flatten(1)
    again = smoothed(torch.stack([score(table[members], batch, groups) for table in rewards], dim=-1))
    bounds = torch.tensor([0.05, 0.95], dtype=torch.float64)
    low, high = torch.quantile(again, bounds, dim=0).tolist()
    first, last = torch.quantile(again.argmax(-1).double(), bounds, interpolation="nearest").tolist()
    return Verdict(
        scores=tuple(scores.tolist()),
        low=tuple(low),
        high=tuple(high),
        p_value=_p_value(rewards, generator),
        best=int(scores.argmax()),
        between=(int(first), int(last)),
    )


def _p_value(rewards: Sequence[Tensor], generator: torch.Generator) -> float:
    """Permutation test: are the odd parts of neighbouring sigmas alike, direction by direction?

    A slope gives one direction the same sign at both, while chance, and members that are ruined at random,
    give it a new one at each. So signs are drawn anew, per direction and sigma; what is compared is the sum
    of the correlations over all neighbours.
    """
    pairs = rewards[0].shape[0] // 2
    odd = [odd_and_even(table)[0] for table in rewards]
    signs = torch.randint(2, (SHUFFLES, len(odd), pairs), generator=generator).double() * 2 - 1
    signs = torch.cat([torch.ones(1, len(odd), pairs, dtype=torch.float64), signs])
    total = torch.zeros(SHUFFLES + 1, dtype=torch.float64)
    for position, (first, second) in enumerate(pairwise(odd)):
        # sum of first_kp second_kq over prompts p != q: what both share on one prompt alone does not count.
        products = first.sum(1) * second.sum(1) - (first * second).sum(1)
        scale = float((first.sum(1).square().sum() * second.sum(1).square().sum()).sqrt())
        if scale > 0:
            total += (signs[:, position] * signs[:, position + 1]) @ products / scale
    return float((total >= total[0] - 1e-12).double().mean())
