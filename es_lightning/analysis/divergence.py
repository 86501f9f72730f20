"""Estimators of the Kullback-Leibler divergence of two language models, from log-probabilities of samples.

Notation: m prompts with one completion each. The completion of prompt i has n_i tokens, each of which gives
one term. A term's mean over samples of p is the divergence of the two next-token distributions. All values
are in nats per token.
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
        error: its standard error over prompts; None if there is only one prompt.
    """

    value: float
    error: float | None


def log_ratios(sampled: Sequence[Tensor], other: Sequence[Tensor]) -> list[Tensor]:
    """Compute log p(x) - log q(x) for samples x of p: the plain terms of KL(p||q), which may be negative.

    In 2605.30148 p is the base model and q the tuned one: KL(base||tuned). In 2604.01499 it is the other way
    round, KL(tuned||base), and the samples are the tuned model's.

    Args:
        sampled: per prompt the log-probabilities [n_i] under p of the tokens, which were drawn from p.
        other: log-probabilities of the same tokens under q.

    Returns:
        Per prompt float64 [n_i].
    """
    return [p.double() - q.double() for p, q in zip(sampled, other, strict=True)]


def k3(ratios: Sequence[Tensor]) -> list[Tensor]:
    """Compute r - log r - 1 with r = q(x) / p(x): the same mean, never negative (2509.24372, conciseness).

    The estimator is unbiased since E_p[r] = 1: softmax gives every token a probability above 0. Its variance
    is smaller than that of the plain terms while p and q are close, and larger when they are not.

    Args:
        ratios: the terms that ``log_ratios`` returned.
    """
    return [(torch.expm1(-each) + each).clamp(min=0.0) for each in ratios]  # log r = -each


def token_weighted(terms: Sequence[Tensor]) -> Estimate:
    """Divide the sum of all terms by the number of all tokens: long completions count more (2605.30148).

    This is a ratio of two sums over prompts. Terms within a prompt depend on one another, so the standard
    error takes a prompt as the unit (Cochran, Sampling Techniques, 1977, section 6.4):
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
    """Average each prompt's mean term over the prompts: all prompts count alike (2605.30148's variant).

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
    """Compute the standard error of a mean: sqrt(sum_i residual_i^2 / (m (m - 1)))."""
    m = residuals.numel()
    return sqrt(float(residuals.square().sum()) / (m * (m - 1))) if m > 1 else None
