"""The picture of both tests of degenerate improving updates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from es_lightning.reports.csv_file import write_csv
from es_lightning.reports.plots import ACCENT, INK, PALETTE, QUIET, save, sheet, style

Rows = Sequence[Mapping[str, Any]]


@style()
def draw(path: Path, directions: Rows, controls: Rows, explains: Rows, title: str) -> None:
    """Draw the gain of the improving members' mean direction among its controls, and R^2 beside its null.

    Args:
        path: PNG file to write; its tables are written beside it, ``directions.csv``, ``controls.csv`` and
            ``regression.csv``.
        directions: per sigma ``sigma``, ``gain`` and ``expected`` (in member deviations), ``control`` and
            ``member_deviation``.
        controls: per sigma and control ``sigma`` and ``gain``.
        explains: per sigma and set of coordinates ``sigma``, ``coordinates``, ``share``, ``null_mean`` and
            ``null_95``.
        title: line above the picture.
    """
    figure, [left, right] = sheet(title, columns=2, width=9.0, height=3.8)
    names = [f"{row['sigma']:g}" for row in directions]
    for place, row in enumerate(directions):
        own = [each["gain"] for each in controls if each["sigma"] == row["sigma"]]
        first = place == 0
        left.plot(
            [place] * len(own), own, "o", ms=4, color=QUIET, label="permuted rewards" if first else None
        )
        left.plot(place, row["gain"], "D", ms=7, color=ACCENT, label="improving members" if first else None)
        expected = row["control"] + row["expected"] * row["member_deviation"]
        left.plot(
            place, expected, "_", ms=18, mew=1.6, color=INK, label="if all is linear" if first else None
        )
    left.axhline(0, color=QUIET, lw=0.8)
    left.set_xticks(range(len(names)), names)
    left.set_xlim(-0.6, max(len(names) - 0.4, 0.6))
    left.set_xlabel("sigma (units of the weights)")
    left.set_ylabel("change of the reward, prompts that score")
    if directions:
        left.legend()
    sigmas = list(dict.fromkeys(row["sigma"] for row in explains))
    kinds = list(dict.fromkeys(row["coordinates"] for row in explains))
    for index, kind in enumerate(kinds):
        own_rows = [row for row in explains if row["coordinates"] == kind]
        at = [sigmas.index(row["sigma"]) + 0.8 * (index + 0.5) / len(kinds) - 0.4 for row in own_rows]
        width, color = 0.7 / len(kinds), PALETTE[index % len(PALETTE)]
        right.bar(at, [row["share"] for row in own_rows], width, color=color, alpha=0.75, label=kind)
        right.plot(
            at,
            [row["null_95"] for row in own_rows],
            "_",
            ms=14,
            mew=1.6,
            color=INK,
            label="permuted, 95th percentile" if index == 0 else None,
        )
    right.set_xticks(range(len(sigmas)), [f"{sigma:g}" for sigma in sigmas])
    right.set_xlabel("sigma (units of the weights)")
    right.set_ylabel("R² of the changes")
    right.set_ylim(0, 1.4)  # room for the legend above bars of 1
    right.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1])
    if explains:
        right.legend()
    save(figure, path)
    for name, rows in (("directions", directions), ("controls", controls), ("regression", explains)):
        write_csv(path.with_name(f"{name}.csv"), rows)
