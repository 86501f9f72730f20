"""What a task is: problems by split, and a reward for one completion."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from es_lightning.records import Prompt

Reward = float | dict[str, float]


class Task(ABC):
    """Base of all tasks. A subclass says which problems there are and what a completion is worth.

    Tasks know nothing of models, engines or Lightning, so one can be tried in a Python prompt. A task is
    pickled once per run, into the processes that grade: it keeps no open files and no lambdas.
    """

    failure_reward = 0.0
    """What a completion earns whose grading failed, unless the run says otherwise: no more than the worst."""

    batched = False
    """Whether all completions of a batch are graded in one call of ``rewards``."""

    @property
    def name(self) -> str:
        """Short name for logs and messages; the class name unless overridden."""
        return type(self).__name__

    @abstractmethod
    def problems(self, split: str) -> list[Prompt]:
        """Problems of ``train``, ``val`` or ``test``, in a fixed order; the splits never overlap.

        Raises:
            ValueError: the split is none of the three.
        """

    @abstractmethod
    def reward(self, prompt: Prompt, completion: str) -> Reward:
        """What a completion is worth; higher is better, and the same text always earns the same.

        Args:
            prompt: the problem, ``reference`` included.
            completion: the new text alone, without the prompt and without ``prompt.prefill``.

        Returns:
            The reward, or named numbers with at least the key ``reward``. The key ``accuracy`` (0 or 1),
            where there is one, is reported beside the reward; all other keys are logged as components.
        """

    def choice_reward(self, prompt: Prompt, logprobs: Sequence[float]) -> Reward:
        """What it is worth to find the choices of a prompt that likely; for prompts with ``choices`` alone.

        Args:
            prompt: the problem, ``reference`` included.
            logprobs: log-probability of each choice's text in nats, in the order of ``prompt.choices``.
        """
        raise NotImplementedError(f"task {self.name} has prompts with choices, but no choice_reward.")

    def rewards(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> Sequence[Reward | Exception]:
        """The rewards of a batch, called where ``batched`` is true; an exception fails its completion alone.

        Args:
            prompts: one per completion.
            completions: the new texts.
        """
        return [self._attempt(*pair) for pair in zip(prompts, completions, strict=True)]

    def _attempt(self, prompt: Prompt, completion: str) -> Reward | Exception:
        try:
            return self.reward(prompt, completion)
        except Exception as error:
            return error

    def prepare(self) -> None:  # noqa: B027  (most tasks have nothing to prepare)
        """Load what grading needs; called once in the process that the graders are forked from."""

    def group_weights(self) -> Mapping[str, float]:
        """How much each group of prompts counts; empty where there are no groups."""
        return {}
