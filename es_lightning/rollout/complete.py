"""Completions of prompts: generated text, or the most likely of a prompt's choices."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from es_lightning.records import Completion, Prompt
from es_lightning.rollout.adapters import AdapterEngine, require_finite_each
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
    open_ones, choices = _parts(prompts)
    generated = engine.generate(open_ones, sampling) if open_ones else []
    logprobs = engine.choice_logprobs(choices) if choices else []
    require_finite(logprobs)
    return _completions(prompts, generated, logprobs, sampling.n)


def complete_each(
    engine: AdapterEngine, prompts: Sequence[Prompt], sampling: Sampling
) -> list[list[Completion]]:
    """Do the same with every adapter that the engine holds, all in one batch.

    Returns:
        Per adapter what ``complete`` returns.

    Raises:
        AdapterDivergence: an adapter gives log-probabilities that are not finite.
    """
    open_ones, choices = _parts(prompts)
    generated = engine.generate_each(open_ones, sampling) if open_ones else []
    logprobs = engine.logprobs_each(choices) if choices else []
    require_finite_each(logprobs)
    count = max(len(generated), len(logprobs))
    return [
        _completions(prompts, texts, rows, sampling.n)
        for texts, rows in zip(generated or [[]] * count, logprobs or [[]] * count, strict=True)
    ]


def _parts(prompts: Sequence[Prompt]) -> tuple[list[Prompt], list[tuple[int, ...]]]:
    """Return the prompts to be answered by generating, and the tokens of the others' choices."""
    choices = [choice.token_ids for prompt in prompts for choice in prompt.choices]
    return [prompt for prompt in prompts if not prompt.choices], choices


def _completions(
    prompts: Sequence[Prompt], generated: Sequence[Completion], logprobs: Sequence[Tensor], n: int
) -> list[Completion]:
    """Put what was generated and what is likeliest in the order of the prompts."""
    texts, rows = iter(generated), iter(logprobs)
    completions: list[Completion] = []
    for prompt in prompts:
        if prompt.choices:
            completions += [_likeliest(prompt, [next(rows) for _ in prompt.choices])] * n
        else:
            completions += [next(texts) for _ in range(n)]
    return completions


def _likeliest(prompt: Prompt, logprobs: Sequence[Tensor]) -> Completion:
    """Return the most likely choice of a prompt, by the sum of its tokens' log-probabilities."""
    sums = [
        float(tokens[-choice.scored :].double().sum())
        for tokens, choice in zip(logprobs, prompt.choices, strict=True)
    ]
    choice = prompt.choices[max(range(len(sums)), key=lambda i: sums[i])]
    return Completion(choice.text, choice.token_ids[-choice.scored :], "choice", tuple(sums))
