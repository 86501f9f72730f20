"""What callbacks and ``es-lightning analyze`` have left of the change of the weights, KL and forgetting."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import isfinite, nan
from pathlib import Path
from typing import Any, TypeVar

from es_lightning.analysis.beside_base import PER_TOKEN
from es_lightning.analysis.comparison.runs import Points
from es_lightning.errors import UsageError
from es_lightning.journal.schema import from_json
from es_lightning.system.text import metric_name

T = TypeVar("T")
SUMMARY = "summary.json"
GEOMETRY, DIVERGENCE, FORGETTING = (
    "tables/update_geometry.json",
    "tables/kl_drift.json",
    "tables/forgetting.json",
)
ANALYSIS = "analysis.json"
"""Of ``es-lightning analyze --output RUN``: it stands in for what the callbacks have not left."""
TABLES = (GEOMETRY, DIVERGENCE, FORGETTING, ANALYSIS)

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


def _analysis(folder: Path) -> dict[str, Any]:
    """Return what ``analyze`` has found of a run's final model; empty if the file is of another one.

    A run that went on, or that another one has replaced since, has another checksum in its summary.
    """
    found = read_mapping(folder / ANALYSIS)
    final = read_mapping(folder / SUMMARY).get("centre_checksum")
    return found if final is not None and found.get("centre_checksum") == final else {}


def series_of(folder: Path, last: int) -> dict[str, Points]:
    """Return the norm of the change and the divergences, by updates done.

    Args:
        folder: of the run.
        last: updates done at its last evaluation, to which an analysis of its model belongs.

    Raises:
        UsageError: a table is damaged.
    """
    with _intact(folder / GEOMETRY):
        rows = read_mapping(folder / GEOMETRY).get("history", [])
        norms = _points([(row["generation"], row["norm"]) for row in rows])
    with _intact(folder / DIVERGENCE):
        divergences = _divergences(read_mapping(folder / DIVERGENCE).get("rows", []))
    with _intact(folder / ANALYSIS):
        divergences = _analysed(_analysis(folder), last) | divergences
    return ({"norm": norms} if norms else {}) | divergences


def _analysed(analysis: Mapping[str, Any], last: int) -> dict[str, Points]:
    found, task = analysis.get("divergence", {}), metric_name(analysis.get("task", ""))
    named = {f"{name}/{task}": found[name] for name in PER_TOKEN if name in found}
    return {name: points for name, value in named.items() if (points := _points([(last, value)]))}


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
        finals = _finals(read_mapping(folder / GEOMETRY).get("metrics", {}))
    with _intact(folder / ANALYSIS):
        return finals or _finals(_analysis(folder).get("geometry", {}).get("metrics", {}))


def _finals(metrics: Mapping[str, Any]) -> dict[str, float]:
    named = {name.removeprefix("geometry/"): value for name, value in metrics.items()}
    return {
        name: float(value)
        for name, value in named.items()
        if name in ("norm", "norm_relative") or (name.startswith("sparsity_") and "tensors" not in name)
    }


def forgotten_of(folder: Path) -> dict[str, tuple[float, float]]:
    """Return the change of each prior task's accuracy with its standard error, NaN where it has none.

    The reward takes its place where the task does not say what is right.

    Raises:
        UsageError: the table is damaged.
    """
    return _of_prior(folder, _changes)


def prior_metrics(folder: Path) -> dict[str, float]:
    """Return the changes of prior tasks by the names under which ``Forgetting`` logs them.

    Raises:
        UsageError: the table is damaged.
    """
    return _of_prior(folder, _named)


def _of_prior(folder: Path, read: Callable[[Mapping[str, Any]], dict[str, T]]) -> dict[str, T]:
    """Read what the callback has left of prior tasks, or an analysis of the final model."""
    with _intact(folder / FORGETTING):
        of_callback = read(read_mapping(folder / FORGETTING))
    with _intact(folder / ANALYSIS):
        return of_callback or read(_analysis(folder).get("forgetting", {}))


def _named(tasks: Mapping[str, Any]) -> dict[str, float]:
    named: dict[str, float] = {}
    for task, row in tasks.items():
        quantities = {"": row, "_accuracy": row.get("accuracy") or {}}
        for quantity, numbers in quantities.items():
            for name in ("change", "change_se"):
                if (value := numbers.get(name)) is not None:
                    named[f"prior/{task}{quantity}_{name}"] = float(value)
    return named


def prior_of(folder: Path) -> dict[str, dict[str, float]]:
    """Return the same change of each prior task by its problems, as an analysis of the final model has it.

    Raises:
        UsageError: the table is damaged.
    """
    with _intact(folder / ANALYSIS):
        tasks = _analysis(folder).get("forgetting", {})
        return {name: _numbers(row["by_problem"]) for name, row in tasks.items() if row.get("by_problem")}


def _numbers(changes: Mapping[str, Any]) -> dict[str, float]:
    return {str(problem): float(change) for problem, change in changes.items()}


def _changes(tasks: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    told = {name: row.get("accuracy") or row for name, row in tasks.items()}
    return {name: (float(row["change"]), _number(row.get("change_se"))) for name, row in told.items()}


def _number(value: float | None) -> float:
    return nan if value is None else float(value)
