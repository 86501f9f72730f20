"""The files of a comparison: the page, the table, the figures, and all numbers as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import Any

from es_lightning.analysis.comparison.comparing import Comparison, Reached
from es_lightning.reports.comparison_cells import markdown
from es_lightning.reports.comparison_page import flags, lines, method, page, title
from es_lightning.reports.comparison_picture import pictures_of
from es_lightning.reports.comparison_tables import tables_of
from es_lightning.system.files import replacing

PAGE, TABLE, NUMBERS, FIGURES = "report.html", "report.md", "numbers.json", "figures"


def write(found: Comparison, folder: Path, kl_limit: float) -> None:
    """Write everything; files of an earlier comparison are replaced.

    Args:
        found: the comparison.
        folder: made if it is not there.
        kl_limit: that suspicions were raised with.

    Raises:
        StorageError: the disk is full or the folder cannot be written.
    """
    tables, pictures = tables_of(found), [each.drawn() for each in pictures_of(found)]
    warnings = [f"Suspected reward hacking in {each.run}: {'; '.join(each.signs)}." for each in flags(found)]
    said = [*lines(found), *warnings, *method(found, kl_limit)]
    contents: dict[str, bytes] = {
        PAGE: page(found, tables, pictures, kl_limit).encode(),
        TABLE: markdown(title(found), said, tables).encode(),
        NUMBERS: f"{json.dumps(numbers(found), indent=1, allow_nan=False)}\n".encode(),
    }
    for each in pictures:
        contents |= {f"{FIGURES}/{each.name}.png": each.png, f"{FIGURES}/{each.name}.svg": each.svg}
    for name, content in contents.items():
        with replacing(folder / name) as file:
            file.write(content)


def numbers(found: Comparison) -> dict[str, Any]:
    """Return what the tables show with every digit, as values that JSON can hold; null is not known."""
    told: dict[str, Any] = _plain(
        {
            "task": found.task,
            "split": found.split,
            "arms": [
                {
                    "label": arm.label,
                    "runs": [{"name": run.name, "method": run.method, "seed": run.seed} for run in arm.runs],
                    "stability": asdict(stability),
                    "suspicions": suspicions,
                }
                for arm, stability, suspicions in zip(
                    found.arms, found.stability, found.suspicions, strict=True
                )
            ],
            "budgets": [
                {
                    "axis": at.axis,
                    "budget": at.budget,
                    "reached": [_reached(each) for each in at.reached],
                    "test": [each and _reached(each) for each in at.test],
                }
                for at in found.budgets
            ],
            "forgotten": {
                task: [each and asdict(each) for each in of_arms] for task, of_arms in found.forgotten.items()
            },
            "ends": {"split": found.ends[0], "reached": [_reached(each) for each in found.ends[1]]},
        }
    )
    return told


def _reached(reached: Reached) -> dict[str, Any]:
    return {
        "updates": [each.step for each in reached.evaluations],
        "cost": [asdict(each.cost) for each in reached.evaluations],
        "reward": asdict(reached.reward),
        "versus": reached.versus and asdict(reached.versus),
    }


def _plain(value: Any) -> Any:
    """Replace what is no number: JSON has no NaN."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not isfinite(value) else value
