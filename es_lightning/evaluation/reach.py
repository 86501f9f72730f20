"""Noise within the reach of adapters: what they cannot change is frozen, for the update as well."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from math import prod

from es_lightning.algorithm.noise import FilteredNoise, Noise
from es_lightning.errors import UsageError
from es_lightning.rollout import AdapterEngine, RolloutEngine

Shapes = Mapping[str, Sequence[int]]


def require_thin(engine: RolloutEngine, noise: Noise) -> None:
    """Refuse noise that an engine of adapters could not hold.

    Raises:
        UsageError: its members are no thin products.
    """
    if isinstance(engine, AdapterEngine):
        require_low_rank(type(engine).__name__, noise)


def require_low_rank(engine: str, noise: Noise) -> None:
    """Refuse noise whose members are no thin products.

    Args:
        engine: the engine's name, for the message.
        noise: of the run.

    Raises:
        UsageError: it is such noise.
    """
    if not noise.rank:
        raise UsageError(
            f"{engine} holds members as adapters, and {_kind(noise)} is not of low rank: take --model.noise "
            "LowRankNoise, or --model.engine VLLMEngine, which takes noise of every kind."
        )


def within_reach(noise: Noise, shapes: Shapes, reached: Collection[str], engine: str) -> Noise:
    """Freeze what the noise perturbs and adapters do not reach.

    Args:
        noise: of low rank.
        shapes: the model's parameters, by their Hugging Face names.
        reached: names of those that an adapter can change.
        engine: the engine's name, for messages.

    Returns:
        The noise itself if it stays within reach; else the same draws on fewer parameters, so that a replay
        and every other engine can have them.

    Raises:
        UsageError: nothing would be left.
    """
    perturbed = [name for name, shape in shapes.items() if noise.perturbs(name, shape)]
    kept = {name for name in perturbed if name in reached}
    out = [name for name in perturbed if name not in reached]
    if not kept:
        raise UsageError(
            f"{engine} reaches none of the {len(perturbed)} parameters that model.noise perturbs: take "
            "--model.engine VLLMEngine, or let the noise perturb matrices of linear layers."
        )
    if not out:
        return noise
    limited = FilteredNoise(noise, exclude=list(dict.fromkeys(map(_in_all_layers, out))))
    if {name for name, shape in shapes.items() if limited.perturbs(name, shape)} != kept:
        limited = FilteredNoise(noise, exclude=out)  # a pattern has caught a parameter of another layer
    return limited


def frozen(noise: Noise, limited: Noise, shapes: Shapes) -> str:
    """Say what became frozen between two kinds of noise, and how much that is."""
    sizes = {name: prod(shape) for name, shape in shapes.items() if noise.perturbs(name, shape)}
    lost = [name for name in sizes if not limited.perturbs(name, shapes[name])]
    share = sum(sizes[name] for name in lost) / sum(sizes.values())
    patterns = ", ".join(dict.fromkeys(map(_in_all_layers, lost)))
    return f"{len(lost)} of {len(sizes)} parameters ({share:.0%} of the numbers): {patterns}"


def _in_all_layers(name: str) -> str:
    return re.sub(r"\.\d+\.", ".*.", name)


def _kind(noise: Noise) -> str:
    return _kind(noise.noise) if isinstance(noise, FilteredNoise) else type(noise).__name__
