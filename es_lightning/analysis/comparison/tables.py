"""What callbacks and ``es-lightning analyze`` have left of the change of the weights, KL and forgetting."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite, nan
from pathlib import Path
from typing import Any

from es_lightning.analysis.comparison.runs import Points
from es_lightning.errors import UsageError
from es_lightning.journal.schema import from_json

GEOMETRY, DIVERGENCE, FORGETTING = (
    "tables/update_geometry.json",
    "tables/kl_drift.json",
    "tables/forgetting.json",
)
TABLES = (GEOMETRY, DIVERGENCE, FORGETTING)

_ENDS = ("_se", "_completion")  # of the names of what is told beside a divergence per token


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a JSON file; empty if there is none.

    Raises:
        UsageError: it is damaged.
    """
    if not path.is_file():
        return {}
    try:
        values = from_json(path.read_text(encoding="utf-8", errors="replace"))
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise UsageError(f"{path} is damaged: it holds no JSON mapping. Move it away.")
    return values


def series_of(folder: Path) -> dict[str, Points]:
    """Return the norm of the change and the divergences, by updates done."""
    series: dict[str, Points] = {}
    norms = [(row["generation"], row["norm"]) for row in read_mapping(folder / GEOMETRY).get("history", [])]
    if norms:
        series["norm"] = _points(norms)
    rows = read_mapping(folder / DIVERGENCE).get("rows", [])
    names = dict.fromkeys(name for row in rows for name in row if name.startswith("kl_"))
    for name in names:
        if not any(name.endswith(end) and name.removesuffix(end) in names for end in _ENDS):
            series[name] = _points([(row["generation"], row[name]) for row in rows if name in row])
    return series


def _points(values: list[tuple[float, float]]) -> Points:
    return [(int(step), float(value)) for step, value in values if isfinite(value)]


def finals_of(folder: Path) -> dict[str, float]:
    """Return norm, relative norm and sparsities of the last measurement."""
    metrics = read_mapping(folder / GEOMETRY).get("metrics", {})
    named = {name.removeprefix("geometry/"): value for name, value in metrics.items()}
    return {
        name: float(value)
        for name, value in named.items()
        if name in ("norm", "norm_relative") or (name.startswith("sparsity_") and "tensors" not in name)
    }


def forgotten_of(folder: Path) -> dict[str, tuple[float, float]]:
    """Return the change of each prior task's reward with its standard error, NaN where it has none."""
    tasks: Mapping[str, Mapping[str, Any]] = read_mapping(folder / FORGETTING)
    known = {name: row for name, row in tasks.items() if row.get("change") is not None}
    return {name: (_number(row["change"]), _number(row.get("change_se"))) for name, row in known.items()}


def _number(value: float | None) -> float:
    return nan if value is None else float(value)
