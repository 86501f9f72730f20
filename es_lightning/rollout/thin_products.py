"""Adapters of vLLM on CPUs: two thin matrix products for all of them, in place of a copy for every token.

vLLM's own code copies each token's matrices before it multiplies. Here all tokens are multiplied with the
first matrices of several adapters, results of other tokens' adapters are set to zero, and one product with
the second matrices adds the rest. vLLM works on requests about in the order in which it got them, which is
by adapter. So a step needs those from the first to the last one that it has tokens of: for M of them, of rank
r, and a layer [m, n] that is M r (m + n) multiplications per token, beside its own m n. A token without an
adapter gets nothing; vLLM's own code adds the last one.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

Stacked = Sequence[Tensor]


def use_thin_products(model: Any, count: int, rank: int) -> None:
    """Let a model's layers compute adapters in this way, until the next ones are registered.

    Args:
        model: vLLM's, on a CPU, with adapters in its first slots.
        count: how many adapters.
        rank: columns of their matrices.
    """
    manager = model.lora_manager
    room = (manager.max_num_batched_tokens, manager.max_num_seqs, manager.device)
    kernel = _kernel()(count, rank, room)
    for name in manager.punica_wrapper_mapping:
        manager.punica_wrapper_mapping[name] = kernel
    for module in manager.modules.values():
        module.set_mapping(kernel)


@cache
def _kernel() -> Any:
    """Return the class, whose base is vLLM's: importing this module must not load vLLM."""
    from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

    class ThinProducts(PunicaWrapperCPU):  # type: ignore[misc]  # vLLM is loaded when it is needed
        def __init__(self, count: int, rank: int, room: tuple[Any, ...]) -> None:
            super().__init__(*room)
            self._count, self._rank = count, rank
            self._span = slice(0, 0)  # of the adapters that a step has tokens of
            self._others = torch.empty(0, 0, dtype=torch.bool)  # [tokens, span]: whose a token is not
            self._matrices: dict[int, tuple[Tensor, list[Tensor]]] = {}

        def update_metadata(self, *args: Any, **options: Any) -> None:
            super().update_metadata(*args, **options)
            owners = self.token_lora_indices  # -1: none
            some = owners[owners >= 0]
            self._span = slice(int(some.min()), int(some.max()) + 1) if len(some) else slice(0, 0)
            self._others = owners[:, None] != torch.arange(self._span.start, self._span.stop)

        def add_lora_linear(
            self,
            y: Tensor,
            x: Tensor,
            lora_a_stacked: Stacked,
            lora_b_stacked: Stacked,
            scale: float,
            output_slices: Sequence[int],
            **options: Any,
        ) -> None:
            if self._span.stop == 0:
                return
            key = id(lora_a_stacked[0])
            if key not in self._matrices:
                self._matrices[key] = self._gathered(lora_a_stacked, lora_b_stacked)
            first, second = self._matrices[key]
            thin = linear(x, first[self._span].flatten(0, 2))
            thin = thin.view(len(x), -1, len(second), self._rank)
            thin.masked_fill_(self._others[: len(x), :, None, None], 0.0)
            for part, matrix, place in zip(
                thin.unbind(2), second, y.split(list(output_slices), dim=1), strict=True
            ):
                place.addmm_(part.flatten(1), matrix[self._span].flatten(0, 1), alpha=scale)

        def _gathered(self, a: Stacked, b: Stacked) -> tuple[Tensor, list[Tensor]]:
            """Return the first matrices [adapters, parts, r, n] of a layer, and of each part the second."""
            held = (slice(None, self._count), 0)
            first = torch.stack([each[*held, : self._rank] for each in a], dim=1)
            return first, [each[*held, :, : self._rank].mT.contiguous() for each in b]

    return ThinProducts
