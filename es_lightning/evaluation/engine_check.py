"""Whether an engine computes with the weights that it is given: seconds long, before the first generation."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from es_lightning.algorithm.noise import Noise
from es_lightning.algorithm.noise.base import hash64
from es_lightning.algorithm.shares import Change
from es_lightning.distributed.ranks import Ranks
from es_lightning.errors import UsageError
from es_lightning.evaluation.comparison import Comparison, is_coarse, judged, shared
from es_lightning.evaluation.in_place import verify
from es_lightning.evaluation.members import adapters
from es_lightning.evaluation.reference import reference_logprobs
from es_lightning.evaluation.rollouts import Rollouts
from es_lightning.records import Member
from es_lightning.rollout import AdapterEngine
from es_lightning.system.signals import interruptible

HALF = 0.5**0.5  # a tensor keeps its size: half of its variance stays its own, and half is noise
LEAST = 0.1  # root mean square that noise is made for where a tensor has less, such as a bias of zeros
SEED = hash64("engine check")
SMALL = 2**29  # bytes of perturbed weights that are kept instead of made two or three times
SHOWN = 4  # groups of tensors that a message names
MEMBERS = 2  # of one batch, for engines that hold members as adapters
Compare = Callable[["str | None"], "Comparison"]
"""Compares with noise on one group of tensors, or on all; without a group it may be without noise."""


class EngineCheck:
    """Compares the engine's log-probabilities with those of the centre itself, computed by transformers.

    First half of every tensor is replaced by noise of the run's kind, so that each one matters more than
    rounding does; then the centre is loaded again. An engine that holds members as adapters gets the noise in
    that way, too, for two members in one batch. Several ranks have to call this at the same time; if the
    engine of one is wrong, all stop.

    In float32 no token may differ by more than 0.001 nats. Elsewhere the median counts, since rounding can
    lead single tokens to other experts. In half precision it may be three times that of transformers' own
    forward pass in that precision, which is measured with the same rounded weights. It may be 0.01 nats where
    vLLM approximates a function of the model, and where an accelerator multiplies in TF32, or an eighth of
    what bfloat16 would be allowed.

    An engine that may write weights in place gets both once more in that way, which has to give the same.

    Args:
        rollouts: holds the engine, which has to be started, and whose room has been reserved for prompts.
        noise: kind of noise of the run.
        ranks: the ranks that share the work; None for a single process.
    """

    def __init__(self, rollouts: Rollouts, noise: Noise, ranks: Ranks | None = None) -> None:
        self.rollouts, self.noise, self.ranks = rollouts, noise, ranks or Ranks()

    def run(self, centre: nn.Module) -> dict[str, Any]:
        """Check the engine; it holds the centre afterwards.

        Args:
            centre: theta, float32 parameters under Hugging Face names; not changed.

        Returns:
            The result, for the journal's header.

        Raises:
            UsageError: the engine of a rank is wrong; the message names the tensors that it has not taken.
        """
        self.rollouts.engine.in_place = False
        self._found: list[Tensor] = []
        ways = self._ways(centre)
        compared = [shared(self.ranks, partial(compare, None)) for _, compare in ways]
        for (what, compare), results in zip(ways, compared, strict=True):
            if wrong := [each for each in results if not each.is_right]:
                groups = [] if wrong[0].error else self._groups(centre, compare)
                raise UsageError(self._sentence(centre, what, wrong[0], groups))
        if self.rollouts.engine.may_write_in_place:
            verify(self.rollouts, self.ranks, centre, [self._noisy, _as_it_is], self._found)
        self.rollouts.holds_centre()
        worst = max((each for results in compared for each in results), key=lambda each: each.difference)
        return {
            "tokens": sum(map(len, self._rows)),
            "difference": float(f"{worst.difference:.1e}"),
            "bound": float(f"{worst.bound:.1e}"),
        }

    def _ways(self, centre: nn.Module) -> list[tuple[str, Compare]]:
        """Return what is compared, in this order, and what it is called; the centre is loaded last."""

        def weights(group: str | None) -> Comparison:
            return self._compare(centre, self._noisy_in(group))

        def centre_alone(group: str | None) -> Comparison:
            return weights(group) if group else self._compare(centre, _as_it_is)

        ways: list[tuple[str, Compare]] = [("new weights of", weights), ("new weights of", centre_alone)]
        if isinstance(self.rollouts.engine, AdapterEngine):
            ways.insert(1, ("adapters beside", partial(self._compare_adapters, centre)))
        return ways

    @property
    def _rows(self) -> list[list[int]]:
        return self.rollouts.sample

    def _noisy(self, name: str, theta: Tensor) -> Tensor:
        """Return as much noise as weights, of the same size together.

        Small noise would hide: a tensor of one layer then moves the log-probabilities of a deep model in half
        precision less than rounding does. Noise on top of the whole weights would make the numbers within the
        model grow, and rounding with them.
        """
        dtype = self.rollouts.engine.dtype  # as members have it, so that no other kernel is compiled
        return self.noise.perturbed(SEED, name, HALF * theta, HALF * max(_size(theta), LEAST), dtype)

    def _noisy_in(self, group: str | None) -> Change:
        return lambda name, theta: self._noisy(name, theta) if group in (None, _group(name)) else theta

    def _compare(self, centre: nn.Module, change: Change) -> Comparison:
        """Load weights into the engine, and compare."""
        engine = self.rollouts.engine

        def rounded(name: str, theta: Tensor) -> Tensor:
            return kept[name] if name in kept else change(name, theta).to(engine.dtype)

        kept: dict[str, Tensor] = {}
        with torch.no_grad():
            numbers = sum(parameter.numel() for parameter in centre.parameters())
            if numbers * engine.dtype.itemsize <= SMALL:
                held = self.rollouts.shards.held(centre.named_parameters())
                kept = {name: rounded(name, theta) for name, theta in held.items()}
            self.rollouts.load(self.rollouts.stream(centre, rounded))
        with interruptible():
            found = torch.cat(engine.logprobs(self._rows))
        self._found.append(found)
        return self._compared(centre, found, lambda name, theta: rounded(name, theta).float())

    def _compare_adapters(self, centre: nn.Module, group: str | None) -> Comparison:
        """Load half of the centre, give the other half as noise in adapters, and compare."""
        rollouts, engine = self.rollouts, self.rollouts.engine
        assert isinstance(engine, AdapterEngine)
        dtype = engine.dtype

        def halved(name: str, theta: Tensor) -> Tensor:
            return (HALF * theta if group in (None, _group(name)) else theta).to(dtype)

        members = [Member(index, SEED + index, 1) for index in range(min(MEMBERS, engine.at_once))]
        factors = []
        sizes = rollouts.shards.held(centre.named_parameters())
        scales = rollouts.shards.gathered({name: _size(theta) for name, theta in sizes.items()})
        for matrices in adapters(centre, members, self.noise, 1.0):
            mine = {}
            for name, left, right in matrices:
                if group in (None, _group(name)):
                    size = HALF * max(scales[name], LEAST)
                    mine[name] = (left * size).to(dtype), right.to(dtype)
            factors.append(mine)
        if not factors[0]:  # a group that no adapter changes
            return Comparison(0.0, 0.0)
        with torch.no_grad():
            rollouts.load(rollouts.stream(centre, halved))
        engine.load_adapters([[(name, *pair) for name, pair in mine.items()] for mine in factors])
        with interruptible():
            found = [torch.cat(rows) for rows in engine.logprobs_each(self._rows)]
        return max(
            (
                self._compared(centre, rows, partial(_beside, halved, mine))
                for rows, mine in zip(found, factors, strict=True)
            ),
            key=lambda each: each.difference,
        )

    def _compared(self, centre: nn.Module, found: Tensor, change: Change) -> Comparison:
        """Compare log-probabilities with those of the centre after a change, as it is before rounding."""

        def half(dtype: torch.dtype) -> Tensor:
            return self._reference(centre, change, dtype)

        exact = self._reference(centre, change)
        coarse = is_coarse(centre, self.rollouts.shards.device)
        return judged(found, exact, self.rollouts.engine.dtype, coarse, half)

    def _reference(self, centre: nn.Module, change: Change, dtype: torch.dtype = torch.float32) -> Tensor:
        return reference_logprobs(centre, self._rows, change, dtype, self.rollouts.shards).flatten()

    def _groups(self, centre: nn.Module, compare: Compare) -> list[str]:
        """Perturb one group of tensors after the other; returns those that then differ."""
        wrong = []
        for group in _all_groups(centre):
            results = shared(self.ranks, partial(compare, group))
            if not all(each.is_right for each in results):
                wrong.append(group)
        return wrong

    def _sentence(self, centre: nn.Module, what: str, wrong: Comparison, groups: list[str]) -> str:
        engine, kind = type(self.rollouts.engine).__name__, type(centre).__name__
        other = "VLLMEngine" if isinstance(self.rollouts.engine, AdapterEngine) else "HFEngine"
        verb, how = "fails on", wrong.error
        if not how:
            verb = "differs from transformers on"
            how = f"by {wrong.difference:.2g} nats per token, and {wrong.bound:.2g} is allowed"
        named = ", ".join(groups[:SHOWN])
        if len(groups) == len(_all_groups(centre)):
            named = "the whole model, with the base's own weights too"
        elif len(groups) > SHOWN:
            named += f" and {len(groups) - SHOWN} more"
        return (
            f"{engine} {verb} {what} a {kind} ({how}), so its rewards would belong to other models"
            f"{f'; off: {named}' if named else ''}. Take --model.engine {other}, or another version of the "
            "engine's library; --model.check_engine false goes on all the same."
        )


def _beside(
    weights: Change, adapter: Mapping[str, tuple[Tensor, Tensor]], name: str, theta: Tensor
) -> Tensor:
    """Return a weight and what an adapter adds to it, in float32."""
    weight = weights(name, theta).float()
    if name not in adapter:
        return weight
    left, right = adapter[name]
    return weight + left.float() @ right.float().T


def _as_it_is(name: str, theta: Tensor) -> Tensor:
    return theta


def _size(tensor: Tensor) -> float:
    """Return the root mean square."""
    return float(tensor.square().mean(dtype=torch.float64).sqrt())


def _all_groups(centre: nn.Module) -> list[str]:
    return list(dict.fromkeys(_group(name) for name, _ in centre.named_parameters()))


def _group(name: str) -> str:
    """Return the module of a parameter, in all layers: ``model.layers.*.mlp.up_proj``."""
    return re.sub(r"\.\d+\.", ".*.", name).rpartition(".")[0] or name
