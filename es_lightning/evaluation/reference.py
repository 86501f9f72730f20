"""The centre's own log-probabilities with other weights, which take its place one layer at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

Change = Callable[[str, Tensor], Tensor]
"""From a parameter's name and its value, which stays as it is, to the value to compute with."""


@torch.no_grad()
def reference_logprobs(centre: nn.Module, tokens: Sequence[int], change: Change) -> Tensor:
    """Return the log-probability of each token given those before it, computed by transformers.

    No second model is made: a layer gets its changed weights when it is called, and its own afterwards. The
    peak memory is that of the centre and one layer, and every bit of the centre is as before.

    Args:
        centre: a causal language model.
        tokens: L token ids, at least 2.
        change: makes the weights to compute with; a layer computes in their precision.

    Returns:
        Float32 CPU tensor [L - 1], in nats.
    """
    ids = torch.tensor([list(tokens)], device=next(centre.parameters()).device)
    with _changed(centre, change):
        logits = centre(input_ids=ids, use_cache=False).logits[0, :-1].float()
    return logits.log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0].cpu()


@contextmanager
def _changed(centre: nn.Module, change: Change) -> Iterator[None]:
    hooks = []
    own: dict[int, list[Tensor]] = {}  # tensors that are out of their place, by unit

    for unit, parameters in _units(centre):

        def enter(module: nn.Module, args: Any, parameters: dict[str, nn.Parameter] = parameters) -> None:
            own[id(module)] = [parameter.data for parameter in parameters.values()]
            for name, parameter in parameters.items():
                parameter.data = change(name, parameter.data)

        def leave(
            module: nn.Module, args: Any, output: Any, parameters: dict[str, nn.Parameter] = parameters
        ) -> None:
            for parameter, data in zip(parameters.values(), own.pop(id(module), ()), strict=False):
                parameter.data = data

        hooks += [unit.register_forward_pre_hook(enter), unit.register_forward_hook(leave, always_call=True)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _units(centre: nn.Module) -> Iterator[tuple[nn.Module, dict[str, nn.Parameter]]]:
    """Yield what is changed together, with its parameters by their names: whole layers, and single modules.

    A layer is a member of a ModuleList that is in no other one. It is taken as a whole, since modules may
    read their children's weights without calling them. A tied tensor belongs to several modules under the
    first of its names.
    """
    names = {id(parameter): name for name, parameter in centre.named_parameters()}
    whole: set[str] = set()
    for path, module in centre.named_modules():
        if any(path.startswith(f"{layer}.") for layer in whole):
            continue
        is_layer = isinstance(centre.get_submodule(path.rpartition(".")[0]), nn.ModuleList)
        if is_layer:
            whole.add(path)
        parameters = {names[id(each)]: each for each in module.parameters(recurse=is_layer)}
        if parameters:
            yield module, parameters
