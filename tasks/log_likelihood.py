"""The log-likelihood of right answers as the reward: nothing is generated, and every change shows.

MeZO (Malladi et al. 2023, arXiv 2305.17333) minimises the cross-entropy, which is minus this reward.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from es_lightning.errors import UsageError
from es_lightning.records import Choice, Prompt
from es_lightning.task import Reward, Task

_WORST = -100.0  # nats per token; a model that guesses any token has minus the log of its vocabulary, -11


class LogLikelihood(Task):
    """Another task, trained on how likely its right answers are, and evaluated as ever.

    In the train split nothing is generated. Reward per problem: the log-probability of the right answer given
    the prompt, in nats per token of the answer, at most 0; higher is better. The answer follows the prompt,
    its chat template and its prefill, just as a completion does. Where a chat template is applied, the token
    that ends the reply belongs to the answer, so the model learns to stop. Where the model continues a raw
    text, a space parts the two unless there is one, and nothing marks the end.

    ``Task.answer`` of the task says what the right answer is. Where the task compares the likelihoods of
    choices, it is the right choice.

    The val and test splits are the task's own: replies are generated and graded, so that accuracy stays what
    it was. So the rewards of training and of validation are different quantities. Only a failure to grade is
    worth the same in both, -100 or what the task says if that is less, unless the run sets another reward.

    Args:
        task: where problems, right answers and the rewards of replies come from.
        per_token: whether the log-probability is divided by the number of the answer's tokens; otherwise
            long answers count for more.

    Example:
        >>> from es_lightning.tasks import Sums
        >>> LogLikelihood(Sums()).problems("train")[0].choices[0].text
        '26'
    """

    def __init__(self, task: Task, per_token: bool = True) -> None:
        self.task, self.per_token = task, per_token
        self.failure_reward, self.batched = min(task.failure_reward, _WORST), task.batched

    @property
    def name(self) -> str:
        """Name of the task, and what is trained."""
        return f"{self.task.name}_log_likelihood"

    def problems(self, split: str) -> list[Prompt]:
        """Return the task's problems; those of ``train`` have one choice, the right answer.

        Raises:
            UsageError: the task does not know the right answer to a problem, or its reward is a
                log-likelihood already.
        """
        problems = self.task.problems(split)
        single = next((prompt.id for prompt in problems if _is_single(prompt)), None)
        if single is not None:
            raise UsageError(
                f"problem {single} of task {self.task.name} has one choice, whose log-likelihood is its "
                "reward already: set data.objective to reward, or do without LogLikelihood."
            )
        return [self._scored(prompt) for prompt in problems] if split == "train" else problems

    def _scored(self, prompt: Prompt) -> Prompt:
        answer = self.task.answer(prompt)
        if not answer:
            raise UsageError(
                f"task {self.task.name} does not know the right answer to problem {prompt.id}, so it has no "
                "log-likelihood: give the problems references, define the task's method answer, or set "
                "data.objective to reward."
            )
        ends = prompt.chat and not prompt.choices
        return replace(prompt, choices=(Choice(_parted(prompt) + answer, ends=ends),))

    def answer(self, prompt: Prompt) -> str | None:
        """Return the right answer, as the task says it."""
        return prompt.choices[0].text if _is_single(prompt) else self.task.answer(prompt)

    def given_answer(self, prompt: Prompt, completion: str) -> str | None:
        """Return the answer as the task reads it."""
        return self.task.given_answer(_open(prompt), completion)

    def reward(self, prompt: Prompt, completion: str) -> Reward:
        """Return the task's own reward of a reply."""
        return self.task.reward(_open(prompt), completion)

    def rewards(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> Sequence[Reward | Exception]:
        """Return the task's own rewards of a batch of replies."""
        return self.task.rewards([_open(prompt) for prompt in prompts], completions)

    def choice_reward(self, prompt: Prompt, logprobs: Sequence[float]) -> Reward:
        """Return the log-likelihood of the right answer, or what the task makes of a comparison.

        Raises:
            ValueError: the prompt is not encoded, so that nobody knows how many tokens its answer has.
        """
        if not _is_single(prompt):
            return self.task.choice_reward(prompt, logprobs)
        [total], [answer] = logprobs, prompt.choices
        if answer.scored == 0:
            raise ValueError(f"prompt {prompt.id} is not encoded yet.")
        # R = (1/T) * sum_t log p(y_t | x, y_<t), y the right answer of T tokens  (minus the loss of MeZO)
        value = total / answer.scored if self.per_token else total
        by_task = {f"{prompt.group}/reward": value} if self.group_weights() else {}
        return {"reward": value, **by_task}

    def prepare(self) -> None:
        """Prepare the task."""
        self.task.prepare()

    def group_weights(self) -> Mapping[str, float]:
        """Return the weights of a mixture's tasks."""
        return self.task.group_weights()


def _is_single(prompt: Prompt) -> bool:
    return len(prompt.choices) == 1


def _open(prompt: Prompt) -> Prompt:
    """Return a training problem as the task asks it, without the answer."""
    return replace(prompt, choices=()) if _is_single(prompt) else prompt


def _parted(prompt: Prompt) -> str:
    """Return the space between a raw text and the answer; a prefill or a choice has its own."""
    raw = not (prompt.chat or prompt.prefill or prompt.choices)
    return " " if raw and not prompt.text[-1:].isspace() else ""
