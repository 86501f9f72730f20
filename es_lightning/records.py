"""The data of a generation that modules pass on: frozen records, with no behaviour but sums and means.

Notation: N members in the population, P prompts in the batch, S sampled completions per prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor  # graders run in processes that need no torch

LARGEST_REWARD = 1e30
"""Largest size of a reward. Up to here, sums, squares and what is logged in float32 stay finite."""


@dataclass(frozen=True)
class Choice:
    """One of a prompt's possible answers, whose log-likelihood is computed instead of a completion.

    Args:
        text: the text that is scored, given the prompt and ``before``.
        before: text between the prompt and ``text``; it is context and not scored.
        token_ids: prompt, ``before`` and ``text`` encoded together by ``TaskDataModule``; empty until then.
        scored: how many of the last ``token_ids`` belong to ``text``; 0 until they are encoded.
        ends: whether the reply ends with ``text``: the end-of-sequence token is then scored with it.
    """

    text: str
    before: str = ""
    token_ids: tuple[int, ...] = ()
    scored: int = 0
    ends: bool = False


@dataclass(frozen=True)
class Prompt:
    """One problem of a task.

    Args:
        id: unique within its task and the same in every run, for example ``countdown/train/17``.
        text: the user's message, or the raw text to continue where ``chat`` is false.
        reference: what the reward compares a completion with; any value that JSON can hold.
        system: system message; None leaves the chat template's own default.
        prefill: first words of the reply, put after the chat template; completions continue them.
        chat: whether the model's chat template is applied to ``text``.
        choices: answers whose log-likelihoods are computed; if there are any, nothing is generated.
        group: task of a mixture that the problem belongs to; rewards are standardised within a group.
        token_ids: the prompt, encoded once by ``TaskDataModule``; empty until then.
    """

    id: str
    text: str
    reference: Any = None
    system: str | None = None
    prefill: str = ""
    chat: bool = True
    choices: tuple[Choice, ...] = ()
    group: str = ""
    token_ids: tuple[int, ...] = ()

    @property
    def tokens_read(self) -> int:
        """Tokens that a model reads to answer: the prompt's own.

        With choices they are those of all choices, except for the longest answer, which counts as generated.
        """
        if not self.choices:
            return len(self.token_ids)
        return sum(len(choice.token_ids) for choice in self.choices) - max(c.scored for c in self.choices)


@dataclass(frozen=True)
class Completion:
    """What an engine generated for one prompt, or how likely it found the prompt's choices.

    Args:
        text: the new text alone, without the prompt and without special tokens.
        token_ids: the new tokens, with the end-of-sequence token if one was generated.
        finish_reason: ``stop`` (end of sequence or a stop string), ``length`` (``max_tokens`` reached), or
            ``choice`` (text and tokens are those of the most likely choice).
        choice_logprobs: log-probability of each choice's text in nats, summed over its tokens.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str
    choice_logprobs: tuple[float, ...] = ()


@dataclass(frozen=True)
class Member:
    """One perturbed copy of the centre: theta + sign * sigma * eps(seed).

    Args:
        index: position in the population, 0 to N-1.
        seed: 64-bit key of its noise, a hash of (run seed, generation, index).
        sign: +1, or -1 for the mirrored member of an antithetic pair.
    """

    index: int
    seed: int
    sign: int = 1


@dataclass(frozen=True)
class Evaluation:
    """The results of one set of weights on some prompts.

    Args:
        prompts: P prompts.
        completions: P * S completions, with the S samples of one prompt side by side.
        scores: for each completion the numbers that the task's reward returned, ``reward`` among them.
        pass_k: how many of a prompt's samples count as one try, of which the best is rewarded; 1 to S.
    """

    prompts: tuple[Prompt, ...]
    completions: tuple[Completion, ...]
    scores: tuple[Mapping[str, float], ...]
    pass_k: int = 1

    @property
    def rewards(self) -> list[float]:
        """P rewards, each the expected best of ``pass_k`` samples of a prompt; higher is better.

        With ``pass_k`` 1 that is the mean over its samples.
        """
        samples = len(self.completions) // len(self.prompts)
        values = [score["reward"] for score in self.scores]
        return [expected_best(values[i : i + samples], self.pass_k) for i in range(0, len(values), samples)]

    @property
    def reward(self) -> float:
        """Mean reward."""
        return sum(self.rewards) / len(self.prompts)

    @property
    def tokens(self) -> int:
        """Tokens generated."""
        return sum(len(completion.token_ids) for completion in self.completions)


@dataclass(frozen=True)
class Generation:
    """The record of one generation; callbacks get it as ``outputs["generation"]``, on every rank.

    Args:
        index: counts from 0.
        members: the population, N members.
        prompts: the batch, P prompts.
        rewards: float64 [N, P], mean over the S samples of a prompt, or the expected best of
            ``sampling.pass_k`` of them; higher is better.
        weights: float64 [N], the shaped rewards that multiply the noise; zeros if the generation was skipped.
        sigma: noise scale, in units of the weights.
        lr: learning rate of the first parameter group.
        skipped: whether there was no update, since all members earned the same.
        update_norm: Euclidean norm of this generation's step.
        drift: Euclidean norm of (centre - base) after the step.
        scores: means of the numbers that the task's reward returned, and of the completions' lengths.
        tokens: tokens generated by the whole population.
        seconds: wall-clock seconds per phase: perturb (making noise), load (into the engine), generate, kl
            (if there is a penalty), reward (of the slowest rank), gather (waiting for other ranks), update
            and total (of this rank).
        lane_seconds: seconds that each lane spent on its members. A lane is the consecutive ranks that hold
            one copy of the engine's model together. Empty in a generation that a resumed run took from its
            journal.
        evaluations: results of the members that this rank evaluated, by member index; empty in a generation
            that a resumed run took from its journal.
        samples: completions of each prompt, S.
    """

    index: int
    members: tuple[Member, ...]
    prompts: tuple[Prompt, ...]
    rewards: Tensor
    weights: Tensor
    sigma: float
    lr: float
    skipped: bool
    update_norm: float
    drift: float
    scores: Mapping[str, float]
    tokens: int
    seconds: Mapping[str, float]
    lane_seconds: tuple[float, ...]
    evaluations: Mapping[int, Evaluation]
    samples: int = 1


@dataclass(frozen=True)
class Costs:
    """What a training has used, or a part of it; evaluations of the centre or policy are not in it.

    Args:
        rollouts: completions that were graded.
        tokens: tokens that were generated.
        seconds: wall-clock seconds.
        flops: floating-point operations by the formulas of ``es_lightning.analysis.flops``.
    """

    rollouts: int = 0
    tokens: int = 0
    seconds: float = 0.0
    flops: float = 0.0

    def __add__(self, more: Costs) -> Costs:
        """Return the sum of both."""
        return Costs(
            self.rollouts + more.rollouts,
            self.tokens + more.tokens,
            self.seconds + more.seconds,
            self.flops + more.flops,
        )

    def metrics(self) -> dict[str, float]:
        """Return the numbers by the names that they are logged under."""
        return {f"cost/{name}": float(value) for name, value in vars(self).items()}


def expected_best(rewards: Sequence[float], k: int) -> float:
    """Return the mean of the best reward over all choices of k of the samples: pass@k, for any rewards.

    With r_(1) <= ... <= r_(n), sample i is the best of comb(i - 1, k - 1) of the comb(n, k) choices. For
    rewards of 0 and 1, of which c are 1, the sum is 1 - comb(n - c, k) / comb(n, k) (Chen et al. 2021,
    arXiv 2107.03374). It is computed in whole numbers and rounded once.

    Args:
        rewards: rewards of n samples of one prompt.
        k: number of samples of a choice, 1 to n.

    Example::

        expected_best([0.0, 0.0, 1.0], 2)  # 2/3: two of the three pairs hold the 1
    """
    if k == 1:
        return sum(rewards) / len(rewards)
    fractions = [value.as_integer_ratio() for value in sorted(rewards)]
    scale = max(bottom for _, bottom in fractions)  # all are powers of two, so each divides the largest
    total = sum(comb(i, k - 1) * top * (scale // bottom) for i, (top, bottom) in enumerate(fractions))
    return total / (scale * comb(len(rewards), k))
