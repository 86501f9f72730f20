"""What TRL takes of a device beside the engine: formulas, at the least."""

from __future__ import annotations

from typing import NamedTuple

from es_lightning.baselines.settings import BaselineSettings
from es_lightning.models.size import ModelSize, elements

KEPT, KEPT_HALVED = 4, 3
"""Bytes that a backward pass keeps for each input and output of a linear layer, in float32 and in bfloat16:
what autograd saves of Qwen2 and Llama, rounded down. TRL 1.16 computes logits in tiles, and keeps none."""


class Needed(NamedTuple):
    """Bytes that TRL takes at the least.

    Args:
        always: float32 weights and two moments of AdamW, with ``beta`` the base's weights as well, and in
            bfloat16 the copy of the linear layers that autocast makes.
        sampling: keys and values of the completions that are sampled at once; they are float32 beside
            bfloat16 as well, since autocast leaves the rotation of keys in float32.
        learning: gradients, and what the backward pass of a minibatch keeps.
    """

    always: int
    sampling: int
    learning: int

    @property
    def total(self) -> int:
        """The most at any time: there are no gradients while completions are sampled."""
        return self.always + max(self.sampling, self.learning)


def needed(size: ModelSize, settings: BaselineSettings, prompts: int, length: int, halved: bool) -> Needed:
    """Estimate the memory of training beside the engine.

    Args:
        size: of the model.
        settings: how it is trained.
        prompts: of an update.
        length: most tokens of a prompt with its completion.
        halved: whether samples and gradients are computed in bfloat16.
    """
    linear = [size.shapes[name] for name in size.linear]
    copies = 3 + (settings.beta > 0)
    kept = (KEPT_HALVED if halved else KEPT) * sum(map(sum, linear))
    return Needed(
        always=4 * copies * size.parameters + 2 * halved * sum(map(elements, linear)),
        sampling=4 * size.cache_values * length * settings.sampled_at_once(prompts),
        learning=4 * size.parameters + kept * length * settings.minibatch,
    )
