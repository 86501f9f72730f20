"""The learning rate of a run and the population of z-scored ES, from one short probe at the centre.

``gain`` has the formulas. Here a probe's best sigma is taken, the gain is computed for several populations,
and what can be advised is told from what cannot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from es_lightning.analysis.sigma_sweep import SweepVerdict, judge
from es_lightning.errors import UsageError
from es_lightning.landscape.steps.gain import (
    LEVEL,
    UNKNOWN,
    Estimate,
    GainCurve,
    critical_population,
    gain_curve,
    ratio_of,
)
from es_lightning.landscape.steps.pair_moments import Moments, moments
from es_lightning.landscape.steps.pair_rewards import PairRewards

PAYS = 1.5
"""Doubling N pays if it multiplies the best step's gain by this; 2 would be the same gain per rollout."""
MULTIPLES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Populations that are compared, in units of the configured one."""


@dataclass(frozen=True)
class StepAdvice:
    """What a probe says about sigma, lr and N.

    Args:
        sigma: the noise scale that is advised: the configured one where no other is better beyond doubt, else
            that with the highest score.
        sweep: the comparison of the sigmas, with its p-value.
        estimates: at ``sigma``, what decides the gain; row 0 is the estimate.
        curves: of one update, one per population, ascending.
        runs: of a whole run, one per population, with as many rollouts as the configured run has.
        run_ratios: per population, the best gain of its run over that of the configured population's; nan
            where the runs have not equally many rollouts.
        population: the N that is advised.
        critical: N_c = K / kappa with K at ``sigma``: from here on a larger N gains little. inf if there is
            no curvature along the step.
        pairs: K.
        doubt: why nothing can be advised, in one sentence; empty if something can.
    """

    sigma: float
    sweep: SweepVerdict
    estimates: Moments
    curves: tuple[GainCurve, ...]
    runs: tuple[GainCurve, ...]
    run_ratios: tuple[Estimate, ...]
    population: int
    critical: Estimate
    pairs: int
    doubt: str

    @property
    def curve(self) -> GainCurve:
        """That of one update of the advised population."""
        return next(curve for curve in self.curves if curve.population == self.population)

    @property
    def run(self) -> GainCurve:
        """That of a run with the advised population."""
        return next(curve for curve in self.runs if curve.population == self.population)


def advise(
    probe: PairRewards,
    population: int,
    batch: int,
    updates: int = 1,
    antithetic: bool = False,
    groups: Sequence[str] = (),
    sigma: float | None = None,
    resamples: int = 400,
    seed: int = 0,
) -> StepAdvice:
    """Read sigma, the learning rate and the population off a probe.

    Args:
        probe: rewards of antithetic pairs at several sigmas, at least 3.
        population: N that is configured.
        batch: prompts of a generation.
        updates: T of the run that is configured; another population makes as many rollouts.
        antithetic: whether the run's members come in pairs.
        groups: P names, the task of each prompt; empty if there is only one task.
        sigma: the configured one; None if none is to be kept.
        resamples: of pairs and prompts, for the intervals.
        seed: seed of the resampling.

    Raises:
        UsageError: there are fewer than 3 sigmas.
    """
    if len(probe.sigmas) < 3:
        raise UsageError(f"{len(probe.sigmas)} sigmas cannot be compared: give 3 or more.")
    sweep = judge([torch.from_numpy(table) for table in probe.rewards], batch, groups, seed)
    found = moments(probe, _kept(probe.sigmas, sigma, sweep), batch, resamples, seed)
    sizes = sorted({_whole(population * factor, antithetic) for factor in MULTIPLES})
    here = _whole(population, antithetic)
    curves = tuple(gain_curve(found, size, antithetic) for size in sizes)
    lengths = [max(1, round(updates * here / size)) for size in sizes]
    runs = tuple(gain_curve(found, size, antithetic, each) for size, each in zip(sizes, lengths, strict=True))
    advised = _advised(curves, here)
    return StepAdvice(
        sigma=found.sigma,
        sweep=sweep,
        estimates=found,
        curves=curves,
        runs=runs,
        run_ratios=_ratios(runs, here),
        population=advised,
        critical=Estimate.of(critical_population(found)),
        pairs=probe.pairs,
        doubt=_doubt(sweep, next(c for c in curves if c.population == here), probe, found),
    )


def _kept(sigmas: Sequence[float], configured: float | None, sweep: SweepVerdict) -> int:
    """Return the position of the sigma that is advised.

    Scores are often too close to be told apart, and the highest of several equal ones is luck.
    """
    first, last = sweep.between
    likely = [at for at in range(first, last + 1) if sigmas[at] == configured]
    return likely[0] if likely else sweep.best


def _whole(population: float, antithetic: bool) -> int:
    step = 2 if antithetic else 1
    return int(max(4, step * round(population / step)))


def _ratios(runs: Sequence[GainCurve], configured: int) -> tuple[Estimate, ...]:
    """Compare the runs with that of the configured population, in the same resamples.

    Runs of other rollouts are not compared, nor those whose best gain is beyond the probe.
    """
    now = next(run for run in runs if run.population == configured)
    equal = [
        run.population * run.updates == now.population * now.updates and not (run.at_edge or now.at_edge)
        for run in runs
    ]
    return tuple(
        ratio_of(run.best_gains, now.best_gains) if same else UNKNOWN
        for run, same in zip(runs, equal, strict=True)
    )


def _advised(curves: Sequence[GainCurve], configured: int) -> int:
    """Double the configured population as long as that pays; halve it where it did not pay to have doubled.

    The population stays unless the interval of what doubling gains leaves ``PAYS`` out, or where that is nan.
    """
    sizes = [curve.population for curve in curves]
    at = sizes.index(configured)
    while at + 1 < len(curves) and pays(curves[at].doubling):
        at += 1
    while at > 0 and sizes[at] <= configured and pays(curves[at - 1].doubling) is False:
        at -= 1
    return sizes[at]


def pays(doubling: Estimate) -> bool | None:
    """Return whether twice the members are worth their rollouts; None where the interval does not tell."""
    if doubling.low >= PAYS:
        return True
    return False if doubling.high < PAYS else None


def _doubt(sweep: SweepVerdict, curve: GainCurve, probe: PairRewards, found: Moments) -> str:
    pairs, prompts = probe.pairs, len(probe.centre)
    if sweep.is_beyond_chance and sweep.best_score <= 0:
        return (
            "cannot tell: noise costs more than its directions tell at every sigma (best score "
            f"{sweep.best_score:.2f} of 1): try smaller sigmas."
        )
    if not sweep.is_significant:
        return (
            "cannot tell: no direction is better than its opposite beyond chance "
            f"(p = {sweep.p_value:.2f}, {pairs} pairs): take more pairs or prompts, or other sigmas."
        )
    at = int(np.flatnonzero(found.sigmas == found.sigma)[0])
    low = float(np.quantile(found.slope[1:, at], LEVEL[0]))
    if low <= 0 or curve.best_gain.low <= 0:
        return (
            f"cannot tell: the signal is below the noise of {pairs} pairs on {prompts} prompts, since its "
            f"interval includes none: take {_more(pairs, prompts, found, at)}."
        )
    return ""


def _more(pairs: int, prompts: int, found: Moments, at: int) -> str:
    """Advise more of what has the larger error, which falls as one over the root of their number.

    With so many the interval would end above 0, if the slope is as estimated and the other error was 0.
    """
    slope, (of_pairs, of_prompts) = float(found.slope[0, at]), found.slope_errors
    what, size, error = max(
        ("pairs", pairs, of_pairs), ("prompts", prompts, of_prompts), key=lambda each: each[2]
    )
    needed = size * (2 * 1.645 * error / slope) ** 2 if slope > 0 else np.inf
    return f"more {what}, such as {int(min(8 * size, max(2 * size, np.ceil(needed))))}"
