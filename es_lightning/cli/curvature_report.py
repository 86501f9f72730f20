"""The report of a measurement of curvature: tables and pictures, and the verdict beside them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from es_lightning.cli.curvature_measured import LIKELIHOOD, REWARD, Measured
from es_lightning.cli.curvature_verdict import known_eigenvalues, verdict
from es_lightning.landscape.curvature.budget import (
    budget_rows,
    density_rows,
    needed_rows,
    seen_rows,
    spectrum_rows,
)
from es_lightning.landscape.curvature.lanczos import Spectrum
from es_lightning.landscape.curvature.truth import Truth
from es_lightning.reports import curvature_picture
from es_lightning.reports.csv_file import write_csv
from es_lightning.system.files import replacing

log = logging.getLogger(__name__)
Row = dict[str, Any]

TRUE, SEEDS, CONTROL = "autograd", "common seeds", "permuted rewards"


def write_report(measured: Measured, folder: Path) -> str:
    """Write tables, pictures and the verdict into a folder, and log the verdict.

    Args:
        measured: all that was measured.
        folder: of the report; it is made.

    Returns:
        The verdict, plain text.
    """
    truth, title = measured.truth, f"{measured.model}, {measured.task}"
    budgets = [
        row
        for objective in measured.objectives
        for sigma in measured.settings.sigmas
        for row in budget_rows(
            measured.pairs(sigma, objective),
            objective,
            truth.gradient_square if truth is not None and objective == LIKELIHOOD else None,
            measured.noise_of(objective),
        )
    ]
    first = [row for row in budgets if row["objective"] == measured.objectives[0]]
    curvature_picture.budgets(folder / "budget.png", first, f"Curvature from pairs: {title}", budgets)
    if truth is not None:
        rows = list(_direction_rows(measured, truth))
        curvature_picture.directions(folder / "directions.png", rows, f"Pair by pair: {title}")
    spectra, unit = _spectra(measured), measured.unit
    if spectra:
        words = f"Eigenvalues of the Hessian: {title}"
        curvature_picture.spectra(folder / "spectra.png", spectra, words, unit)
    if densities := density_rows(_quadratures(measured)):
        words = f"Density of the Hessian's eigenvalues: {title}"
        curvature_picture.density(folder / "density.png", densities, words, unit)
    square = measured.at_largest.trace_square.value
    if square > 0 and len(values := known_eigenvalues(measured)):
        write_csv(folder / "seeds.csv", needed_rows(values, square))
    text = "\n\n".join([f"# Curvature of {title}", *verdict(measured)]) + "\n"
    with replacing(folder / "verdict.md") as file:
        file.write(text.encode())
    log.info("%s", text)
    log.info("Tables and pictures are in %s.", folder)
    return text


def _spectra(measured: Measured) -> list[Row]:
    rows = [] if measured.truth is None else spectrum_rows(TRUE, *measured.truth.top)
    if "seeds" in measured.sampled:
        rows += seen_rows(SEEDS, measured.sampled["seeds"].krylov, measured.noise())
    if "control" in measured.sampled:
        krylov = measured.sampled["control"].krylov
        rows += spectrum_rows(CONTROL, krylov.ritz[0], krylov.converged)
    return rows


def _quadratures(measured: Measured) -> dict[str, Spectrum]:
    """Return the Ritz values and weights of all that was found by Lanczos steps."""
    krylov = None if measured.truth is None else measured.truth.krylov
    found = {} if krylov is None else {TRUE: Spectrum.of([krylov])}
    kinds = (("seeds", SEEDS), ("control", CONTROL))
    return found | {
        name: measured.sampled[kind].quadrature for kind, name in kinds if kind in measured.sampled
    }


def _direction_rows(measured: Measured, truth: Truth) -> Iterator[Row]:
    """Per sigma and pair, what was measured along it under each objective, and what autograd says of it."""
    for sigma in measured.settings.sigmas:
        tables = {name: measured.pairs(sigma, name) for name in measured.objectives}
        for index in range(measured.settings.pairs):
            row: Row = {"sigma": sigma, "pair": index, "true_slope": float(truth.along[index])}
            row["true_bend"] = float(truth.bends[index]) if index < len(truth.bends) else None
            for name, key in ((LIKELIHOOD, "likelihood"), (REWARD, "reward")):
                if name in tables:
                    row[f"{key}_slope"] = float(tables[name].slopes[index].mean())
                    row[f"{key}_bend"] = float(tables[name].bends[index].mean())
            yield row
