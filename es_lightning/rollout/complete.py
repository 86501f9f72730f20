"""Completions of prompts: generated text, or the most likely of a prompt's choices."""

from __future__ import annotations

from collections.abc import Sequence

from es_lightning.records import Completion, Prompt
from es_lightning.rollout.engine import RolloutEngine, Sampling, require_finite


def complete(engine: RolloutEngine, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
    """Generate for open prompts, and compare log-likelihoods for prompts with choices.

    Args:
        engine: a started engine with weights loaded.
        prompts: P encoded prompts.
        sampling: how to decode; for prompts with choices only its ``n`` counts.

    Returns:
        P * n completions in the order of the prompts, with the n samples of one prompt side by side. For a
        prompt with choices all n are the same.

    Raises:
        DivergenceError: the weights give log-probabilities that are not finite.
    """
    open_ones = [prompt for prompt in prompts if not prompt.choices]
    generated = iter(engine.generate(open_ones, sampling) if open_ones else [])
    chosen = iter(_choose(engine, [prompt for prompt in prompts if prompt.choices]))
    completions: list[Completion] = []
    for prompt in prompts:
        if prompt.choices:
            completions += [next(chosen)] * sampling.n
        else:
            completions += [next(generated) for _ in range(sampling.n)]
    return completions


def _choose(engine: RolloutEngine, prompts: Sequence[Prompt]) -> list[Completion]:
    """Return the most likely choice of every prompt, by the sum of its tokens' log-probabilities."""
    choices = [choice for prompt in prompts for choice in prompt.choices]
    logprobs = engine.logprobs([choice.token_ids for choice in choices]) if choices else []
    require_finite(logprobs)
    sums = iter(
        float(tokens[-choice.scored :].double().sum())
        for tokens, choice in zip(logprobs, choices, strict=True)
    )
    return [_likeliest(prompt, [next(sums) for _ in prompt.choices]) for prompt in prompts]


def _likeliest(prompt: Prompt, sums: Sequence[float]) -> Completion:
    choice = prompt.choices[max(range(len(sums)), key=lambda i: sums[i])]
    return Completion(choice.text, choice.token_ids[-choice.scored :], "choice", tuple(sums))
