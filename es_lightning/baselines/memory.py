"""What TRL takes of a device beside the engine: formulas, at the least."""

from __future__ import annotations

from typing import NamedTuple

from es_lightning.baselines.settings import BaselineSettings
from es_lightning.models.size import ModelSize, elements

KEPT, KEPT_HALVED = 4, 3
"""Bytes that a backward pass keeps for each input and output of a linear layer, in float32 and in bfloat16:
what autograd saves of Qwen2 and Llama, rounded down. TRL 1.16 computes logits in tiles, and keeps none."""


class Needed(NamedTuple):
    """Bytes that TRL takes at the least; completions are sampled by the engine, in its own memory.

    Args:
        always: float32 weights and two moments of AdamW, with ``beta`` the base's weights as well, and in
            bfloat16 the copy of the linear layers that autocast makes.
        learning: gradients, and what the backward pass of a minibatch keeps.
    """

    always: int
    learning: int

    @property
    def total(self) -> int:
        """The most at any time."""
        return self.always + self.learning


def needed(size: ModelSize, settings: BaselineSettings, length: int, halved: bool) -> Needed:
    """Estimate the memory of training beside the engine.

    Args:
        size: of the model.
        settings: how it is trained.
        length: most tokens of a prompt with its completion.
        halved: whether gradients are computed in bfloat16.
    """
    linear = [size.shapes[name] for name in size.linear]
    copies = 3 + (settings.beta > 0)
    kept = (KEPT_HALVED if halved else KEPT) * sum(map(sum, linear))
    return Needed(
        always=4 * copies * size.parameters + 2 * halved * sum(map(elements, linear)),
        learning=4 * size.parameters + kept * length * settings.minibatch,
    )
