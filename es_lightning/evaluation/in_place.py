"""Whether weights that are written into an engine in place do what a reload of them does."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from es_lightning.algorithm.shares import Change
from es_lightning.distributed.ranks import Ranks
from es_lightning.evaluation.comparison import BOUND, Comparison, largest, shared
from es_lightning.evaluation.rollouts import Rollouts
from es_lightning.system.signals import interruptible

log = logging.getLogger(__name__)


def verify(
    rollouts: Rollouts, ranks: Ranks, centre: nn.Module, changes: Sequence[Change], reloaded: Sequence[Tensor]
) -> None:
    """Load weights in place, and go on like that if no log-probability differs from those after a reload.

    There have to be two different sets of weights or more, the last of which the engine holds. So a way that
    does nothing is seen: each set is written where another one was. In every precision the difference may be
    0.001 nats, since the same kernels compute with the same weights. If the engine of one rank differs, all
    go on with the reload.

    Args:
        rollouts: holds the engine.
        ranks: the ranks that share the work.
        centre: theta, float32 parameters under Hugging Face names.
        changes: make the sets of weights from it; the engine holds the last one afterwards.
        reloaded: the engine's log-probabilities of ``rollouts.sample`` for each of them, after a reload.

    Raises:
        UsageError: it differs, and the engine was told to take no other way.
    """
    engine = rollouts.engine

    def load(change: Change) -> None:
        rollouts.load(rollouts.stream(centre, lambda name, theta: change(name, theta).to(engine.dtype)))

    def compare() -> Comparison:
        differences = []
        for change, expected in zip(changes, reloaded, strict=True):
            load(change)
            with interruptible():
                found = torch.cat(engine.logprobs(rollouts.sample))
            differences.append(largest((found - expected).abs()))
        return Comparison(max(differences), BOUND)

    engine.in_place = True
    results = shared(ranks, compare)
    wrong = next((each for each in results if not each.is_right), None)
    if wrong is None:
        log.debug("Weights are written in place, which gives what a reload does.")
        return
    engine.in_place = False
    load(changes[-1])
    engine.refuse_in_place(
        f"writing weights in place fails ({wrong.error})"
        if wrong.error
        else f"weights written in place give log-probabilities that are off by {wrong.difference:.2g} nats, "
        f"and {wrong.bound:.2g} is allowed"
    )
