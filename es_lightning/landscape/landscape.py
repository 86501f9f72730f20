"""What a probe looks at: rewards of a centre and of its perturbed copies, prompt by prompt."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from torch import nn

from es_lightning.algorithm.tensors import checksum
from es_lightning.errors import DivergenceError
from es_lightning.evaluation.parts import Parts
from es_lightning.landscape.arrays import Array
from es_lightning.records import Member, Prompt
from es_lightning.rollout import AdapterEngine

log = logging.getLogger(__name__)
AT_ONCE = 8  # members between two lines on disk, for engines that hold one after the other


class Landscape(Protocol):
    """A reward around a point. Models and landscapes with known answers go through the same code."""

    @property
    def at_once(self) -> int:
        """Number of members that are best evaluated together."""

    def centre(self) -> Array:
        """Return the rewards of the point itself, float64 [P]."""

    def members(self, members: Sequence[Member], sigma: float) -> Array:
        """Return the rewards of perturbed copies, float64 [members, P].

        Args:
            members: seeds and signs of the noise.
            sigma: noise scale.
        """

    def checksum(self) -> str:
        """Return digits that change with the point."""

    def share(self, payload: bytes) -> bytes:
        """Return what rank 0 passes; all ranks have to call it."""


class ModelLandscape:
    """The rewards of a model on prompts. All ranks have to make the same calls.

    Args:
        parts: started.
        centre: theta, float32 parameters under Hugging Face names.
        prompts: P encoded prompts.
    """

    def __init__(self, parts: Parts, centre: nn.Module, prompts: Sequence[Prompt]) -> None:
        self.parts, self.model, self.prompts = parts, centre, list(prompts)

    @property
    def at_once(self) -> int:
        """As many members as the engines of all lanes hold together."""
        return members_at_once(self.parts)

    def centre(self) -> Array:
        """Return the rewards of the centre, [P].

        It is evaluated as candidates are, with sigma 0: as an adapter where they are adapters, and by every
        lane on all prompts. In low precision a batch of another size can end in another text, and a change
        of exactly 0 has to be one.
        """
        parts = self.parts
        adapters = isinstance(parts.rollouts.engine, AdapterEngine)
        copies = members_at_once(parts) if adapters else parts.ranks.lane.count
        rewards = self.members([Member(index, seed=0, sign=1) for index in range(copies)], sigma=0.0)
        if (rewards != rewards[0]).any() and parts.ranks.rank == 0:
            log.warning(
                "%d copies of the same centre earn %.4g to %.4g: the engine's numbers depend on the place in "
                "a batch or on the rank, and changes as small as this say nothing.",
                *(copies, rewards.mean(1).min(), rewards.mean(1).max()),
            )
        return np.asarray(rewards[0])

    def members(self, members: Sequence[Member], sigma: float) -> Array:
        """Return the members' rewards, [members, P].

        Raises:
            DivergenceError: a member's log-probabilities are not finite.
        """
        parts = self.parts
        asked = (self.model, members, parts.noise, sigma, self.prompts)
        try:
            outcome = parts.evaluator().members(*asked)
        except DivergenceError as error:
            raise DivergenceError(
                f"sigma {sigma:g} gives weights whose log-probabilities are not finite: leave it out of "
                "the sigmas, and give another --output."
            ) from error
        return np.asarray(outcome.rewards.double().numpy())

    def checksum(self) -> str:
        """Return the checksum of the centre's weights."""
        return checksum(self.model.named_parameters(), self.parts.rollouts.shards)

    def share(self, payload: bytes) -> bytes:
        """Return what rank 0 passes."""
        return self.parts.ranks.from_first(payload)


def members_at_once(parts: Parts) -> int:
    """Return how many members a call evaluates at best, on all lanes together.

    Args:
        parts: started or not; an engine that is started knows how many adapters it holds.
    """
    engine = parts.rollouts.engine
    held = (engine.at_once or AT_ONCE) if isinstance(engine, AdapterEngine) else AT_ONCE
    return held * parts.ranks.lane.count


def members_expected(parts: Parts, most: int) -> int:
    """Return for how many members an engine is started: as many adapters as it takes, or a chunk.

    Args:
        parts: not started.
        most: members of a batch.
    """
    adapters = isinstance(parts.rollouts.engine, AdapterEngine)
    return most if adapters else min(most, members_at_once(parts))
