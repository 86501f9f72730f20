"""What ``simulate`` computes, prints and draws of landscapes whose answers are known."""

from __future__ import annotations

import logging
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

import numpy as np

from es_lightning.landscape.theory.steady_state import gap_per_dimension
from es_lightning.landscape.theory.toy import (
    Dimension,
    Escape,
    RiseAndDecay,
    Toy,
    dimensions,
    escapes,
    rise_and_decay,
)
from es_lightning.reports import toy_picture
from es_lightning.reports.csv_file import write_csv
from es_lightning.reports.toy_table import show

log = logging.getLogger(__name__)

WELL_STEPS, WELL_RUNS = 20_000, 200
FORMS = (
    "gap 1 - J_inf = alpha / 4 * d_eff * kappa in the model, kappa = sigma^2 / N;",
    "with z-scored rewards it is lr std(R) / (4 sigma N) * d_eff, sigma the noise scale of the weights",
)


def simulated(options: Namespace) -> None:
    """Simulate, print the tables, and write pictures and CSV.

    Args:
        options: of this command.

    Raises:
        UsageError: a number is outside its range, or there is no steady state.
    """
    names = ("dimension", "active", "stiff", "soft", "start", "alpha", "sigma")
    toy = Toy(**{name: getattr(options, name) for name in names}, populations=options.populations)
    alphas = [factor * toy.alpha for factor in (0.5, 1.0, 2.0) if factor * toy.alpha * toy.stiff < 2]
    curves = rise_and_decay(toy, options.steps, options.runs, options.seed)
    measured = dimensions(toy, alphas, options.seed)
    left = escapes(WELL_STEPS, WELL_RUNS, options.seed)
    _show_curves(curves, options.runs)
    _show_dimensions(measured)
    _show_escapes(left)
    _write(options, toy, curves, measured, left)
    log.info("pictures and tables are in %s", options.output)


def _peak(curve: RiseAndDecay) -> float:
    return np.nan if curve.model.peak is None else curve.model.peak


def _show_curves(curves: Sequence[RiseAndDecay], runs: int) -> None:
    rows = [
        {
            "N": curve.model.population,
            "peak at step": _peak(curve),
            "J at the peak": curve.height,
            "J_inf": curve.model.steady_reward,
            "decay": curve.height - curve.model.steady_reward,
            "J at the end": curve.exact[-1],
            "simulated": curve.mean[-1],
            "standard error": curve.error[-1],
            "largest distance": f"{curve.apart:.2f} (below {curve.allowed:.2f})",
        }
        for curve in curves
    ]
    agree = all(curve.apart < curve.allowed for curve in curves)
    verdict = (
        "agree" if agree else "DIFFER: the closed form or the simulation is wrong, or this is a rare chance"
    )
    below = (
        f"closed form and {runs} simulated runs {verdict}; largest distance over all steps in standard errors"
    )
    show("Rise and decay", rows, [below])


def _show_dimensions(measured: Sequence[Dimension]) -> None:
    rows, below = [], []
    for each in measured:
        state = each.measured
        rows.append(
            {
                "alpha": each.alpha,
                "d_eff, formula": each.exact,
                "d_eff, measured": state.dimension,
                "90 % interval": f"{state.interval[0]:.3g} to {state.interval[1]:.3g}"
                if not state.reason
                else "-",
                "populations used": ", ".join(map(str, state.used)),
                "ascents that count": f"{sum(level.kept for level in state.levels)} of "
                f"{sum(level.kept + level.far + level.drifting for level in state.levels)}",
                "result": "FAIL" if state.reason else "found",
            }
        )
        if state.reason:
            below.append(f"FAIL at alpha {each.alpha:g}: {state.reason}")
    show("Effective dimension from the slope of J_inf against kappa", rows, [*below, *FORMS])


def _show_escapes(left: Sequence[Escape]) -> None:
    rows = [_escape_row(each) for each in left]
    kept = ("height", "regime", "kramers_steps", "mean_steps", "simulated_steps", "error", "share")
    named = [{name.replace("_", " "): row[name] for name in kept} for row in rows]
    show(
        f"Double well, {WELL_RUNS} runs of {WELL_STEPS:,} steps",
        named,
        ["height: of the barrier / temperature"],
    )


def _escape_row(each: Escape) -> dict[str, Any]:
    return {
        "height": each.well.height,
        "regime": each.regime,
        "kramers_steps": each.well.kramers_steps,
        "mean_steps": each.well.mean_steps,
        "simulated_steps": each.steps,
        "error": each.error,
        "share": each.share,
        "expected_share": each.expected,
    }


def _write(
    options: Namespace,
    toy: Toy,
    curves: Sequence[RiseAndDecay],
    measured: Sequence[Dimension],
    left: Sequence[Escape],
) -> None:
    folder = options.output
    rows = [
        {"population": curve.model.population, "step": step, "exact": exact, "mean": mean, "error": error}
        for curve in curves
        for step, (exact, mean, error) in enumerate(
            zip(curve.exact.tolist(), curve.mean.tolist(), curve.error.tolist(), strict=True)
        )
    ]
    write_csv(folder / "rise_and_decay.csv", rows)
    write_csv(folder / "steady_state.csv", [row for each in measured for row in _level_rows(each, toy.sigma)])
    write_csv(folder / "double_well.csv", [_escape_row(each) for each in left])
    drawn = [
        {
            "population": curve.model.population,
            "exact": curve.exact,
            "mean": curve.mean,
            "error": curve.error,
            "peak": _peak(curve),
            "height": curve.height,
        }
        for curve in curves
    ]
    title = (
        f"D = {toy.dimension}, d = {toy.active}, curvatures {toy.stiff:g} and {toy.soft:g}, "
        f"alpha = {toy.alpha:g}, sigma = {toy.sigma:g}, {options.runs} runs"
    )
    lines = [_line(each) for each in measured]
    toy_picture.rise_and_decay(folder / "rise_and_decay.png", drawn, lines, title)
    rows = [_escape_row(each) for each in left]
    toy_picture.double_well(folder / "double_well.png", rows, WELL_STEPS, WELL_RUNS)


def _level_rows(each: Dimension, sigma: float) -> list[dict[str, Any]]:
    state = each.measured
    return [
        {
            "alpha": each.alpha,
            "population": level.population,
            "kappa": kappa,
            "expected_reward": 1 - each.exact * gap_per_dimension(each.alpha, sigma, level.population),
            "reward": level.reward,
            "error": level.error,
            "kept": level.kept,
            "far": level.far,
            "drifting": level.drifting,
            "used": level.population in state.used and not state.reason,
            "reason": level.reason or state.reason,
        }
        for level, kappa in zip(state.levels, each.kappas.tolist(), strict=True)
    ]


def _line(each: Dimension) -> dict[str, Any]:
    state = each.measured
    found = f"d_eff {state.dimension:.1f} ({state.interval[0]:.1f} to {state.interval[1]:.1f})"
    return {
        "alpha": each.alpha,
        "kappa": each.kappas,
        "reward": [level.reward for level in state.levels],
        "error": [level.error for level in state.levels],
        "used": [level.population in state.used and not state.reason for level in state.levels],
        "exact": each.alpha / 4 * each.exact,
        "label": f"alpha {each.alpha:g}: {'FAIL' if state.reason else found}, formula {each.exact:.1f}",
    }
