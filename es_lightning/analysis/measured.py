"""What the cost model is given: the size of a model for an engine, and the state of an optimizer."""

import torch
from torch.optim import Optimizer

from es_lightning.algorithm.noise import Noise
from es_lightning.analysis.cost import Size
from es_lightning.errors import UsageError
from es_lightning.models.size import ModelSize, elements

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks that vLLM has kernels for; its adapters have the least of them that is large enough."""


def size_for(
    measured: ModelSize, noise: Noise, dtype: torch.dtype, as_adapters: bool = False, scale: float = 1.0
) -> Size:
    """Return the size of a model and of the copy of it that an engine holds.

    Args:
        measured: the model.
        noise: which of its parameters are tuned.
        dtype: of the engine's weights.
        as_adapters: whether the engine holds members as adapters, which reach linear layers alone.
        scale: factor on all sizes, for a model that is known by its number of parameters alone.

    Raises:
        UsageError: the noise reaches no parameter.
    """
    tuned = {name: shape for name, shape in measured.shapes.items() if noise.perturbs(name, shape)}
    if not tuned:
        noise.check(measured.shapes)
    if as_adapters:
        tuned = {name: shape for name, shape in tuned.items() if name in measured.linear}
    return Size(
        parameters=round(measured.parameters * scale),
        tuned=round(sum(map(elements, tuned.values())) * scale),
        largest=round(max(map(elements, measured.shapes.values())) * scale),
        cache_values=round(measured.cache_values * scale),
        heads=measured.heads,
        shared=measured.shared,
        weight_bytes=dtype.itemsize,
        # In proportion to the model, rows and columns grow less than their product, so this is too much.
        thin=round(sum(map(sum, tuned.values())) * scale) if as_adapters else 0,
    )


def slot_rank(rank: int) -> int:
    """Return the rank of vLLM's adapters for noise of a rank.

    Raises:
        UsageError: it has none so high.
    """
    if rank > RANKS[-1]:
        raise UsageError(
            f"the noise has rank {rank}, and vLLM's adapters have at most {RANKS[-1]}: lower "
            "model.noise.init_args.rank, or take --model.engine VLLMEngine."
        )
    return next(each for each in RANKS if each >= rank)


@torch.no_grad()
def state_per_parameter(optimizer: Optimizer) -> float:
    """Return the bytes per parameter of an optimizer's state, after a step.

    Args:
        optimizer: of one matrix, large enough that a single number beside it does not count.
    """
    [weight] = optimizer.param_groups[0]["params"]
    weight.grad = torch.zeros_like(weight)
    optimizer.step()
    tensors = [held for held in optimizer.state[weight].values() if isinstance(held, torch.Tensor)]
    total = sum(held.numel() * held.element_size() for held in tensors)
    return float(round(total / weight.numel(), 2))
