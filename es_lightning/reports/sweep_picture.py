"""The picture of a sweep: the objective by trial, and against each key that was varied."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from es_lightning.reports.plots import ACCENT, INK, PALETTE, QUIET, save, sheet, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Row = Mapping[str, Any]
Rows = Sequence[Row]
RED = PALETTE[1]
DECADE = 10  # values that span more are drawn on a logarithmic axis


@style()
def sweep_picture(path: Path, rows: Rows, keys: Sequence[str], objective: str, best: Row | None) -> None:
    """Draw the objective of the complete trials against their number and against each key.

    Args:
        path: PNG file to write.
        rows: per trial ``trial``, ``state``, the keys, ``objective`` (None unless complete) and
            ``standard_error`` over the seeds (None for one seed), both in units of the objective.
        keys: that were varied.
        objective: its name.
        best: row of the best trial, which is marked; None if none is complete.
    """
    complete = [row for row in rows if row["objective"] is not None]
    ended = [row for row in rows if row["state"] in ("pruned", "failed")]
    figure, [first, *others] = sheet(_title(rows), columns=1 + len(keys), width=3.4 * (1 + len(keys)))
    _points(first, [row["trial"] for row in complete], complete)
    _best_so_far(first, complete)
    for row in ended:
        first.axvline(row["trial"], color=QUIET, lw=0.8, ls=":")
    first.set_xlabel("trial (dotted: pruned or failed)")
    first.set_ylabel(f"{objective} (higher is better)")
    for axes, key in zip(others, keys, strict=True):
        _points(axes, _places(axes, [row[key] for row in complete]), complete)
        axes.set_xlabel(key)
    if best is not None:
        for axes in (first, *others):
            axes.axhline(best["objective"], color=RED, lw=0.8, ls="--", label=f"best: trial {best['trial']}")
        first.legend(fontsize=7)
    save(figure, path)


def _title(rows: Rows) -> str:
    counts = {state: sum(row["state"] == state for row in rows) for state in ("complete", "pruned", "failed")}
    return "Sweep: " + ", ".join(f"{count} {state}" for state, count in counts.items() if count)


def _points(axes: Axes, places: Sequence[float], rows: Rows) -> None:
    """Draw objectives with their standard errors over seeds."""
    values = [row["objective"] for row in rows]
    errors = [row["standard_error"] or 0.0 for row in rows]
    axes.errorbar(places, values, yerr=errors, fmt="o", ms=4, color=ACCENT, ecolor=QUIET, lw=1.0)


def _best_so_far(axes: Axes, rows: Rows) -> None:
    best, top = [], -math.inf
    for row in rows:
        top = max(top, row["objective"])
        best.append(top)
    axes.step([row["trial"] for row in rows], best, where="post", color=INK, lw=1.2, label="best so far")


def _places(axes: Axes, values: Sequence[Any]) -> list[float]:
    """Return where values stand on an axis: numbers as they are, anything else in the order of its text."""
    numbers = [each for each in values if isinstance(each, int | float) and not isinstance(each, bool)]
    if len(numbers) == len(values):
        if numbers and 0 < min(numbers) * DECADE <= max(numbers):
            axes.set_xscale("log")
        elif any(isinstance(each, float) for each in numbers):
            from matplotlib.ticker import AutoLocator

            axes.xaxis.set_major_locator(AutoLocator())
        return [float(each) for each in numbers]
    names = sorted({str(each) for each in values})
    axes.set_xticks(range(len(names)), names, rotation=20)
    return [float(names.index(str(each))) for each in values]
