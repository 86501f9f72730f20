"""How far the centre theta has moved from the base theta_0, and in which tensors: delta = theta - theta_0.

Sums are taken in float64: squares of changes of 1e-5 would vanish in fp16, which arXiv 2601.20861's script
uses. They are taken over chunks, so that no temporary tensor of full size is made.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from math import fsum, sqrt
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from es_lightning.algorithm.tensors import CHUNK, Weights
from es_lightning.errors import UsageError

T = TypeVar("T")

# The first pattern that fits a name wins: a norm within attention is a norm, an expert's projection is MLP.
_KINDS = {
    "norm": r"norm|\bln_",
    "head": r"\b(lm_head|embed_out)\b",
    "embedding": r"embed|\bwte\b|\bwpe\b",
    "mlp": r"mlp|expert|moe\b|ffn|feed_forward|\bfc(\d|_)",
    "qkv": r"qkv|\bc_attn\b|query_key_value|\bkv_",
    "q": r"\b(q|wq|query)(_\w+)?\b",
    "k": r"\b(k|wk|key)(_\w+)?\b",
    "v": r"\b(v|wv|value)(_\w+)?\b",
    "o": r"att\w*\.(\w+\.)?(o|wo|out|c|dense)(_proj)?\b",
}
GROUPS = ("q", "k", "v", "qkv", "o", "mlp", "norm", "embedding", "head", "other")
"""The module groups, in the order of tables and pictures; ``qkv`` stands for fused projections."""


def group_of(name: str) -> str:
    """Return the module group of a parameter by its Hugging Face name; a bias belongs to its projection."""
    return next((kind for kind, words in _KINDS.items() if re.search(words, name, re.IGNORECASE)), "other")


def layer_of(name: str) -> int | None:
    """Return the layer of a parameter, counted from 0; None outside the layers."""
    match = re.search(r"\b(?:layers?|blocks?|h)\.(\d+)\b", name)
    return int(match[1]) if match else None


@dataclass(frozen=True)
class Change:
    """Sums over the entries of one or several tensors.

    Args:
        entries: number of entries.
        squares: sum of delta^2.
        base_squares: sum of theta_0^2.
        absolute: sum of |delta|.
        largest: largest |delta|.
        unchanged: number of entries of theta that become theta_0 again when rounded to theta_0's own dtype:
            |delta| is below half a unit in the last place, with ties and powers of two as in rounding.
        within: per threshold, the number of entries with |delta| <= threshold.
        step_squares: sum of (theta - theta before the update)^2; 0 without theta before the update.
        along: sum of delta * (target - theta_0); 0 without a target.
        target_squares: sum of (target - theta_0)^2; 0 without a target.
    """

    entries: int
    squares: float
    base_squares: float
    absolute: float
    largest: float
    unchanged: int
    within: tuple[int, ...]
    step_squares: float = 0.0
    along: float = 0.0
    target_squares: float = 0.0

    @property
    def norm(self) -> float:
        """||delta||, the Euclidean norm."""
        return sqrt(self.squares)

    @property
    def relative(self) -> float | None:
        """||delta|| / ||theta_0||; None if the base is all zeros."""
        return sqrt(self.squares / self.base_squares) if self.base_squares else None

    @property
    def sparsity(self) -> tuple[float, ...]:
        """Shares of the entries: ``within`` for each threshold, then ``unchanged``."""
        return tuple(count / self.entries for count in (*self.within, self.unchanged))


@torch.no_grad()
def change(
    theta: Tensor,
    base: Tensor,
    thresholds: Sequence[float],
    before: Tensor | None = None,
    target: Tensor | None = None,
) -> Change:
    """Measure the change of one tensor, in one pass over it.

    Args:
        theta: float32, on any device.
        base: theta_0 in its stored dtype; ``base``, ``before`` and ``target`` have the shape of ``theta``.
        thresholds: thresholds of ``Change.within``.
        before: theta before the update.
        target: the same tensor of another model.
    """
    tensors = [tensor for tensor in (theta, base, before, target) if tensor is not None]
    sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), dtype=torch.float64, device=theta.device))
    for chunks in zip(*(tensor.detach().reshape(-1).split(CHUNK) for tensor in tensors), strict=True):
        now, stored, *others = (chunk.to(theta.device) for chunk in chunks)
        origin, wide = stored.double(), now.double()
        delta = wide - origin
        size = delta.abs()
        sums["largest"] = torch.maximum(sums["largest"], size.max())
        sums["absolute"] += size.sum()
        sums["squares"] += delta.dot(delta)
        sums["base_squares"] += origin.dot(origin)
        sums["unchanged"] += (now.to(stored.dtype) == stored).sum()
        for threshold in thresholds:
            sums[f"within {threshold}"] += (size <= threshold).sum()
        if before is not None:
            step = wide - others[0].double()
            sums["step_squares"] += step.dot(step)
        if target is not None:
            direction = others[-1].double() - origin
            sums["along"] += delta.dot(direction)
            sums["target_squares"] += direction.dot(direction)
    within = tuple(int(sums.pop(f"within {threshold}")) for threshold in thresholds)
    unchanged = int(sums.pop("unchanged"))
    floats = {name: float(value) for name, value in sums.items()}
    return Change(entries=theta.numel(), unchanged=unchanged, within=within, **floats)


def total(changes: Iterable[Change]) -> Change:
    """Add up the changes of several tensors."""
    parts = list(changes)
    sums: dict[str, Any] = {
        field.name: fsum(getattr(part, field.name) for part in parts)
        for field in fields(Change)
        if field.name not in ("largest", "within")
    }
    sums |= {name: int(sums[name]) for name in ("entries", "unchanged")}
    within = tuple(map(sum, zip(*(part.within for part in parts), strict=True)))
    return Change(largest=max(part.largest for part in parts), within=within, **sums)


def changes(
    named: Iterable[tuple[str, Tensor]],
    base: Weights,
    thresholds: Sequence[float],
    before: Weights | None = None,
    target: Weights | None = None,
) -> dict[str, Change]:
    """Measure the ``change`` of every tensor of ``named``, reading the tensors of one name at a time."""
    return {
        name: change(
            theta,
            base.read(name),
            thresholds,
            None if before is None else before.read(name),
            None if target is None else target.read(name),
        )
        for name, theta in named
    }


def table(by_name: Mapping[str, Change], labels: Sequence[str], top: int, steps: bool) -> dict[str, Any]:
    """Turn changes into tables of plain values: in all, by module group, by layer, and the largest ones.

    A row has ``norm``, ``norm_relative`` (to the base's norm), ``mean_change`` and ``max_change`` of |delta|,
    and ``step_norm``. ``sparsity_<label>`` is the share of all entries that changed by no more than the
    label's threshold; ``sparsity_<label>_tensors`` is the unweighted mean of that share over tensors, as in
    arXiv 2601.20861. The label ``ulp`` stands for entries that the base's dtype cannot tell from the base.

    Args:
        by_name: the change of each tensor, as ``changes`` returns them.
        labels: labels of the thresholds that ``changes`` was given.
        top: how many tensors to list.
        steps: whether ``changes`` was given the centre before the update.
    """

    def row(names: Iterable[str]) -> dict[str, Any]:
        return _row([by_name[name] for name in names], labels, steps)

    def by_group(names: Iterable[str]) -> dict[str, Any]:
        grouped = _sorted_by(group_of, names)
        return {group: row(grouped[group]) for group in GROUPS if group in grouped}

    layers = {layer: names for layer, names in _sorted_by(layer_of, by_name).items() if layer is not None}
    relative = sorted(by_name, key=lambda name: -(by_name[name].relative or 0.0))
    largest = sorted(by_name, key=lambda name: -by_name[name].largest)
    return {
        "all": row(by_name),
        "groups": by_group(by_name),
        "layers": {str(at): {**row(layers[at]), "groups": by_group(layers[at])} for at in sorted(layers)},
        "largest_relative": [{"tensor": name, **row([name])} for name in relative[:top]],
        "largest_change": [{"tensor": name, **row([name])} for name in largest[:top]],
    }


def _sorted_by(key: Callable[[str], T], names: Iterable[str]) -> dict[T, list[str]]:
    result: dict[T, list[str]] = defaultdict(list)
    for name in names:
        result[key(name)].append(name)
    return result


def _row(parts: Sequence[Change], labels: Sequence[str], steps: bool) -> dict[str, Any]:
    whole = total(parts)
    row = {
        "tensors": len(parts),
        "entries": whole.entries,
        "norm": whole.norm,
        "norm_relative": whole.relative,
        "mean_change": whole.absolute / whole.entries,
        "max_change": whole.largest,
        **({"step_norm": sqrt(whole.step_squares)} if steps else {}),
    }
    for place, label in enumerate([*labels, "ulp"]):
        row[f"sparsity_{label}"] = whole.sparsity[place]
        row[f"sparsity_{label}_tensors"] = fsum(part.sparsity[place] for part in parts) / len(parts)
    return row


def brief(rows: Mapping[str, Any]) -> dict[str, Any]:
    """Keep only the norms of a ``table``: in all, by module group and by layer."""

    def norms(row: Mapping[str, Any]) -> dict[str, Any]:
        return {key: row[key] for key in ("norm", "norm_relative", "step_norm") if key in row}

    parts = {kind: {key: norms(row) for key, row in rows[kind].items()} for kind in ("groups", "layers")}
    return norms(rows["all"]) | parts


def check_geometry(owner: str, thresholds: Sequence[float], top: int) -> None:
    """Check the options of a ``table``.

    Args:
        owner: what has the options, for messages.
        thresholds: of the sparsities.
        top: how many tensors to list.

    Raises:
        UsageError: a value is outside its range.
    """
    if top < 1:
        raise UsageError(f"{owner}.top is {top}: give a whole number of at least 1.")
    if len(set(thresholds)) < len(thresholds) or not all(0 < threshold < 1 for threshold in thresholds):
        raise UsageError(
            f"thresholds are {thresholds}: give different changes above 0 and below 1, for example 1e-6."
        )


def labels(thresholds: Iterable[float]) -> list[str]:
    """Return the names that thresholds have in tables: ``1e-6``."""
    return [np.format_float_scientific(each, trim="-", exp_digits=1) for each in thresholds]


def metrics(rows: Mapping[str, Any]) -> dict[str, float]:
    """Name the numbers of a ``table`` for loggers: those in all, and the norm of each module group."""
    counts = ("tensors", "entries")
    named = {f"geometry/{key}": value for key, value in rows["all"].items() if key not in counts}
    for group, row in rows["groups"].items():  # their prefixes give them groups of charts of their own
        named[f"geometry_group/{group}"] = row["norm"]
        if "step_norm" in row:
            named[f"geometry_step/{group}"] = row["step_norm"]
    return {name: value for name, value in named.items() if value is not None}
