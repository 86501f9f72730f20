"""New weights written into a running vLLM's own tensors, without the reload of each layer.

vLLM's loaders copy a tensor to where it belongs: into rows of a fused matrix, or a rank's share of it. Where
nothing is made of the weights after they were loaded, no more has to happen. That is so for dense models in
their own precision on GPUs, up to layers such as multi-head latent attention, which keep products of weights.
So what this gives has to be compared with a reload before it is relied on.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


def obstacle(llm: Any) -> str:
    """Say why weights cannot be written in place, or nothing if that can be tried.

    Args:
        llm: a ``vllm.LLM`` in this process.
    """
    config = llm.llm_engine.vllm_config
    if config.model_config.quantization is not None:
        return "vLLM holds quantised weights of this model"
    if config.model_config.is_moe:
        return "vLLM arranges the experts of this model anew after loading"
    if config.lora_config is not None:
        return "adapters lie beside the weights"
    if any(llm.apply_model(_has_packed)):
        return "vLLM multiplies with packed copies of this model's matrices on this device"
    return ""


def _has_packed(model: nn.Module) -> bool:
    """Whether a parameter is empty, as vLLM leaves it when it has packed it for a CPU."""
    return any(parameter.numel() == 0 for parameter in model.parameters())


def write(llm: Any, named: Iterable[tuple[str, Tensor]]) -> None:
    """Let vLLM's loaders copy tensors into the model as it is.

    Args:
        llm: a ``vllm.LLM`` in this process.
        named: tensors by their names in the checkpoint.
    """

    @torch.no_grad()
    def load(model: Any) -> None:
        model.load_weights(iter(named))

    llm.apply_model(load)
