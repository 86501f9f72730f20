"""Reward execution: from completions to numbers, with every answer of a task checked."""

import math
from collections.abc import Mapping, Sequence

from es_lightning.errors import RewardError
from es_lightning.generation import Completion, Prompt
from es_lightning.task import Reward, Task


def score(task: Task, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[dict[str, float]]:
    """Reward and components of every completion.

    Args:
        task: what the completions are worth.
        prompts: P prompts.
        completions: P * n completions, the n of one prompt side by side.

    Returns:
        One mapping per completion, with at least the key ``reward``.

    Raises:
        RewardError: a reward is not finite or has no key ``reward``; names task and prompt.
    """
    n = len(completions) // len(prompts)
    return [
        _checked(task, prompts[i // n], task.reward(prompts[i // n], completion.text))
        for i, completion in enumerate(completions)
    ]


def _checked(task: Task, prompt: Prompt, reward: Reward) -> dict[str, float]:
    values = dict(reward) if isinstance(reward, Mapping) else {"reward": reward}
    if "reward" not in values:
        raise RewardError(
            f"task {task.name} returned {values} for prompt {prompt.id}: the key 'reward' is missing."
        )
    for key, value in values.items():
        if not math.isfinite(value):
            raise RewardError(
                f"task {task.name} returned {key} = {value} for prompt {prompt.id}: rewards must be "
                "finite numbers."
            )
    return {key: float(value) for key, value in values.items()}
