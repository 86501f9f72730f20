"""The picture of a step-size map: expected gain against the learning rate, and the score of each sigma."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from es_lightning.reports.plots import ACCENT, INK, PALETTE, QUIET, save, sheet, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Rows = Sequence[Mapping[str, Any]]
COLOURS = (INK, ACCENT, PALETTE[2], PALETTE[3])
RED = PALETTE[1]


@style()
def step_map(
    path: Path,
    gains: Rows,
    sigmas: Rows,
    chosen: Mapping[str, float],
    configured: Mapping[str, float],
    title: str,
) -> None:
    """Draw the gains of a run and of single updates against lr, and the score against sigma.

    Args:
        path: PNG file to write.
        gains: per population, number of updates and learning rate ``population``, ``updates``, ``lr``,
            ``gain``, ``gain_low`` and ``gain_high``, gains in units of the reward; of up to four curves, the
            first of which has a band.
        sigmas: per sigma ``sigma``, ``score``, ``score_low`` and ``score_high``, and ``smoothed`` if the
            choice was by that.
        chosen: ``lr`` and ``sigma`` that are advised; empty if none are.
        configured: ``lr`` and ``sigma`` of the config.
        title: line above the picture.
    """
    figure, [left, right] = sheet(title, columns=2, height=3.8)
    keys = list(dict.fromkeys((row["population"], row["updates"]) for row in gains))[: len(COLOURS)]
    curves = {key: [row for row in gains if (row["population"], row["updates"]) == key] for key in keys}
    for (key, rows), colour in zip(curves.items(), COLOURS, strict=False):
        lr, (size, updates) = [row["lr"] for row in rows], key
        label = f"N = {size}, {updates} update{'' if updates == 1 else 's'}"
        if key == keys[0]:  # bands of all would cover one another; the tables have them
            low, high = [row["gain_low"] for row in rows], [row["gain_high"] for row in rows]
            left.fill_between(lr, low, high, color=colour, alpha=0.15, lw=0)
            label += ", 5 to 95 %"
        left.plot(lr, [row["gain"] for row in rows], color=colour, lw=1.8, label=label)
    most = [row["gain"] for rows in curves.values() for row in rows]
    most += [row["gain_high"] for row in curves[keys[0]]]
    top = 1.15 * max(1e-9, *(value for value in most if value == value))  # none is known beyond the probe
    left.set_ylim(-0.6 * top, top)
    left.set_xlim(min(curves[keys[0]][-1]["lr"] / 100, configured["lr"] / 2), None)
    left.axhline(0, color=QUIET, lw=0.8)
    left.set_ylabel("expected gain (reward)")
    left.set_xlabel("learning rate (units of the weights)")
    left.set_xscale("log")
    _score(right, sigmas)
    for axes, name in ((left, "lr"), (right, "sigma")):
        axes.axvline(
            configured[name], color=QUIET, lw=1.2, ls=":", label=f"configured, {configured[name]:.2g}"
        )
        if name in chosen:
            axes.axvline(chosen[name], color=RED, lw=1.2, ls="--", label=f"advised, {chosen[name]:.2g}")
        axes.legend(fontsize=7)
    save(figure, path)


def _score(axes: Axes, rows: Rows) -> None:
    sigmas = [row["sigma"] for row in rows]
    low, high = [row["score_low"] for row in rows], [row["score_high"] for row in rows]
    draw_scores(axes, rows, INK)
    axes.axhline(0, color=QUIET, lw=0.8)
    axes.set_ylim(max(-0.6, min(-0.1, *low)), max(0.2, 1.1 * max(high)))
    axes.set_ylabel("score: (odd - even) / Var(R)")
    axes.set_xlabel("sigma (units of the weights)")
    axes.set_xscale("log")
    axes.set_xticks(sigmas, [f"{sigma:.2g}" for sigma in sigmas])
    axes.minorticks_off()


def draw_scores(axes: Axes, rows: Rows, colour: str) -> None:
    """Draw each sigma's own score with its interval, and the smoothed line if the choice was by that.

    Args:
        axes: to draw on.
        rows: per sigma ``sigma``, ``score``, ``score_low`` and ``score_high``, and perhaps ``smoothed``.
        colour: of both.
    """
    sigmas, scores = [row["sigma"] for row in rows], [row["score"] for row in rows]
    # A score may be a rounding error outside of an interval of no width, and bars have to reach outwards.
    below = [max(0.0, row["score"] - row["score_low"]) for row in rows]
    above = [max(0.0, row["score_high"] - row["score"]) for row in rows]
    axes.errorbar(
        sigmas,
        scores,
        [below, above],
        color=colour,
        fmt="o",
        ms=4,
        lw=1.2,
        capsize=3,
        label="score, 90 % interval",
    )
    if "smoothed" in rows[0]:
        smooth = [row["smoothed"] for row in rows]
        axes.plot(sigmas, smooth, color=colour, lw=1.6, alpha=0.6, label="smoothed, 1 : 2 : 1")
