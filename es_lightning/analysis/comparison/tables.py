"""What callbacks and ``es-lightning analyze`` have left of the change of the weights, KL and forgetting."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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
    with _intact(path):
        values = from_json(path.read_text(encoding="utf-8", errors="replace"))
        if not isinstance(values, dict):
            raise ValueError("it is no mapping")
        return values


@contextmanager
def _intact(path: Path) -> Iterator[None]:
    """Turn whatever a damaged table leads to into one sentence."""
    try:
        yield
    except UsageError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} is damaged: it holds no such table. Move it away.") from error


def series_of(folder: Path) -> dict[str, Points]:
    """Return the norm of the change and the divergences, by updates done.

    Raises:
        UsageError: a table is damaged.
    """
    with _intact(folder / GEOMETRY):
        rows = read_mapping(folder / GEOMETRY).get("history", [])
        norms = _points([(row["generation"], row["norm"]) for row in rows])
    with _intact(folder / DIVERGENCE):
        divergences = _divergences(read_mapping(folder / DIVERGENCE).get("rows", []))
    return ({"norm": norms} if norms else {}) | divergences


def _divergences(rows: Sequence[Mapping[str, float]]) -> dict[str, Points]:
    names = dict.fromkeys(name for row in rows for name in row if name.startswith("kl_"))
    per_token = [
        name
        for name in names
        if not any(name.endswith(end) and name.removesuffix(end) in names for end in _ENDS)
    ]
    return {
        name: _points([(row["generation"], row[name]) for row in rows if name in row]) for name in per_token
    }


def _points(values: list[tuple[float, float]]) -> Points:
    return [(int(step), float(value)) for step, value in values if isfinite(value)]


def finals_of(folder: Path) -> dict[str, float]:
    """Return norm, relative norm and sparsities of the last measurement.

    Raises:
        UsageError: the table is damaged.
    """
    with _intact(folder / GEOMETRY):
        metrics = read_mapping(folder / GEOMETRY).get("metrics", {})
        named = {name.removeprefix("geometry/"): value for name, value in metrics.items()}
        return {
            name: float(value)
            for name, value in named.items()
            if name in ("norm", "norm_relative") or (name.startswith("sparsity_") and "tensors" not in name)
        }


def forgotten_of(folder: Path) -> dict[str, tuple[float, float]]:
    """Return the change of each prior task's reward with its standard error, NaN where it has none.

    Raises:
        UsageError: the table is damaged.
    """
    with _intact(folder / FORGETTING):
        tasks = read_mapping(folder / FORGETTING).items()
        return {name: (float(row["change"]), _number(row.get("change_se"))) for name, row in tasks}


def _number(value: float | None) -> float:
    return nan if value is None else float(value)
