"""Completions that one model has sampled, and their log-probabilities under that model and another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from es_lightning.analysis.divergence import log_ratios
from es_lightning.evaluation.evaluator import Evaluator
from es_lightning.records import Prompt

Samples = list[dict[str, Any]]
"""Per prompt all ``token_ids``, how many of them are ``given``, and ``logprobs`` of the completion."""


def drawn_samples(evaluator: Evaluator, prompts: Sequence[Prompt], max_tokens: int, seed: int) -> Samples:
    """Sample at temperature 1 from the engine's weights, with log-probabilities under the same weights.

    Args:
        evaluator: whose engine holds the model; all ranks have to call this.
        prompts: P encoded prompts, with room for one token more than ``max_tokens``.
        max_tokens: most new tokens of a completion.
        seed: of the sampler.
    """
    evaluation = evaluator.sample(prompts, max_tokens, 1.0, seed)
    pairs = zip(evaluation.prompts, evaluation.completions, strict=True)
    samples = [
        {"given": len(prompt.token_ids), "token_ids": [*prompt.token_ids, *completion.token_ids]}
        for prompt, completion in pairs
    ]
    rows = logprobs_of(evaluator, samples)
    return [{**one, "logprobs": row.tolist()} for one, row in zip(samples, rows, strict=True)]


def log_ratios_of(evaluator: Evaluator, samples: Samples) -> list[Tensor]:
    """Compute log p - log q per token: p is the model that sampled, q the one that the engine holds.

    Returns:
        Per completion float64 [n_i], in nats.
    """
    sampled = [torch.tensor(one["logprobs"]) for one in samples]
    return log_ratios(sampled, logprobs_of(evaluator, samples))


def logprobs_of(evaluator: Evaluator, samples: Samples) -> list[Tensor]:
    """Compute the log-probabilities of the completions' tokens, without those of the prompts.

    Returns:
        Per completion float32 [n_i], in nats; empty for one without tokens.
    """
    said = [one for one in samples if len(one["token_ids"]) > one["given"]]
    rows = iter(evaluator.logprobs(sequences(said)) if said else [])
    # Entry i of a row is that of token i + 1, since the first token has none.
    return [
        next(rows)[one["given"] - 1 :] if len(one["token_ids"]) > one["given"] else torch.empty(0)
        for one in samples
    ]


def sequences(samples: Samples) -> list[list[int]]:
    """Return the token ids of prompts with their completions."""
    return [one["token_ids"] for one in samples]
