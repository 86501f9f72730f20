"""The numbers of a probe as plain rows, one mapping a line: for CSV files, pictures, tables and MLflow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from es_lightning.analysis.intervals import Estimate
from es_lightning.landscape.arrays import Array
from es_lightning.landscape.probing.protocols import CHOSEN, ProtocolRow
from es_lightning.landscape.probing.summary import ProbeTable, SigmaSummary, shown_size
from es_lightning.landscape.statistics.held_out import HeldOutGain

Row = dict[str, Any]
GAINS = ("held_out", "held_out_low", "held_out_high", "over_mean", "over_mean_low", "over_mean_high")
"""Columns of what the chosen gain on held-out prompts: over the centre, and over the mean candidate."""


def curve_rows(summaries: Sequence[SigmaSummary], headroom: float | None) -> list[Row]:
    """Return per sigma and N: best-of-N with its intervals, the null's, and the held-out gain.

    Args:
        summaries: of all sigmas.
        headroom: largest reward minus the centre's; None leaves the normalised columns empty.
    """
    return [row for summary in summaries for row in _curve(summary, headroom)]


def _curve(summary: SigmaSummary, headroom: float | None) -> Iterator[Row]:
    curve, held_out = summary.curve, summary.held_out
    low, high = curve.batch_interval()
    for place in range(curve.largest):
        size = place + 1
        row: Row = {"sigma": summary.sigma, "n": size}
        row |= _triple("best", curve.best, curve.low, curve.high, place)
        row["best_of_headroom"] = None if headroom is None else row["best"] / headroom
        row["batch_error"] = _number(curve.batch_error[place])
        row |= {"batch_low": _number(low[place]), "batch_high": _number(high[place])}
        row["null"] = float(curve.null[place])
        row |= dict.fromkeys((*GAINS, "prompt_error", "candidate_error", "seen", "p_choice"))
        if held_out is not None and size in held_out.sizes:
            at = held_out.sizes.index(size)
            row |= _gains(held_out, at)
            row["prompt_error"] = float(held_out.prompt_error[at])
            row["candidate_error"] = float(held_out.candidate_error[at])
            row["seen"] = float(held_out.seen[at])
            row["p_choice"] = None if held_out.p_choice is None else float(held_out.p_choice[at])
        yield row


def change_rows(summaries: Sequence[SigmaSummary]) -> list[Row]:
    """Return the change of the reward of every candidate."""
    return [
        {"sigma": summary.sigma, "batch": batch, "candidate": candidate, "change": float(change)}
        for summary in summaries
        for batch, of_batch in enumerate(summary.changes)
        for candidate, change in enumerate(of_batch)
    ]


def sigma_rows(table: ProbeTable, summaries: Sequence[SigmaSummary], headroom: float | None) -> list[Row]:
    """Return per sigma all numbers that are one for a sigma.

    Args:
        table: the rewards.
        summaries: of all sigmas.
        headroom: largest reward minus the centre's; None leaves the normalised columns empty.
    """
    return [_sigma(table, summary, headroom) for summary in summaries]


def _sigma(table: ProbeTable, summary: SigmaSummary, headroom: float | None) -> Row:
    numbers, curve, held_out = summary.statistics, summary.curve, summary.held_out
    batches, candidates = summary.changes.shape
    row: Row = {"name": table.name, "task": table.task, "parameters": table.parameters}
    row |= {"sigma": summary.sigma, "batches": batches, "candidates": candidates}
    row |= {"prompts": len(table.centre), "centre": float(table.centre.mean()), "headroom": headroom}
    row |= _estimate("improve", numbers.improve) | _estimate("improve_batch", numbers.improve_batches)
    row |= {"zeros": numbers.zeros, "deviation": numbers.deviation}
    row |= _estimate("mean", numbers.mean) | _estimate("mean_batch", numbers.mean_batches)
    for level, quantile in numbers.quantiles.items():
        row |= _estimate(f"q_{level:g}", quantile)
    top = row["q_0.95"]
    row["q_0.95_of_headroom"] = None if headroom is None else top / headroom
    at = None if held_out is None else shown_size(held_out)
    size = min(30, curve.largest) if held_out is None or at is None else held_out.sizes[at]
    row["n"] = size
    row |= _triple("best", curve.best, curve.low, curve.high, size - 1)
    row["best_of_headroom"] = None if headroom is None else row["best"] / headroom
    row |= {"null": float(curve.null[size - 1]), "p_null": curve.p_null, "step": curve.step}
    row["largest_n"] = curve.largest
    for each in curve.sizes:
        row |= {f"best_{each}": float(curve.best[each - 1]), f"null_{each}": float(curve.null[each - 1])}
    low, high = curve.n90_between or (None, None)
    row |= {"n90": curve.n90, "n90_low": low, "n90_high": high, "null_n90": curve.null_n90}
    row |= dict.fromkeys((*GAINS, "seen", "p_choice"))
    if held_out is not None and at is not None:
        row |= _gains(held_out, at)
        row["seen"] = float(held_out.seen[at])
        row["p_choice"] = None if held_out.p_choice is None else float(held_out.p_choice[at])
    return row | _estimate("dimension", summary.dimension)


def model_rows(rows: Sequence[ProtocolRow]) -> list[Row]:
    """Return both protocols' rows; ``line`` is what a legend says of a row, ``chosen`` whose sigma it is."""
    return [
        {
            "name": row.name,
            "parameters": row.parameters,
            "protocol": row.protocol,
            "sigma": row.shown_sigma,
            "line": row.protocol if row.protocol == CHOSEN else f"sigma {row.shown_sigma} for all",
            "chosen": row.protocol == CHOSEN,
            "n": row.size,
        }
        | _estimate("improve", row.improve)
        | _estimate("gain", row.gain)
        | {"sigma_all": row.sigma_all}
        | _estimate("improve_all", row.improve_all)
        | {"best_all": row.best_all}
        for row in rows
    ]


def comparison_rows(
    tables: Sequence[ProbeTable],
    summaries: Sequence[Sequence[SigmaSummary]],
) -> tuple[list[Row], list[Row]]:
    """Return the rows of several models, each with its name: by sigma and N, and by sigma.

    Args:
        tables: rewards of the models.
        summaries: of the sigmas of each.
    """
    curves, sigmas = list[Row](), list[Row]()
    for table, each in zip(tables, summaries, strict=True):
        headroom = table.headroom()
        about = {"name": table.name, "parameters": table.parameters}
        curves += [about | row for row in curve_rows(each, headroom)]
        sigmas += sigma_rows(table, each, headroom)
    return curves, sigmas


def _gains(held_out: HeldOutGain, at: int) -> Row:
    over_mean = (held_out.over_mean, held_out.over_mean_low, held_out.over_mean_high)
    return _triple("held_out", held_out.gain, held_out.low, held_out.high, at) | _triple(
        "over_mean", *over_mean, at
    )


def _estimate(name: str, estimate: Estimate | None) -> Row:
    if estimate is None:
        return dict.fromkeys((name, f"{name}_low", f"{name}_high"))
    ends = {f"{name}_low": _number(estimate.low), f"{name}_high": _number(estimate.high)}
    return {name: _number(estimate.value), **ends}


def _triple(name: str, value: Array, low: Array, high: Array, place: int) -> Row:
    ends = {f"{name}_low": _number(low[place]), f"{name}_high": _number(high[place])}
    return {name: float(value[place]), **ends}


def _number(value: float) -> float | None:
    """A number, or None where it is not known: CSV and JSON have no NaN."""
    return float(value) if np.isfinite(value) else None
