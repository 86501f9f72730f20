"""How far an engine's log-probabilities may be from those that they should be, and what all ranks find."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from es_lightning.algorithm.tensors import device_of
from es_lightning.distributed.ranks import Ranks
from es_lightning.errors import UsageError
from es_lightning.system.text import shortened

BOUND = 1e-3  # nats per token, in float32
COARSE_BOUND = 1e-2  # where float32 is less: TF32 of accelerators, functions that vLLM approximates
TF32 = 8  # times as fine as bfloat16
FACTOR = 3.0  # how many times as far as transformers in half precision an engine may be from float32


@dataclass(frozen=True)
class Comparison:
    """How far an engine's log-probabilities are from transformers' own.

    Args:
        difference: in nats; the largest of a token where float32 is exact, else the median.
        bound: the largest difference that is allowed.
        error: what the engine raised; empty if nothing.
    """

    difference: float
    bound: float
    error: str = ""

    @property
    def is_right(self) -> bool:
        """Whether the engine has done what it should."""
        return not self.error and self.difference <= self.bound


def judged(
    found: Tensor, exact: Tensor, dtype: torch.dtype, is_coarse: bool, half: Callable[[torch.dtype], Tensor]
) -> Comparison:
    """Compare how far an engine is from the exact values with how far it may be.

    Args:
        found: log-probabilities of T tokens, by the engine.
        exact: the same by transformers in float32, with the weights that the engine has been given.
        dtype: precision of the engine.
        is_coarse: whether float32 is less than that; see ``is_coarse``.
        half: the same by transformers in a half precision.
    """
    if not exact.isfinite().all():
        return Comparison(0.0, 0.0)  # generating says so, in words of its own
    off = (found - exact).abs()
    if dtype == torch.float32 and not is_coarse:
        return Comparison(largest(off), BOUND)
    is_half = dtype != torch.float32
    precision, finer, least = (dtype, 1, BOUND) if is_half else (torch.bfloat16, TF32, COARSE_BOUND)
    own = (half(precision) - exact).abs()
    counts = own.isfinite()  # where float16 is too small for the model, it is so in every engine
    if not counts.any():
        return Comparison(0.0, 0.0)
    if not off[counts].isfinite().all():
        return Comparison(torch.inf, least)
    allowed = FACTOR * float(own[counts].median()) / finer
    return Comparison(float(off[counts].median()), max(allowed, least))


def largest(differences: Tensor) -> float:
    """Return the largest difference; one that is no number counts as infinite."""
    return float(differences.nan_to_num(torch.inf, torch.inf).max())


def shared(ranks: Ranks, compare: Callable[[], Comparison]) -> list[Comparison]:
    """Compare on every rank, and return the results of all; an error of one is its result.

    Raises:
        UsageError: by the comparison, where there is a single rank.
    """
    try:
        result = compare()
    except Exception as error:  # another rank must not wait for this one
        if ranks.world == 1 and isinstance(error, UsageError):
            raise
        reason = shortened(" ".join(str(error).split()))
        result = Comparison(0.0, 0.0, f"{type(error).__name__}: {reason}")
    packed = ranks.exchange(json.dumps(asdict(result)).encode())
    return [Comparison(**json.loads(each)) for each in packed]


def is_coarse(centre: nn.Module, device: torch.device | None = None) -> bool:
    """Whether float32 is less: on accelerators, and where vLLM approximates soft caps or BLOOM's GELU.

    Args:
        centre: the model.
        device: that the run computes on; None takes the centre's.
    """
    config: Any = getattr(centre, "config", None)
    caps = ("attn_logit_softcapping", "final_logit_softcapping")
    is_approximate = getattr(config, "model_type", "") == "bloom" or any(
        getattr(config, cap, None) for cap in caps
    )
    return is_approximate or (device or device_of(centre)).type != "cpu"
