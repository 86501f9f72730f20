"""What a probe looks at: rewards of a centre and of its perturbed copies, prompt by prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from torch import nn

from es_lightning.algorithm.tensors import checksum
from es_lightning.evaluation.parts import Parts
from es_lightning.landscape.best_of import Array
from es_lightning.records import Member, Prompt
from es_lightning.rollout import AdapterEngine

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
        """Return the rewards of the centre, [P]."""
        self.parts.rollouts.hold_centre(self.model)
        return np.asarray(self.parts.evaluator().evaluate(self.prompts).rewards, dtype=np.float64)

    def members(self, members: Sequence[Member], sigma: float) -> Array:
        """Return the members' rewards, [members, P]."""
        parts = self.parts
        outcome = parts.evaluator().members(self.model, members, parts.noise, sigma, self.prompts)
        return np.asarray(outcome.rewards.double().numpy())

    def checksum(self) -> str:
        """Return the checksum of the centre's weights."""
        return checksum(self.model.named_parameters(), self.parts.rollouts.shards)


def members_at_once(parts: Parts) -> int:
    """Return how many members a call evaluates at best, on all lanes together.

    Args:
        parts: started or not; an engine that is started knows how many adapters it holds.
    """
    engine = parts.rollouts.engine
    held = (engine.at_once or AT_ONCE) if isinstance(engine, AdapterEngine) else AT_ONCE
    return held * parts.ranks.lane.count
