"""The report of the tests of degenerate improving updates: rows, a picture and words."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from math import isnan, nan
from pathlib import Path
from typing import Any

import numpy as np

from es_lightning.errors import UsageError
from es_lightning.landscape.curvature.degenerate import SharedDirection, explained
from es_lightning.landscape.curvature.settings import DegenerateSettings
from es_lightning.landscape.curvature.truth import Truth
from es_lightning.landscape.probing.results import ProbeResults
from es_lightning.reports import degenerate_picture
from es_lightning.system.files import replacing

log = logging.getLogger(__name__)
Row = dict[str, Any]
MANY_CONTROLS = 99
"""With as many p can be 0.01; the least that are taken leave it at 0.048, which one look in 20 gives."""


def write_report(
    results: ProbeResults,
    sigmas: Sequence[float],
    shared: Sequence[SharedDirection | None],
    truth: Truth | None,
    settings: DegenerateSettings,
    folder: Path,
) -> None:
    """Write rows, picture and words.

    Args:
        results: what was tested.
        sigmas: noise scales that were tested.
        shared: of each sigma the shared direction; None where too few candidates improve.
        truth: gradient and Hessian vectors; None where the task has no right answers.
        settings: of the tests.
        folder: of the report; it is made.

    Raises:
        UsageError: no sigma can be tested.
        StorageError: the folder cannot be written.
    """
    directions = [
        _direction_row(sigma, found) for sigma, found in zip(sigmas, shared, strict=True) if found is not None
    ]
    explains = [
        row for sigma in sigmas if truth is not None for row in _regressions(results, sigma, truth, settings)
    ]
    if not directions and not explains:
        raise UsageError(
            f"{results.folder} has no sigma that can be tested: measure more candidates, or another sigma."
        )
    title = f"Do improving members share a direction? {results.header.get('model', '')}"
    controls = [
        {"sigma": sigma, "control": index, "gain": float(gain)}
        for sigma, found in zip(sigmas, shared, strict=True)
        if found is not None
        for index, gain in enumerate(found.controls)
    ]
    degenerate_picture.draw(folder / "degenerate.png", directions, controls, explains, title)
    text = "\n".join([f"# {title}", *map(_said, directions), *map(_regressed, explains)]) + "\n"
    with replacing(folder / "verdict.md") as file:
        file.write(text.encode())
    log.info("%s", text)
    log.info("settings %s; tables and picture are in %s.", asdict(settings), folder)


def _regressions(
    results: ProbeResults, sigma: float, truth: Truth, settings: DegenerateSettings
) -> Iterator[Row]:
    """Test (b) at one sigma: changes on coordinates; of pairs odd parts, and even parts on squares."""
    changes, signs, seeds = results.at(sigma)
    means, places = changes.mean(axis=1), {seed: index for index, seed in enumerate(results.seeds)}
    own = np.array([places[seed] for seed in seeds])
    top, converged = truth.along_top(settings.vectors)
    linear = np.column_stack([truth.along / np.sqrt(truth.gradient_square), top])
    if results.header["antithetic"]:
        odd, even, own = (means[::2] - means[1::2]) / 2, (means[::2] + means[1::2]) / 2, own[::2]
        kinds = [("gradient", odd, linear[own, :1]), ("gradient and Hessian vectors", odd, linear[own])]
        kinds.append(("squares, of the even parts", even, linear[own] ** 2))
    else:
        signed = signs[:, None] * linear[own]
        kinds = [("gradient", means, signed[:, :1]), ("gradient and Hessian vectors", means, signed)]
        kinds.append(("these and their squares", means, np.column_stack([signed, signed**2])))
    for name, values, coordinates in kinds:
        row: Row = {
            "sigma": sigma,
            "coordinates": name,
            "count": coordinates.shape[1],
            "vectors": 0 if name == "gradient" else top.shape[1],
            "converged": 0 if name == "gradient" else converged,
            "members": len(values),
        }
        try:
            found = explained(values, coordinates, settings.seed)
        except UsageError as error:
            log.warning("Sigma %g, %s: %s", sigma, name, error)
            continue
        row |= {"share": found.share, "adjusted": found.adjusted, "p_value": found.p_value}
        yield row | {"null_mean": found.null[0], "null_95": found.null[1]}


def _direction_row(sigma: float, found: SharedDirection) -> Row:
    low, high = found.interval
    row: Row = {"sigma": sigma, "improving": found.improving, "gain": found.gain}
    row |= {"control": float(found.controls.mean()), "member_deviation": found.member_deviation}
    row |= {"deviations": found.deviations, "low": low, "high": high, "p_value": found.p_value}
    scale = found.member_deviation or nan
    return row | {"expected": found.expected / scale, "controls": len(found.controls)}


def _said(row: Row) -> str:
    verdict = "share a direction" if row["p_value"] < 0.05 else "share no direction that is seen"
    hint = ""
    if row["controls"] < MANY_CONTROLS and row["p_value"] <= 1 / (row["controls"] + 1):
        verdict = "hint at a shared direction"
        hint = (
            f" p is at the floor of {row['controls']} controls: give --degenerate.controls {MANY_CONTROLS} "
            "for more than a hint."
        )
    start = f"- sigma {row['sigma']:g}: the {row['improving']} improving candidates {verdict}. Their mean"
    controls, chance = f"{row['controls']} directions of permuted rewards", f"p = {row['p_value']:.3f}"
    if not row["member_deviation"]:
        return (
            f"{start} direction earns {row['gain']:+.4g}, and {controls} earn {row['control']:+.4g} on "
            f"average, {chance}. No candidate changes what these prompts earn, so there is no unit to "
            f"compare with.{hint}"
        )
    told = f"{start} direction earns {row['gain']:+.4g}, {row['deviations']:.2f} member deviations"
    agreed = f"{row['expected']:.2f} would be theirs if changes were linear in the noise.{hint}"
    if isnan(row["low"]):
        return f"{told} above {controls}, which earn the same as one another, {chance}; {agreed}"
    return f"{told} ({row['low']:.2f} to {row['high']:.2f}) above {controls}, {chance}; {agreed}"


def _regressed(row: Row) -> str:
    known = f", {row['converged']} of {row['vectors']} vectors have converged" if row["vectors"] else ""
    return (
        f"- sigma {row['sigma']:g}, {row['coordinates']} ({row['count']}{known}): R^2 {row['share']:.3f} "
        f"(adjusted {row['adjusted']:.3f}), permuted {row['null_mean']:.3f} (95th percentile "
        f"{row['null_95']:.3f}), p = {row['p_value']:.3f}, {row['members']} rows."
    )
