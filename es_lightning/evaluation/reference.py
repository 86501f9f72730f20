"""The centre's own log-probabilities with other weights, which take its place one layer at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import swap_tensors

from es_lightning.algorithm.shares import Change, Shards
from es_lightning.algorithm.tensors import device_of

Named = Mapping[str, nn.Parameter]


@torch.no_grad()
def reference_logprobs(
    centre: nn.Module,
    rows: Sequence[Sequence[int]],
    change: Change,
    dtype: torch.dtype = torch.float32,
    shards: Shards | None = None,
) -> Tensor:
    """Return the log-probability of each token given those before it, computed by transformers.

    No second model is made: a layer gets its changed weights when it is called, and its own afterwards. The
    peak memory is that of the centre, a layer, and the embeddings and head again; every bit of the centre is
    as before.

    Args:
        centre: a causal language model.
        rows: R sequences of L token ids, at least 2.
        change: from a parameter's name and its value, which stays as it is, to the value to compute with.
        dtype: of these weights; a layer computes in their precision.
        shards: which parameters are here; the others come from the ranks that hold them.

    Returns:
        Float32 CPU tensor [R, L - 1], in nats.
    """
    ids = torch.tensor([list(row) for row in rows], device=device_of(centre))
    with _changed(centre, change, dtype, shards or Shards()):
        logits: Tensor = centre(input_ids=ids, use_cache=False).logits[:, :-1].float()
    chosen = logits.gather(2, ids[:, 1:, None])[:, :, 0]
    return (chosen - logits.logsumexp(-1)).cpu()


@contextmanager
def _changed(centre: nn.Module, change: Change, dtype: torch.dtype, shards: Shards) -> Iterator[None]:
    own: dict[str, Tensor] = {}  # what is out of its place
    device = device_of(centre)

    def enter(parameters: Named) -> None:
        for name, value in shards.stream(
            parameters.items(), lambda name, theta: change(name, theta.data).to(dtype), dtype
        ):
            parameter, value = parameters[name], value.to(device)
            own[name] = parameter.data
            if parameter.is_meta:  # takes no data of another device
                own[name] = nn.Parameter(value, requires_grad=False)
                swap_tensors(parameter, own[name])
            else:
                parameter.data = value

    def leave(parameters: Named) -> None:
        for name, parameter in parameters.items():
            if name not in own:
                continue
            before = own.pop(name)
            if before.is_meta:
                swap_tensors(parameter, before)
            else:
                parameter.data = before

    others, layers = _parts(centre)
    hooks: list[Any] = []
    try:
        for module, parameters in layers:
            hooks.append(module.register_forward_pre_hook(_calls(enter, parameters)))
            hooks.append(module.register_forward_hook(_calls(leave, parameters), always_call=True))
        enter(others)
        yield
    finally:
        leave(others)
        for hook in hooks:
            hook.remove()


def _calls(function: Callable[[Named], None], parameters: Named) -> Callable[..., None]:
    return lambda *called: function(parameters)


def _parts(centre: nn.Module) -> tuple[Named, list[tuple[nn.Module, Named]]]:
    """Split the parameters, by their names, into those outside of layers and those of each layer.

    A layer is a member of a ModuleList that is in no other one. It is taken as a whole, since modules may
    read their children's weights without calling them; and what is outside of layers is changed for the
    whole pass, since models look at its precision before they call it.
    """
    others, layers = dict(centre.named_parameters()), list[tuple[str, nn.Module, Named]]()
    for path, module in centre.named_modules():
        is_inside = any(path.startswith(f"{layer}.") for layer, _, _ in layers)
        if not is_inside and isinstance(centre.get_submodule(path.rpartition(".")[0]), nn.ModuleList):
            names = [f"{path}.{name}" for name, _ in module.named_parameters()]
            layers.append((path, module, {name: others.pop(name) for name in names if name in others}))
    return others, [(module, parameters) for _, module, parameters in layers]
