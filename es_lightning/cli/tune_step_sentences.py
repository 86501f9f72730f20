"""What ``tune-step`` says of a step-size map beside what the config has."""

from __future__ import annotations

import math
from dataclasses import dataclass

from es_lightning.landscape.steps.gain import Estimate, GainCurve
from es_lightning.landscape.steps.step_size import PAYS, StepAdvice, pays


@dataclass(frozen=True)
class Configured:
    """What the config has now.

    Args:
        sigma: noise scale.
        lr: learning rate.
        updates: T of the run.
        population: N.
        batch: prompts of a generation.
        antithetic: whether members come in pairs.
        groups: the task of each prompt of the probe.
    """

    sigma: float
    lr: float
    updates: int
    population: int
    batch: int
    antithetic: bool
    groups: tuple[str, ...]


def sentences(advice: StepAdvice, now: Configured) -> list[str]:
    """Say what the map shows.

    Args:
        advice: the map.
        now: what the config has.
    """
    luck = _luck(advice)
    if advice.doubt:
        return [f"tune-step: {advice.doubt}", *luck]
    first, last = (advice.estimates.sigmas[at] for at in advice.sweep.between)
    curve, score = advice.curve, advice.sweep.best_score
    best, largest, gain = curve.best_lr, curve.largest_lr, curve.best_gain
    edge = "at least " if curve.at_edge else ""
    end = f"Beyond lr {largest.value:.2g} it gains nothing"
    if curve.gains_at_edge:
        end = f"It gains up to lr {largest.value:.2g} at least, where the probe ends"
    highest = advice.estimates.sigmas[advice.sweep.best]
    smoothed = "smoothed " if advice.sweep.smooth else ""
    stays = (
        ""
        if advice.sigma == highest
        else f" It cannot be told from the config's {now.sigma:.3g}, which stays."
    )
    words = [
        f"sigma {highest:.3g} has the highest {smoothed}score, {score:.2f} (90 % interval of sigma "
        f"{first:.3g} to {last:.3g}); the config has {now.sigma:.3g}.{stays}",
        f"With {curve.population} members an update gains most at lr {edge}{best.value:.2g} "
        f"({_interval(curve)}), {gain.value:+.3g} ({gain.low:+.2g} to {gain.high:+.2g}). {end}.",
        _of_run(advice.run, now),
    ]
    sizes = dict.fromkeys((now.population, advice.population, advice.population // 2))
    doubled = [curve for size in sizes for curve in advice.curves if curve.population == size]
    return [*words, *luck, *map(_doubling, doubled), *_of_runs(advice, now)]


def _interval(curve: GainCurve) -> str:
    """Write the interval of the best learning rate, which may end where the probe does."""
    lr = curve.best_lr
    more = " or more" if lr.high >= curve.lr[-1] else ""
    return f"90 % interval {lr.low:.2g} to {lr.high:.2g}{more}"


def _of_run(run: GainCurve, now: Configured) -> str:
    """Say which learning rate a run should have."""
    gain, edge = run.best_gain, "at least " if run.at_edge else ""
    return (
        f"The noise of a run adds up: {run.updates} updates with {run.population} members, the rollouts of "
        f"the config, gain most at lr {edge}{run.best_lr.value:.2g} ({_interval(run)}), "
        f"{gain.value:+.3g} ({gain.low:+.2g} to {gain.high:+.2g}); the config has {now.updates} updates with "
        f"{now.population} members and lr {now.lr:.2g}."
    )


def _of_runs(advice: StepAdvice, now: Configured) -> list[str]:
    """Say whether runs of as many rollouts tell populations apart by what they gain."""
    pairs = zip(advice.runs, advice.run_ratios, strict=True)
    equal = [(run, ratio) for run, ratio in pairs if math.isfinite(ratio.value)]
    if len(equal) < 2:
        return []
    told = [
        f"{run.population} members gain {ratio.value:.3f} times ({ratio.low:.3f} to {ratio.high:.3f})"
        for run, ratio in equal
        if ratio.high < 1 or ratio.low > 1
    ]
    if told:
        return [f"Of runs of as many rollouts, those with {', '.join(told)} what the config's gain."]
    sizes = [run.population for run, _ in equal]
    gains = [run.best_gain.value for run, _ in equal]
    return [
        f"Runs of as many rollouts with {sizes[0]} to {sizes[-1]} members gain {min(gains):+.3g} to "
        f"{max(gains):+.3g}: a run's gain does not tell these populations from the config's "
        f"{now.population}. The rule of {PAYS:g} is about single updates."
    ]


def _luck(advice: StepAdvice) -> list[str]:
    """Say how much the centre's own luck is, where that can be told from 0."""
    offset = Estimate.of(advice.estimates.offset)
    if offset.low <= 0 <= offset.high:
        return []
    worse, size = ("less", -offset.value) if offset.value < 0 else ("more", offset.value)
    return [
        f"Extrapolated to no noise, members earn {size:.3g} {worse} than the centre ({offset.low:+.2g} to "
        f"{offset.high:+.2g}): the centre has luck, or rewards bend otherwise than a quadratic. No gain has "
        "this in it."
    ]


def _doubling(curve: GainCurve) -> str:
    """Say what twice the members gain."""
    more = curve.doubling
    if math.isnan(more.value) and not curve.at_edge:
        words = "members would gain cannot be told: with half as many no step gains."
        return f"What {2 * curve.population} {words}"
    if math.isnan(more.value):
        return (
            f"What {2 * curve.population} members would gain cannot be told: the best step is larger than "
            "the noise that was probed. Give larger sigmas."
        )
    verdict = {True: "that pays", False: "that does not pay", None: "it cannot be told whether that pays"}
    return (
        f"Doubling {curve.population} members multiplies the gain of the best update by {more.value:.2f} "
        f"({more.low:.2f} to {more.high:.2f}) for twice the rollouts: by the rule of {PAYS:g}, "
        f"{verdict[pays(more)]}."
    )
