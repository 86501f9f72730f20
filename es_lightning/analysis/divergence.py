"""Estimators of the Kullback-Leibler divergence of two language models, from log-probabilities of samples.

Notation: m prompts with one completion each. The completion of prompt i has n_i tokens, each of which gives
one term. A term's mean over samples of p is the divergence of the two next-token distributions. By the chain
rule, the mean over completions of the sum of their terms is the divergence of the completions' distributions.

The mean over prompts of s_i / n_i, with s_i the sum of the terms, is not among these: n_i depends on the
sample, so it is no divergence. It gives -0.10 nats where the tuned model stops sooner and the divergence is
+0.07 nats per token, for any number of prompts.
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
        value: nats per token, or per completion.
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


def per_completion(terms: Sequence[Tensor]) -> Estimate:
    """Average over the prompts the sum of a completion's terms: the divergence of whole completions.

    Args:
        terms: per prompt [n_i]; empty for a completion without tokens.

    Raises:
        ValueError: there are no prompts.
    """
    if not terms:
        raise ValueError("no completions, so no divergence per completion.")
    sums = torch.stack([each.double().sum() for each in terms])
    return Estimate(float(sums.mean()), _error(sums - sums.mean()))


def whole_vocabulary(sampled: Tensor, other: Tensor) -> Tensor:
    """Compute sum_v p(v) (log p(v) - log q(v)) at each position: KL(p||q) of two next-token distributions.

    It is exact, and never negative but for rounding. Its mean over positions of completions that were drawn
    from p is that of the plain terms, with less variance: the expectation is taken over the next token (Rao
    and Blackwell).

    Args:
        sampled: log-probabilities [K, V] of the whole vocabulary under p, the model of the completions.
        other: the same under q.

    Returns:
        float64 [K], in nats.
    """
    log_p, log_q = sampled.double(), other.double()
    terms = log_p.exp() * (log_p - log_q)
    return terms.where(log_p > -torch.inf, 0.0).sum(-1)  # 0 log 0 = 0


def named(metric: str, terms: Sequence[Tensor]) -> dict[str, float]:
    """Estimate a divergence per token and per completion; empty if no completion has a token.

    Args:
        metric: name of the divergence per token; ``_completion`` and ``_se`` follow it for the others.
        terms: per prompt [n_i].
    """
    if not any(each.numel() for each in terms):
        return {}
    completion = per_completion(terms)
    return told(metric, token_weighted(terms)) | told(f"{metric}_completion", completion)


def told(metric: str, found: Estimate) -> dict[str, float]:
    """Name an estimate, and its standard error if there is one."""
    return {metric: found.value} | ({} if found.error is None else {f"{metric}_se": found.error})


def _error(residuals: Tensor) -> float | None:
    """Compute the standard error of a mean: sqrt(sum_i residual_i^2 / (m (m - 1)))."""
    m = residuals.numel()
    return sqrt(float(residuals.square().sum()) / (m * (m - 1))) if m > 1 else None
