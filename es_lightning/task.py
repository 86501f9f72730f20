"""What a task is: problems by split, and a reward for one completion."""

from abc import ABC, abstractmethod

from es_lightning.generation import Prompt

Reward = float | dict[str, float]


class Task(ABC):
    """Base of all tasks. A subclass says which problems there are and what a completion is worth.

    Tasks know nothing of models, engines or Lightning, so one can be tried in a Python prompt.
    """

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
