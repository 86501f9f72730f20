"""Prior tasks, on which models are compared: their problems, chosen once, and their graders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from es_lightning.evaluation.evaluator import Evaluator
from es_lightning.evaluation.problems import prior_problems
from es_lightning.evaluation.rollouts import Rollouts
from es_lightning.grading.scorer import Grading, Scorer
from es_lightning.journal.identity import described, digest
from es_lightning.models import BaseModel
from es_lightning.records import Evaluation, Prompt
from es_lightning.task import Task


class PriorTasks:
    """Evaluates the weights that an engine holds on prior tasks, on the same problems each time.

    A problem is encoded once, so every model gets the same items with their options in the same order.

    Args:
        owner: what has the tasks, for messages.
        tasks: by the names that they get in metrics.
        split: where the problems come from; a task without ``test`` problems uses ``val``.
        sample: number of problems of each task; None takes all.
        seed: of their choice; None takes the first ones.
        max_tokens: most new tokens of a completion; None takes the limit of the sampling.
        grading: how completions are graded, in separate processes for each task; None takes the defaults.

    Raises:
        UsageError: a task has no problems.
    """

    def __init__(
        self,
        owner: str,
        tasks: Mapping[str, Task],
        split: str,
        sample: int | None,
        seed: int | None,
        max_tokens: int | None,
        grading: Grading | None,
    ) -> None:
        self.tasks, self.max_tokens = dict(tasks), max_tokens
        self.scorers = {name: Scorer(task, grading) for name, task in tasks.items()}
        self.splits: dict[str, str] = {}
        self.prompts: dict[str, list[Prompt]] = {}
        for name, task in tasks.items():
            self.splits[name], self.prompts[name] = prior_problems(owner, name, task, split, sample, seed)

    def reserve(self, rollouts: Rollouts, base: BaseModel) -> None:
        """Encode the problems, and make the engine keep room for them.

        Raises:
            UsageError: a problem with its completion is longer than the model can take.
        """
        for name, problems in self.prompts.items():
            self.prompts[name] = rollouts.reserve(base, problems, self.max_tokens)

    def settings(self) -> dict[str, Any]:
        """Return what decides the results, in plain JSON, by task."""
        return {
            name: {
                **described("task", task, task.name),
                "prompts": digest(self.prompts[name]),
                "max_tokens": self.max_tokens,
            }
            for name, task in self.tasks.items()
        }

    def start(self) -> None:
        """Start the graders."""
        for scorer in self.scorers.values():
            scorer.start()

    def evaluate(self, name: str, evaluator: Evaluator) -> Evaluation:
        """Evaluate the weights that the engine holds on one of the tasks; all ranks have to call this."""
        return evaluator.evaluate(self.prompts[name], self.scorers[name], self.max_tokens)

    def close(self) -> None:
        """End the graders."""
        for scorer in self.scorers.values():
            scorer.close()
