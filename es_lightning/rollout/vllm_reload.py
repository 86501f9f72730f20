"""New weights for a running vLLM: its own reload, and what that leaves out.

vLLM replaces weights layer by layer through its loaders. Some layers multiply with a packed copy that is made
at the first load only, and some loaders write past the reload, so that their layers keep the weights before.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from es_lightning.errors import UsageError
from es_lightning.rollout.vllm_in_place import write

_RELOAD_LOGGER = "vllm.model_executor.model_loader.reload.layerwise"
_UNLOADED = "%s: Failed to load weights"  # as that logger puts it; the argument is the layer's class
_EXPERTS = tuple(f".experts.{each}_proj{kind}" for each in ("gate_up", "down") for kind in ("", "_bias"))


def reload(llm: Any, kind: str, named: Iterable[tuple[str, Tensor]]) -> None:
    """Replace all weights of a model.

    Args:
        llm: a ``vllm.LLM`` in this process.
        kind: the model's ``model_type``.
        named: its tensors by their names in its checkpoint.

    Raises:
        UsageError: a layer has kept weights of its own.
    """
    late: list[tuple[str, Tensor]] = []
    if kind == "gpt_oss":
        named = _gpt_oss(named, late)
    llm.apply_model(_drop_shared)
    with _complaints() as unloaded:
        llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(named)})
    llm.apply_model(_repacks(set(unloaded)))
    if late:
        write(llm, late)
    loaded_late = {name.rpartition(".")[2] for name, _ in late}
    if kept := llm.apply_model(_that_kept_weights(set(unloaded), loaded_late))[0]:
        raise UsageError(
            f"vLLM's loader for {kind} left {', '.join(kept)} as before when it was given new weights: take "
            "--model.engine HFEngine."
        )


def _gpt_oss(
    named: Iterable[tuple[str, Tensor]], late: list[tuple[str, Tensor]]
) -> Iterator[tuple[str, Tensor]]:
    """Stream one expert at a time, and set aside what is to be loaded afterwards.

    vLLM's loader for gpt-oss copies whole experts and attention sinks past the reload, which then keeps the
    old ones. Single experts go the right way; sinks can be written in place.
    """
    for name, tensor in named:
        if name.endswith(".sinks"):
            late.append((name, tensor))
        elif name.endswith(_EXPERTS):
            layer, _, kind = name.rpartition(".")
            for index, expert in enumerate(tensor):
                yield f"{layer}.{index}.{kind}", expert
        else:
            yield name, tensor


def _repacks(unloaded: set[str]) -> Callable[[nn.Module], None]:
    """Make a function that makes the packed copies anew that a reload forgets.

    A head that is tied to the embedding receives no tensor of its own, so vLLM does not process it again. On
    CPUs it multiplies with a packed copy of the embedding, made at the last processing. The experts' kernel
    on CPUs is set up at the first load alone, and takes the weights of later ones as if they were packed. A
    Mamba layer keeps a view of its convolution, which on CPUs loses sight of it once that is packed.

    Args:
        unloaded: the classes of layers that the reload gave no weights.
    """

    def repack(model: nn.Module) -> None:
        from vllm.model_executor.layers.fused_moe.routed_experts import RoutedExperts
        from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
        from vllm.platforms import current_platform

        for module in model.modules():
            layer = getattr(module, "base_layer", module)
            if isinstance(layer, ParallelLMHead):
                if type(layer).__name__ in unloaded:
                    _repack_head(layer, model)
            elif isinstance(layer, RoutedExperts) and current_platform.is_cpu():
                layer.quant_method.moe_kernel.fused_experts.process_weights_after_loading(layer)
            elif isinstance(view := getattr(module, "conv_weights", None), Tensor):
                new = getattr(module.conv1d, "_cpu_unpacked_conv_weight", None)
                if new is not None:
                    view.copy_(new)

    return repack


def _repack_head(head: Any, model: nn.Module) -> None:
    """Give a tied head the packed copy that its embedding has just got, or else make one for it."""
    for layer in _tied_to(head, model):
        if hasattr(layer, "cpu_linear") and head.bias is None:
            head.cpu_linear = layer.cpu_linear
            return
    head.quant_method.process_weights_after_loading(head)


def _drop_shared(model: nn.Module) -> None:
    """Free the packed copies of tied heads and their embeddings, so that new ones do not come on top."""
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    for head in model.modules():
        if isinstance(head, ParallelLMHead) and (tied := _tied_to(head, model)):
            for layer in (head, *tied):
                if hasattr(layer, "cpu_linear"):
                    del layer.cpu_linear


def _tied_to(head: Any, model: nn.Module) -> list[Any]:
    """Return the embeddings that have the same weight."""
    from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding

    layers = [layer for layer in model.modules() if isinstance(layer, VocabParallelEmbedding)]
    return [layer for layer in layers if layer.weight is head.weight and layer is not head]


def _that_kept_weights(classes: set[str], late: set[str]) -> Callable[[nn.Module], list[str]]:
    """Make a function that names the parameters of layers of these classes, except those loaded otherwise."""

    def names(model: nn.Module) -> list[str]:
        owners: dict[int, int] = {}
        for module in model.modules():
            for parameter in module.parameters(recurse=False):
                owners[id(parameter)] = owners.get(id(parameter), 0) + 1
        return [
            f"{path}.{name}"
            for path, module in model.named_modules()
            if type(module).__name__ in classes
            for name, parameter in module.named_parameters(recurse=False)
            if owners[id(parameter)] == 1 and name not in late  # a tied tensor has come by its other owner
        ]

    return names


@contextmanager
def _complaints() -> Iterator[list[str]]:
    """Collect the classes of the layers that a reload gives no weights, in place of vLLM's warnings."""
    classes: list[str] = []

    def collect(record: logging.LogRecord) -> bool:
        if record.msg == _UNLOADED and isinstance(record.args, tuple):
            classes.extend(str(name) for name in record.args)
            return False
        return True

    logger = logging.getLogger(_RELOAD_LOGGER)
    level = logger.level
    logger.setLevel(logging.WARNING)
    logger.addFilter(collect)
    try:
        yield classes
    finally:
        logger.removeFilter(collect)
        logger.setLevel(level)
