"""Which noise scale makes a step gain most, from rewards of the same antithetic pairs at several scales.

Notation: K pairs theta +- sigma eps_k, P prompts, r rewards, R a member's mean reward over the prompts.
o and e are the variances of the odd part (R+ - R-) / 2 and the even part (R+ + R-) / 2, over all possible
pairs and prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from es_lightning.algorithm.signal import mean_squares, odd_and_even

RESAMPLES = 400
SHUFFLES = 999
COVERAGE = 0.9
"""Stated coverage of the intervals."""
NEARLY_1 = 1 - 1e-9
"""Largest size of a score for Fisher's z, which is infinite at 1."""
SMOOTHED = 5
"""Sigmas from which on the choice is by smoothed scores: of three, smoothing leaves a peak in the middle a
sixth of its height above the others (1/2 - 1/3), and can move it to an end.
"""


@dataclass(frozen=True)
class SweepVerdict:
    """The result of a sweep.

    Args:
        scores: score of each sigma, at most 1.
        low: lower end of each score's 90 % interval, over the choice of pairs.
        high: upper end of each score's 90 % interval.
        smooth: the scores, each averaged with its neighbours, where the choice is by these; empty if there
            are fewer than ``SMOOTHED`` sigmas.
        p_value: how often directions would look as consistent from sigma to sigma, and from prompt to prompt,
            by chance alone.
        best: position of the sigma with the highest score, smoothed where there are smoothed scores.
        between: 5th and 95th percentile of that position when the pairs are resampled.
    """

    scores: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    smooth: tuple[float, ...]
    p_value: float
    best: int
    between: tuple[int, int]

    @property
    def is_beyond_chance(self) -> bool:
        """Whether some directions are better than others beyond chance: p below 0.05."""
        return self.p_value < 0.05

    @property
    def is_significant(self) -> bool:
        """Whether they are, and the best score is above 0."""
        return self.is_beyond_chance and self.best_score > 0

    @property
    def best_score(self) -> float:
        """The score that the choice was made by, at ``best``."""
        return (self.smooth or self.scores)[self.best]


def score(rewards: Tensor, batch: int, groups: Sequence[str] = ()) -> Tensor:
    """Compute (o - e) / Var(R_n) = -Cov(R+, R-) / Var(R_n), which estimates a step's gain from a few pairs.

    It is minus the correlation of the two members of a pair: 1 if the reward is linear in the noise, 0 if
    members do not depend on the sign, -1 if both members of a pair always earn the same.

    With z-scored rewards the expected step is alpha c with c = E[Z eps], and its gain is alpha c . grad J.
    The component of c along a direction is the direction's correlation with R (Bessel: ||c||^2 <= 1). So
    ||c||^2, the share of Var(R_n) that is linear in the noise, decides what a step of given length gains.

    The odd part o contains the linear share, but also cubic and higher terms: if members are ruined at
    random, o is half of Var(R_n). The even part e is then the other half, and o - e vanishes.

    On a smooth random landscape (Gaussian kernel, many dimensions), where the rewards of unrelated members
    have correlation exp(-u), the score is exp(-u), and the linear share is u / (exp(u) - 1), never less than
    the score. On a quadratic J = g.x - x^T C x / 2 with noise s^2 in R, o = sigma^2 ||g||^2 and
    e = sigma^4 tr(C^2) / 2. The linear share is then largest at sigma^4 = 2 s^2 / tr(C^2), and the score
    prefers a smaller sigma: by a factor of 1.2 if nearly all of Var(R_n) is linear at the best sigma, 1.4 if
    half of it is, 2.1 if a fifth is.

    Args:
        rewards: [..., 2 K, P], the two members of a pair side by side.
        batch: prompts of a generation, over which the residual will be averaged.
        groups: P names, the task of each prompt; empty if there is only one task.

    Returns:
        float64 [...], at most 1. It is 0 by chance, and negative where curvature outweighs the slope.
    """
    prompts = rewards.shape[-1]
    odd, even = odd_and_even(rewards)
    slope, odd_noise = mean_squares(odd, groups, centred=False)
    bend, even_noise = mean_squares(even, groups)
    # Remove from both what holds for single prompts only: s_m^2 = (MS_m - MS_e) / P.
    slope, bend = (slope - odd_noise) / prompts, (bend - even_noise) / prompts
    total = (slope + bend).clamp(min=0) + (odd_noise + even_noise) / batch
    tiny = 1e-24 * rewards.double().abs().amax((-2, -1)).square()  # rounding alone makes no score
    return torch.where(total > tiny, (slope - bend) / total.clamp(min=1e-300), 0.0)


def smoothed(scores: Tensor) -> Tensor:
    """Average each score with those of the neighbouring sigmas, in the proportion 1 : 2 : 1.

    Args:
        scores: [..., S], in order of sigma.
    """
    total, weight = 2 * scores, torch.full_like(scores, 2.0)
    total[..., 1:] += scores[..., :-1]
    total[..., :-1] += scores[..., 1:]
    weight[..., 1:] += 1
    weight[..., :-1] += 1
    return total / weight


def compared(scores: Tensor) -> Tensor:
    """Return what the choice is made by: the scores of a few sigmas, the smoothed ones of more.

    Args:
        scores: [..., S], in order of sigma.
    """
    return smoothed(scores) if scores.shape[-1] >= SMOOTHED else scores


def judge(rewards: Sequence[Tensor], batch: int, groups: Sequence[str] = (), seed: int = 0) -> SweepVerdict:
    """Compare the sigmas.

    The pairs have the same noise at every sigma, so luck with the directions affects all sigmas alike.

    Args:
        rewards: per sigma [2 K, P], in order of sigma.
        batch: prompts of a generation.
        groups: P names, the task of each prompt; empty if there is only one task.
        seed: seed of the resampling.
    """
    generator = torch.Generator().manual_seed(seed)
    pairs = rewards[0].shape[0] // 2
    scores = _scores_of(rewards, torch.arange(pairs), batch, groups)
    drawn = torch.randint(pairs, (RESAMPLES, pairs), generator=generator)
    again = compared(_scores_of(rewards, drawn, batch, groups))
    others = torch.tensor([[k for k in range(pairs) if k != left_out] for left_out in range(pairs)])
    low, high = interval(scores, _scores_of(rewards, others, batch, groups))
    bounds = torch.tensor([(1 - COVERAGE) / 2, (1 + COVERAGE) / 2], dtype=torch.float64)
    first, last = torch.quantile(again.argmax(-1).double(), bounds, interpolation="nearest").tolist()
    return SweepVerdict(
        scores=tuple(scores.tolist()),
        low=tuple(low.tolist()),
        high=tuple(high.tolist()),
        smooth=tuple(smoothed(scores).tolist()) if len(scores) >= SMOOTHED else (),
        p_value=_p_value(rewards, generator),
        best=int(compared(scores).argmax()),
        between=(int(first), int(last)),
    )


def interval(scores: Tensor, without_one: Tensor) -> tuple[Tensor, Tensor]:
    """Compute each score's 90 % interval: Student's t with the jackknife's standard error, on Fisher's z.

    z = atanh(score) has nearly the same spread whatever the score, since the score is minus a correlation of
    K pairs (Fisher 1921). SE(z)^2 = (K - 1) / K * sum_k (z_(k) - mean z_(k))^2, where z_(k) lacks pair k, and
    t has K - 1 degrees of freedom (Tukey 1958; Efron and Stein 1981). Percentiles of resampled pairs would
    cover 80 % with eight pairs: resampling knows no degrees of freedom.

    Args:
        scores: float64 [S].
        without_one: float64 [K, S], the scores without each of the pairs.

    Returns:
        Two tensors [S], both between -1 and 1.
    """
    from scipy.stats import t

    pairs = len(without_one)
    z = torch.atanh(without_one.clamp(-NEARLY_1, NEARLY_1))
    error = ((pairs - 1) / pairs * (z - z.mean(0)).square().sum(0)).sqrt()
    reach = float(t.ppf((1 + COVERAGE) / 2, pairs - 1)) * error
    centre = torch.atanh(scores.clamp(-NEARLY_1, NEARLY_1))
    return torch.tanh(centre - reach), torch.tanh(centre + reach)


def _scores_of(rewards: Sequence[Tensor], pairs: Tensor, batch: int, groups: Sequence[str]) -> Tensor:
    """Compute the scores of choices of pairs, float64 [..., S].

    Args:
        rewards: per sigma [2 K, P], in order of sigma.
        pairs: [..., k], the pairs of each choice.
        batch: prompts of a generation.
        groups: the task of each prompt.
    """
    members = torch.stack([2 * pairs, 2 * pairs + 1], dim=-1).flatten(-2)
    return torch.stack([score(table[members], batch, groups) for table in rewards], dim=-1)


def _p_value(rewards: Sequence[Tensor], generator: torch.Generator) -> float:
    """Test by permutation: do the odd parts of neighbouring sigmas agree, direction by direction?

    With a slope, the odd part of a direction has the same sign at both sigmas and on all prompts. By chance,
    or if members are ruined at random, its sign is new at each sigma. If the direction just turns answers
    over, whatever the sigma, its sign is new on each prompt. So there are two null hypotheses: signs are
    redrawn per direction and pair of neighbours, and then per direction and prompt. The statistic is the sum
    of the correlations over all neighbours, and the larger of the two p-values counts.
    """
    odd = torch.stack([odd_and_even(table)[0] for table in rewards])
    # Sum of first_kp * second_kq over prompts p != q: agreement on one and the same prompt does not count.
    sums, alone = odd.sum(-1), (odd[:-1] * odd[1:]).sum(-1)
    norms = sums.square().sum(-1, keepdim=True).sqrt()
    scale = norms[:-1] * norms[1:]
    scale = torch.where(scale > 0, 1 / scale, 0.0)
    products = scale * (sums[:-1] * sums[1:] - alone)
    by_sigma = torch.zeros(SHUFFLES, dtype=torch.float64)
    by_prompt = torch.zeros(SHUFFLES, dtype=torch.float64)
    for pair in range(odd.shape[1]):
        by_sigma += _signs(len(products), generator) @ products[:, pair]
        turned = _signs(odd.shape[2], generator) @ odd[:, pair].T
        by_prompt += (turned[:, :-1] * turned[:, 1:] - alone[:, pair]) @ scale[:, 0]
    least = products.sum() - 1e-12  # rounding may not turn a tie into a smaller value
    return max((1 + float((chance >= least).sum())) / (1 + SHUFFLES) for chance in (by_sigma, by_prompt))


def _signs(count: int, generator: torch.Generator) -> Tensor:
    """Draw +1 or -1 with equal chance, float64 [SHUFFLES, count]."""
    return torch.randint(2, (SHUFFLES, count), generator=generator).double() * 2 - 1
