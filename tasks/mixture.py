"""Several tasks in one run."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain, count

from es_lightning.errors import UsageError
from es_lightning.records import Prompt
from es_lightning.task import Reward, Task


class Mixture(Task):
    """Problems of several tasks; each task counts by its weight, whatever the scale of its rewards.

    If ``prompts_per_generation`` is given, each generation's prompts are divided among the tasks by the
    weights. The members' weights are computed from each task's rewards, standardised over the population (see
    ``es_lightning.algorithm.shaping.comparable``). The rewards that are logged are the tasks' own. Their mean
    mixes scales; so each task's numbers are logged too: ``<task>/reward``, ``<task>/accuracy`` and so on. A
    task without training problems takes part in validation and test only.

    Reward per completion: that of the task the problem comes from; higher is better.

    Args:
        tasks: two or more tasks; several may be of the same kind.
        weights: how much each task counts, above 0; None lets all count alike.

    Raises:
        UsageError: there are fewer than two tasks, one is itself a mixture, or the weights do not fit.
    """

    def __init__(self, tasks: Sequence[Task], weights: Sequence[float] | None = None) -> None:
        if len(tasks) < 2:
            raise UsageError(f"a mixture of {len(tasks)} tasks: give two or more.")
        if any(task.group_weights() for task in tasks):
            raise UsageError("a mixture within a mixture: list the inner one's tasks in the outer one.")
        weights = [1.0] * len(tasks) if weights is None else weights
        if len(weights) != len(tasks) or not all(0 < weight < float("inf") for weight in weights):
            raise UsageError(f"weights are {list(weights)}: give {len(tasks)} numbers above 0, one per task.")
        self.tasks = dict(zip(_names(tasks), tasks, strict=True))
        self.weights = dict(zip(self.tasks, map(float, weights), strict=True))
        self.failure_reward = min(task.failure_reward for task in tasks)
        self.batched = any(task.batched for task in tasks)

    def problems(self, split: str) -> list[Prompt]:
        """Return the problems of all tasks, one task after the other."""
        return [
            replace(prompt, id=f"{name}/{prompt.id}", group=name)
            for name, task in self.tasks.items()
            for prompt in task.problems(split)
        ]

    def reward(self, prompt: Prompt, completion: str) -> dict[str, float]:
        """Return the reward by the prompt's own task, and its numbers under the task's name."""
        return _named(prompt.group, self.tasks[prompt.group].reward(prompt, completion))

    def rewards(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[Reward | Exception]:
        """Grade a batch, with one call per task; a task that raises fails its own completions alone."""
        reward_at: dict[int, Reward | Exception] = {}
        for name, task in self.tasks.items():
            here = [i for i, prompt in enumerate(prompts) if prompt.group == name]
            rewards = _rewards(task, [prompts[i] for i in here], [completions[i] for i in here])
            reward_at |= {
                i: reward if isinstance(reward, Exception) else _named(name, reward)
                for i, reward in zip(here, rewards, strict=True)
            }
        return [reward_at[i] for i in range(len(prompts))]

    def answer(self, prompt: Prompt) -> str | None:
        """Return the right answer as the prompt's own task says it."""
        return self.tasks[prompt.group].answer(prompt)

    def given_answer(self, prompt: Prompt, completion: str) -> str | None:
        """Return the answer as the prompt's own task reads it."""
        return self.tasks[prompt.group].given_answer(prompt, completion)

    def choice_reward(self, prompt: Prompt, logprobs: Sequence[float]) -> dict[str, float]:
        """Return the same numbers for a prompt with choices."""
        return _named(prompt.group, self.tasks[prompt.group].choice_reward(prompt, logprobs))

    def prepare(self) -> None:
        """Prepare every task."""
        for task in self.tasks.values():
            task.prepare()

    def group_weights(self) -> Mapping[str, float]:
        """Return the weights by task."""
        return self.weights


def _names(tasks: Sequence[Task]) -> list[str]:
    """Name each task, with a number where tasks share a name."""
    names: list[str] = []
    for task in tasks:
        numbered = chain([task.name], (f"{task.name}-{number}" for number in count(2)))
        names.append(next(name for name in numbered if name not in names))
    return names


def _rewards(
    task: Task, prompts: Sequence[Prompt], completions: Sequence[str]
) -> Sequence[Reward | Exception]:
    try:
        rewards = task.rewards(prompts, completions)
        if len(rewards) != len(prompts):
            raise ValueError(f"{len(rewards)} rewards for {len(prompts)} completions: give one for each.")
        return rewards
    except Exception as error:
        return [error] * len(prompts)


def _named(name: str, reward: Reward) -> dict[str, float]:
    numbers = reward if isinstance(reward, Mapping) else {"reward": reward}
    top = {key: value for key, value in numbers.items() if key in {"reward", "accuracy"}}
    return {**top, **{f"{name}/{key}": value for key, value in numbers.items()}}
