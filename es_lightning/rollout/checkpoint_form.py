"""From a model's parameters to the tensors of its checkpoint, which engines other than transformers know."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


class CheckpointForm:
    """Gives a stream of parameters the names and shapes that they have in the model's checkpoint.

    For most models they are the same. transformers renames some, and fuses others, for example all experts
    of a layer into one tensor; its own mapping, which it saves models with, is applied in reverse here.

    Args:
        config: the model's configuration.
        trust_remote_code: run Python code that comes with the model.
    """

    def __init__(self, config: PreTrainedConfig, trust_remote_code: bool = False) -> None:
        from transformers import AutoModelForCausalLM
        from transformers.conversion_mapping import get_model_conversion_mapping

        self.kind = config.model_type
        with torch.device("meta"):
            self.model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
        self._differs = bool(get_model_conversion_mapping(self.model, add_legacy=False))

    def __call__(self, named: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """Convert a stream, holding the tensors of one layer at a time.

        Args:
            named: (parameter name, tensor), the tensors of one layer side by side.
        """
        from transformers.core_model_loading import revert_weight_conversion

        if not self._differs:
            yield from named
            return
        for _, layer in groupby(named, lambda pair: _layer(pair[0])):
            yield from revert_weight_conversion(self.model, dict(layer)).items()

    def names(self) -> dict[str, str]:
        """Return the checkpoint's names of the parameters that it holds each as a tensor of its own."""
        mine = dict(self.model.named_parameters())
        names = {id(tensor): name for name, tensor in mine.items()}
        return {names[id(tensor)]: name for name, tensor in self(mine.items()) if id(tensor) in names}


def _layer(name: str) -> str:
    """Return the beginning of a name that the tensors of one layer have in common; else the whole name."""
    parts = name.split(".")
    number = next((index for index, part in enumerate(parts) if part.isdigit()), len(parts))
    return ".".join(parts[: number + 1])
