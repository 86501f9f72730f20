"""The step-size map as rows for tables and pictures."""

from __future__ import annotations

from typing import Any

import numpy as np

from es_lightning.landscape.steps.gain import Estimate
from es_lightning.landscape.steps.step_size import StepAdvice

Rows = list[dict[str, Any]]


def gain_rows(advice: StepAdvice) -> Rows:
    """Return per population and learning rate the gains of an update and of a run, in units of the reward."""
    runs = [run for run in advice.runs if run.updates > 1]  # a run of one update is there already
    return [
        {
            "population": curve.population,
            "updates": curve.updates,
            "lr": lr,
            "gain": gain,
            "gain_low": low,
            "gain_high": high,
        }
        for curve in (*advice.curves, *runs)
        for lr, gain, low, high in zip(
            *(each.tolist() for each in (curve.lr, curve.gain, curve.low, curve.high)), strict=True
        )
    ]


def sigma_rows(advice: StepAdvice) -> Rows:
    """Return per sigma the score, smoothed as well if that chose, and what noise of this scale costs."""
    found, sweep = advice.estimates, advice.sweep
    return [
        {
            "sigma": float(sigma),
            "score": sweep.scores[at],
            "score_low": sweep.low[at],
            "score_high": sweep.high[at],
            **({"smoothed": sweep.smooth[at]} if sweep.smooth else {}),
            **_ends("drop", Estimate.of(found.drop[:, at])),
        }
        for at, sigma in enumerate(np.asarray(found.sigmas))
    ]


def population_rows(advice: StepAdvice) -> Rows:
    """Return per population the best learning rates of an update and of a run, and what 2 N members gain.

    ``*_at_least`` tells where the probe ends before the number does, so that it is a lower bound.
    """
    return [
        {
            "population": curve.population,
            **_ends("best_lr", curve.best_lr),
            **_ends("largest_lr", curve.largest_lr),
            **_ends("best_gain", curve.best_gain),
            "gain_per_rollout": curve.best_gain.value / curve.population,
            **_ends("doubling", curve.doubling),
            "best_lr_at_least": curve.at_edge,
            "largest_lr_at_least": curve.gains_at_edge,
            "updates": run.updates,
            **_ends("run_lr", run.best_lr),
            **_ends("run_gain", run.best_gain),
            "run_lr_at_least": run.at_edge,
            **_ends("run_ratio", ratio),
        }
        for curve, run, ratio in zip(advice.curves, advice.runs, advice.run_ratios, strict=True)
    ]


def _ends(name: str, value: Estimate) -> dict[str, float]:
    return {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}
