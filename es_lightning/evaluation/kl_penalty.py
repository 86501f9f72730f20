"""A price on leaving the base model: how far a completion's distributions are from the base model's own."""

from __future__ import annotations

import hashlib
import logging
import struct
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import fsum

import torch
from torch import Tensor, nn

from es_lightning.analysis.divergence import k3, log_ratios
from es_lightning.errors import DivergenceError, RewardError, RolloutError, UsageError
from es_lightning.evaluation.rollouts import Rollouts
from es_lightning.grading.grade import FAILED
from es_lightning.models import BaseModel
from es_lightning.records import Completion, Prompt
from es_lightning.rollout.engine import require_finite
from es_lightning.system.signals import interruptible

log = logging.getLogger(__name__)

KL, TASK_REWARD = "kl", "task_reward"
LARGEST_WEIGHT = 1e6  # with ``LARGEST_RATIO``, rewards stay far below the largest that is allowed
LARGEST_RATIO = 20.0  # nats
REMEMBERED = 2**26  # bytes
OVERHEAD = 200  # bytes that Python takes to remember one completion, about

Pair = tuple[tuple[int, ...], tuple[int, ...]]
"""Token ids of a prompt, and of its completion."""


@dataclass(frozen=True)
class KLPenalty:
    """Takes from a completion's reward for its divergence from the base model: task reward - weight * kl.

    ``kl`` is Schulman's estimator k3 (2020, "Approximating KL divergence"), summed over the completion's
    tokens, in nats per completion: kl = sum_t (r_t - 1 - log r_t), r_t = p_base(t) / p_member(t). It is never
    negative, and 0 where both models agree. With temperature 1 and top_p 1 its mean over completions is
    KL(member || base). A mean over a completion's tokens would be no divergence, since the sample decides
    over how many tokens it is taken. Greedy or otherwise narrowed decoding draws no samples of the member's
    distribution: then ``kl`` estimates no divergence, but is a penalty all the same.

    Both probabilities are the engine's own, at temperature 1. Training rewards alone pay: the centre's
    rewards in validation and test stay the task's own.

    Args:
        weight: reward that one nat costs, 0 to 1e6; 0 measures ``kl`` and takes nothing.

    Raises:
        UsageError: the weight is outside its range.
    """

    weight: float

    def __post_init__(self) -> None:
        """Refuse a weight outside its range."""
        if not 0 <= self.weight <= LARGEST_WEIGHT:  # NaN is not, either
            raise UsageError(
                f"model.kl_penalty.weight is {self.weight:g}: give the reward that a nat costs, from 0 "
                f"(measured, and nothing taken) to {LARGEST_WEIGHT:g}."
            )


@dataclass(frozen=True)
class Scored:
    """Completions, and how likely the weights that have generated them find them.

    Args:
        pairs: token ids of prompt and completion.
        logprobs: per completion float32 [tokens], in nats.
    """

    pairs: Sequence[Pair]
    logprobs: Sequence[Tensor]


class KLMeter:
    """Measures the divergence of completions from the base model, with an engine's own log-probabilities.

    It remembers what the base model said of a completion, so that each pair of prompt and completion is
    scored once, as long as it is among the latest of about 64 MiB.

    Args:
        penalty: what a nat costs.
        base: the base model.
    """

    def __init__(self, penalty: KLPenalty, base: BaseModel) -> None:
        self.penalty, self.base = penalty, base
        self._memory = _Memory(REMEMBERED)

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Refuse prompts for which nothing is sampled.

        Args:
            prompts: the training prompts.

        Raises:
            UsageError: a prompt has choices.
        """
        if chosen := next((prompt for prompt in prompts if prompt.choices), None):
            raise UsageError(
                f"model.kl_penalty needs completions, and prompt {chosen.id} has choices, for which nothing "
                "is sampled: leave model.kl_penalty out, or let the task generate (mode: generate)."
            )

    def warn_of_greedy(self, temperature: float) -> None:
        """Say in the log that greedy completions estimate no divergence, if they are greedy."""
        if temperature == 0:
            log.warning(
                "model.kl_penalty is measured on greedy completions (temperature 0), which are no samples of "
                "a member's distribution: kl is a penalty then, but estimates no KL divergence. Give "
                "model.sampling.temperature 1 for an estimate."
            )

    def own(self, rollouts: Rollouts, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> Scored:
        """Score completions with the weights that have generated them, which the engine still has to hold.

        Args:
            rollouts: holds the engine.
            prompts: P encoded prompts.
            completions: P * n completions, the n of one prompt side by side.

        Raises:
            DivergenceError: a log-probability is not finite.
        """
        n = len(completions) // len(prompts)
        pairs = [(prompts[i // n].token_ids, each.token_ids) for i, each in enumerate(completions)]
        found = _scored(rollouts, list(dict.fromkeys(pairs)))
        return Scored(pairs, [found[pair] for pair in pairs])

    def measure(
        self, rollouts: Rollouts, centre: nn.Module, members: Mapping[int, Scored]
    ) -> dict[int, list[float]]:
        """Compute the divergences of members' completions; afterwards the engine may hold the base model.

        The base model is loaded once for all members, and not at all if it has seen all of it before.

        Args:
            rollouts: holds the engine.
            centre: gives the names and devices of the tensors.
            members: what ``own`` returned, by member index.

        Returns:
            Per member the nats of its completions, in order; 0 for a completion without tokens.

        Raises:
            RolloutError: the engine failed on the base model.
            DivergenceError: the base model's log-probabilities are not finite.
        """
        asked = dict.fromkeys(pair for member in members.values() for pair in member.pairs)
        known = self._of_base(rollouts, centre, list(asked))
        return {
            index: divergences(member.logprobs, [known[pair] for pair in member.pairs])
            for index, member in members.items()
        }

    def charge(
        self, scores: Sequence[Mapping[str, float]], nats: Sequence[float]
    ) -> tuple[dict[str, float], ...]:
        """Return the scores with the penalty taken from the reward, and its parts beside it.

        A completion whose grading failed keeps the reward of a failure.

        Args:
            scores: per completion the numbers that the task's reward returned.
            nats: the completions' divergences.

        Raises:
            RewardError: the task's own numbers have the name of a part.
        """
        charged = []
        for score, kl in zip(scores, nats, strict=True):
            if taken := score.keys() & {KL, TASK_REWARD}:
                raise RewardError(
                    f"the task returns a number named {min(taken)}, which model.kl_penalty logs under that "
                    "name: give the task's number another one."
                )
            earned = score["reward"]
            failed = any(name.startswith(FAILED) for name in score)
            reward = earned if failed else earned - self.penalty.weight * kl
            charged.append({**score, "reward": reward, TASK_REWARD: earned, KL: kl})
        return tuple(charged)

    def _of_base(self, rollouts: Rollouts, centre: nn.Module, pairs: Sequence[Pair]) -> dict[Pair, Tensor]:
        """Return the base model's log-probabilities of completions, from memory or from the engine."""
        known = {pair: row for pair in pairs if (row := self._memory.get(pair)) is not None}
        # Empty completions need no model.
        if unseen := [pair for pair in pairs if pair not in known and pair[1]]:
            new = self._ask_base(rollouts, centre, unseen)
            for pair, row in new.items():
                self._memory.put(pair, row)
            known |= new
        return {pair: known.get(pair, torch.empty(0)) for pair in pairs}

    def _ask_base(self, rollouts: Rollouts, centre: nn.Module, pairs: Sequence[Pair]) -> dict[Pair, Tensor]:
        def attempt() -> dict[Pair, Tensor]:
            rollouts.hold_base(self.base, centre)
            with interruptible():
                return _scored(rollouts, pairs)

        try:
            return attempt()
        except DivergenceError as error:
            raise DivergenceError(
                f"{error} for the base model, in {rollouts.engine.dtype}: it is broken, or needs another "
                "model.engine.init_args.dtype. The centre is untouched."
            ) from error
        except Exception as error:
            if not rollouts.retry_member:
                raise RolloutError(_failed(error)) from error
            log.warning("The engine failed on the base model, which is tried once more.", exc_info=True)
            rollouts.forget()
            try:
                return attempt()
            except Exception as again:
                raise RolloutError(_failed(again)) from again


class _Memory:
    """Log-probabilities by token ids; the pairs that were not asked for longest are forgotten first."""

    def __init__(self, most: int) -> None:
        self._most, self._bytes = most, 0
        self._rows: OrderedDict[bytes, bytes] = OrderedDict()

    def get(self, pair: Pair) -> Tensor | None:
        key = _digest(pair)
        if (row := self._rows.get(key)) is None:
            return None
        self._rows.move_to_end(key)
        return torch.frombuffer(bytearray(row), dtype=torch.float32)

    def put(self, pair: Pair, row: Tensor) -> None:
        self._rows[_digest(pair)] = packed = row.numpy().tobytes()
        self._bytes += len(packed) + OVERHEAD
        while self._bytes > self._most:
            _, oldest = self._rows.popitem(last=False)
            self._bytes -= len(oldest) + OVERHEAD


def divergences(sampled: Sequence[Tensor], base: Sequence[Tensor]) -> list[float]:
    """Sum k3 over the tokens of each completion: sum_t (r_t - 1 - log r_t), r_t = p_base(t) / p_member(t).

    log r is cut off at 20 nats, so that no token counts for more than 4.9e8. In samples of a member's own
    distribution, that concerns fewer than one token in 4.9e8: with p_member = p_base / r, all tokens of
    larger r together have a probability below 1 / 4.9e8.

    Args:
        sampled: per completion the log-probabilities of its tokens under the member that generated it.
        base: log-probabilities of the same tokens under the base model.

    Returns:
        Nats per completion. The sums are exact, so that no number of threads changes them.
    """
    ratios = [each.clamp(min=-LARGEST_RATIO) for each in log_ratios(sampled, base)]  # -log r
    return [fsum(terms.tolist()) for terms in k3(ratios)]


def _scored(rollouts: Rollouts, pairs: Sequence[Pair]) -> dict[Pair, Tensor]:
    """Ask the engine for the log-probabilities of completions; those without tokens get an empty tensor."""
    asked = [pair for pair in pairs if pair[1]]
    rows = rollouts.engine.logprobs([given + new for given, new in asked]) if asked else []
    # Entry i of a row is that of token i + 1, since the first token has none.
    found = {pair: row[len(pair[0]) - 1 :] for pair, row in zip(asked, rows, strict=True)}
    require_finite(found.values())
    return {pair: found.get(pair, torch.empty(0)) for pair in pairs}


def _digest(pair: Pair) -> bytes:
    given, new = pair
    return hashlib.blake2b(
        struct.pack(f"<{1 + len(given) + len(new)}q", len(given), *given, *new), digest_size=16
    ).digest()


def _failed(error: Exception) -> str:
    return (
        f"the engine failed on the base model's log-probabilities for model.kl_penalty "
        f"({type(error).__name__}: {error}). The centre is untouched: resume with --ckpt_path last, and with "
        "--model.retry_member true if it fails now and then."
    )
