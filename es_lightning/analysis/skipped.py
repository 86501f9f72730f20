"""Why a generation is skipped: all members earned the same, so no direction is better than another."""

from __future__ import annotations

from es_lightning.records import Generation


def why_skipped(record: Generation, max_tokens: int) -> str:
    """Say that a generation was skipped, for which likely cause, and what to do.

    Args:
        record: the generation's record.
        max_tokens: most new tokens of a completion.
    """
    rewards = record.rewards
    earned = f"all {len(record.members)} members earned the same, {float(rewards.mean()):.4g} on average"
    return (
        f"Generation {record.index} is skipped, the centre stays as it is: {earned}. "
        f"{_cause(record, max_tokens)} Further skipped generations are only counted."
    )


def _cause(record: Generation, max_tokens: int) -> str:
    said = [tuple(c.text for c in each.completions) for each in record.evaluations.values()]
    if len(said) > 1 and len(set(said)) == 1:
        return (
            "All of them say the same, word for word: the noise is too small to be seen. Raise model.sigma "
            f"({record.sigma:g} now), for example to {2 * record.sigma:g}; SigmaFinder suggests one."
        )
    if record.scores.get("completion_truncated", 0.0) > 0.99:
        return (
            f"Every completion is cut off at {max_tokens} tokens, perhaps before the answer: raise "
            "model.sampling.max_tokens, or ask for shorter answers."
        )
    if float(record.rewards.min()) == float(record.rewards.max()):
        return (
            "They say different things, and each completion earns exactly that: the task is too hard for the "
            "base model or solved already, or the reward is a constant. Look at some completions, take "
            "easier problems, or give the reward more steps."
        )
    return (
        "They earn differently on different prompts, but not from one another: raise model.sigma "
        f"({record.sigma:g} now), take more prompts per generation, or give the reward more steps."
    )
