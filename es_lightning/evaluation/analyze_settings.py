"""The section ``analyze`` of a config."""

from __future__ import annotations

from typing import Literal

from es_lightning.analysis.geometry import check_geometry
from es_lightning.errors import UsageError
from es_lightning.evaluation.prior_tasks import PriorTasks
from es_lightning.evaluation.problems import check_names, check_prior
from es_lightning.grading.scorer import Grading
from es_lightning.task import Task


class AnalyzeSettings:
    """What ``es-lightning analyze`` measures beside the rewards on the config's own task.

    The first six are those of ``Forgetting``, so that both measure prior tasks alike.

    Args:
        tasks: prior tasks, by the names that they get in metrics; None leaves forgetting out.
        sample: number of problems used of each; None takes all.
        seed: of the choice of problems; None takes the first ones.
        split: where they come from; a task without ``test`` problems uses ``val``.
        max_tokens: most new tokens of a completion on a prior task; None takes the config's limit.
        grading: how these completions are graded; None takes the defaults.
        kl_prompts: number of problems of the config's task for the divergence.
        kl_max_tokens: most new tokens of a completion for it; None takes the config's limit.
        kl_seed: of the choice of these problems, and of the sampler.
        thresholds: sparsity is the share of entries that changed by no more than these.
        top: how many tensors to list, by relative norm and by largest single change.

    Raises:
        UsageError: a value is outside its range.
    """

    def __init__(
        self,
        tasks: dict[str, Task] | None = None,
        sample: int | None = 200,
        seed: int | None = 0,
        split: Literal["test", "val"] = "test",
        max_tokens: int | None = None,
        grading: Grading | None = None,
        kl_prompts: int = 50,
        kl_max_tokens: int | None = None,
        kl_seed: int = 0,
        thresholds: tuple[float, ...] = (1e-6, 1e-4),
        top: int = 20,
    ) -> None:
        self.tasks = dict(tasks or {})
        check_names("analyze", self.tasks, ("", "_accuracy"), reserved=["mean", "accuracy"])
        check_prior("analyze", sample, max_tokens, split)
        check_geometry("analyze", thresholds, top)
        if kl_prompts < 1 or (kl_max_tokens is not None and kl_max_tokens < 1):
            raise UsageError(
                f"analyze.kl_prompts is {kl_prompts} and kl_max_tokens {kl_max_tokens}: give at least 1."
            )
        self.sample, self.seed, self.split, self.max_tokens = sample, seed, split, max_tokens
        self.grading, self.top = grading, top
        self.kl_prompts, self.kl_max_tokens, self.kl_seed = kl_prompts, kl_max_tokens, kl_seed
        self.thresholds = tuple(float(threshold) for threshold in thresholds)

    def prior_tasks(self) -> PriorTasks:
        """Choose the problems of the prior tasks.

        Raises:
            UsageError: one has no problems.
        """
        how = (self.split, self.sample, self.seed, self.max_tokens, self.grading)
        return PriorTasks("analyze", self.tasks, *how)
