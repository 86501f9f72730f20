"""Estimators of the Kullback-Leibler divergence of two language models, from log-probabilities of samples.

Notation: m prompts, one completion for each; prompt i's has n_i tokens, and a term for each of them. A term's
mean over samples of p is the divergence of the two next-token distributions. All values are nats per token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor


@dataclass(frozen=True)
class Estimate:
    """A mean and how sure it is.

    Args:
        value: nats per token.
        error: its standard error over prompts; None where there is but one prompt.
    """

    value: float
    error: float | None


def log_ratios(sampled: Sequence[Tensor], other: Sequence[Tensor]) -> list[Tensor]:
    """log p(x) - log q(x) for samples x of p: the plain terms of KL(p||q), of either sign.

    In 2605.30148 p is the base model and q the tuned one: KL(base||tuned). In 2604.01499 it is the other way
    round, KL(tuned||base), and the samples are the tuned model's.

    Args:
        sampled: per prompt the log-probabilities [n_i] of the tokens under p, which they were drawn from.
        other: the same tokens' under q.

    Returns:
        Per prompt float64 [n_i].
    """
    return [p.double() - q.double() for p, q in zip(sampled, other, strict=True)]


def k3(ratios: Sequence[Tensor]) -> list[Tensor]:
    """r - log r - 1 with r = q(x) / p(x): terms of the same mean, never negative (2509.24372, conciseness).

    Unbiased, as E_p[r] = 1: softmax leaves no token without probability. It spreads less than the plain terms
    while p and q are close, and more when they are not.

    Args:
        ratios: what ``log_ratios`` gave.
    """
    return [(torch.expm1(-each) + each).clamp(min=0.0) for each in ratios]  # log r = -each


def token_weighted(terms: Sequence[Tensor]) -> Estimate:
    """Sum of all terms over number of all tokens, so that a long completion counts more (2605.30148).

    A ratio of two sums over prompts, whose terms within a prompt depend on one another; so its standard error
    takes a prompt as the unit (Cochran, Sampling Techniques, 1977, section 6.4):
    SE^2 = m / (m - 1) * sum_i (s_i - R n_i)^2 / (sum_i n_i)^2, with s_i prompt i's sum and R the estimate.

    Args:
        terms: per prompt [n_i].

    Raises:
        ValueError: there are no tokens.
    """
    sizes = torch.tensor([float(each.numel()) for each in terms], dtype=torch.float64)
    if not sizes.sum() > 0:
        raise ValueError("no tokens, so no divergence per token.")
    sums = torch.stack([each.double().sum() for each in terms])
    value = sums.sum() / sizes.sum()
    return Estimate(float(value), _error((sums - value * sizes) / sizes.mean()))


def prompt_averaged(terms: Sequence[Tensor]) -> Estimate:
    """Mean over prompts of each one's mean term, so that all prompts count alike (2605.30148's variant).

    Args:
        terms: per prompt [n_i].

    Raises:
        ValueError: a prompt has no tokens, or there are no prompts.
    """
    if not terms or any(each.numel() == 0 for each in terms):
        raise ValueError("a prompt without tokens has no divergence per token.")
    means = torch.stack([each.double().mean() for each in terms])
    return Estimate(float(means.mean()), _error(means - means.mean()))


def _error(residuals: Tensor) -> float | None:
    """Standard error of a mean: sqrt(sum_i residual_i^2 / (m (m - 1)))."""
    m = residuals.numel()
    return sqrt(float(residuals.square().sum()) / (m * (m - 1))) if m > 1 else None
