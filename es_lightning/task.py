"""What a task is: problems by split, and a reward for one completion."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from es_lightning.records import Prompt

Reward = float | dict[str, float]


class Task(ABC):
    """Base class of all tasks. A subclass defines the problems and the reward of a completion.

    Tasks know nothing of models, engines or Lightning, so a task can be tried in a Python shell. It is
    pickled once per run and sent to the processes that grade, so it must not hold open files or lambdas.
    """

    failure_reward = 0.0
    """Reward of a completion whose grading failed, unless the run sets another: at most the worst reward."""

    largest_reward: float | None = None
    """The most that a completion of any problem earns, where that is certain; None if it is not known."""

    batched = False
    """Whether all completions of a batch are graded in one call of ``rewards``."""

    @property
    def name(self) -> str:
        """Short name for logs and messages; the class name unless overridden."""
        return type(self).__name__

    @abstractmethod
    def problems(self, split: str) -> list[Prompt]:
        """Return the problems of ``train``, ``val`` or ``test`` in a fixed order; splits never overlap.

        Raises:
            ValueError: the split is none of the three.
        """

    @abstractmethod
    def reward(self, prompt: Prompt, completion: str) -> Reward:
        """Return what a completion is worth; higher is better, and the same text always earns the same.

        Args:
            prompt: the problem, ``reference`` included.
            completion: the new text alone, without the prompt and without ``prompt.prefill``.

        Returns:
            The reward, or named numbers with at least the key ``reward``. The optional key ``accuracy``
            (0 or 1) is reported beside the reward; all other keys are logged as components.
        """

    def answer(self, prompt: Prompt) -> str | None:
        """Return the text of a right answer: what a perfect reply says after the prompt and its prefill.

        Training on the log-likelihood of right answers asks for it. A task whose references are texts or
        numbers, and earn the most as they are, needs no method of its own.

        Args:
            prompt: a problem that ``problems`` has returned in this process.

        Returns:
            The text; None if the task knows none.
        """
        known = prompt.reference
        return str(known) if isinstance(known, str | int | float) and not isinstance(known, bool) else None

    def given_answer(self, prompt: Prompt, completion: str) -> str | None:
        """Return the answer that a completion gives, as a text that is the same for the same answer.

        Votes count it (``es-lightning vote``): completions that differ in their reasoning alone give one
        answer. It looks at the completion and the problem, never at the right answer. A task whose
        completions hold more than an answer defines it.

        Args:
            prompt: the problem.
            completion: the new text alone.

        Returns:
            The answer; None if the completion gives none. By default the completion without the white space
            around it, None if nothing is left.
        """
        return completion.strip() or None

    def choice_reward(self, prompt: Prompt, logprobs: Sequence[float]) -> Reward:
        """Return the reward for the likelihoods of a prompt's choices; only for prompts with ``choices``.

        Args:
            prompt: the problem, ``reference`` included.
            logprobs: log-probability of each choice's text in nats, in the order of ``prompt.choices``.
        """
        raise NotImplementedError(f"task {self.name} has prompts with choices, but no choice_reward.")

    def rewards(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> Sequence[Reward | Exception]:
        """Return the rewards of a batch; called if ``batched`` is true.

        An exception in place of a reward makes the grading of its completion fail, and of no other.

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
        """Load what grading needs; called once, in the process from which the graders are forked."""

    def group_weights(self) -> Mapping[str, float]:
        """Return how much each group of prompts counts; empty if there are no groups."""
        return {}
