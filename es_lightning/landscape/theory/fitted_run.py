"""What the curve of a finished run says: when its reward is highest, and how many directions make it sink.

The run is read as the quadratic model of arXiv 2602.00170 with z-scored steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from es_lightning.analysis.two_modes import Judged, judge_two_modes
from es_lightning.journal.entry import Entry
from es_lightning.landscape.arrays import Array
from es_lightning.landscape.theory.steady_state import z_scored_gap_per_dimension

SKIPPED = 0.05  # share of generations without an update from which the clock is wrong
WANDER = 0.1  # share of the decay; beyond it, d_eff of a single run was found to be wrong by factors
SEEN = 0.2  # share of the decay that the points hold; below it, its size is extrapolated fivefold and more
NORMAL = 1.645  # standard errors of a 90 % interval
PLAIN = {"momentum": 0, "weight_decay": 0}  # of SGD, without which a step is lr / N * sum Z eps


@dataclass(frozen=True)
class FittedRun:
    """A run's curve and what was read from it.

    Args:
        times: updates done, [n].
        rewards: [n].
        judged: the fit, or why there is none.
        dimension: d_eff of the soft directions, the least that explains the decay; nan without an estimate.
        interval: its 90 % interval, for the fit's noise and for the run's own wandering.
        reason: why there is no such estimate; empty if there is one.
    """

    times: Array
    rewards: Array
    judged: Judged
    dimension: float
    interval: tuple[float, float]
    reason: str


def fitted_run(
    header: Mapping[str, Any], entries: Sequence[Entry], points: Sequence[tuple[float, float]] | None = None
) -> FittedRun:
    """Fit the two-mode curve to a run, and turn the amplitude of its decay into a dimension.

    Of soft directions that start at their maximum, each loses ``z_scored_gap_per_dimension`` until it is
    steady, so A_lo is that times their d_eff. Where they start elsewhere A_lo is smaller, and so is what is
    returned: it is the least d_eff of the soft directions.

    Args:
        header: of the run's journal.
        entries: its generations.
        points: updates done and the centre's reward; None takes the population's mean rewards.
    """
    if points is None:
        points = [(float(entry.generation), entry.reward["mean"]) for entry in entries]
    times, rewards = np.array(points, dtype=np.float64).reshape(-1, 2).T
    nothing = (np.nan, np.nan)
    if why := _no_single_ascent(entries):
        return FittedRun(times, rewards, Judged(None, why), np.nan, nothing, why)
    judged = judge_two_modes(times, rewards, low_interval=True)
    if judged.modes is None or judged.low_interval is None:
        return FittedRun(times, rewards, judged, np.nan, nothing, judged.reason)
    if why := _no_plain_step(header, entries):
        return FittedRun(times, rewards, judged, np.nan, nothing, why)
    cost = cost_of_a_dimension(entries)
    dimension, (low, high) = judged.modes.low[0] / cost, judged.low_interval
    interval = (low / cost, high / cost)
    seen = -float(np.expm1(-judged.modes.low[1] * np.ptp(times)))
    if not np.isfinite(high) or seen < SEEN:
        why = f"the end of the decay is not in sight, and d_eff is only known to exceed {interval[0]:.3g}"
        return FittedRun(times, rewards, judged, np.nan, nothing, why)
    wander = _wander(dimension, judged.modes.low[1], float(np.ptp(times)))
    if wander > WANDER:
        why = (
            f"one run's own wandering changes the decay by about {wander:.0%}, which hides d_eff: a longer "
            "run or more directions would tell it"
        )
        return FittedRun(times, rewards, judged, np.nan, nothing, why)
    ends = [float(np.hypot(np.log(end / dimension), NORMAL * wander)) for end in interval]
    interval = (dimension * float(np.exp(-ends[0])), dimension * float(np.exp(ends[1])))
    return FittedRun(times, rewards, judged, dimension, interval, "")


def _wander(dimension: float, rate: float, span: float) -> float:
    """How much the loss of d directions differs from its mean in one run, as a share.

    The steady loss is chi-squared with d degrees of freedom, so its relative variance is 2 / d. Its
    correlation falls as exp(-gamma t), and a run of T steps holds about T gamma / 2 independent values.
    """
    return float(np.sqrt(2 / (dimension * max(span * rate / 2, 1.0))))


def cost_of_a_dimension(entries: Sequence[Entry]) -> float:
    """Return the reward that a dimension costs this run, from its rewards' spread and its weights.

    Args:
        entries: generations with one lr, sigma and population; at least one of them with an update.
    """
    made = [entry for entry in entries if not entry.skipped]
    members = len(made[0].members)
    # The journal's std is that of the members by the divisor N.
    variance = float(np.mean([entry.reward["std"] ** 2 for entry in made])) * members / (members - 1)
    noise = float(np.mean([_noise(entry) for entry in made]))
    return z_scored_gap_per_dimension(
        made[0].hyper["lr"], made[0].sigma, float(np.sqrt(variance)), members, noise
    )


def _noise(entry: Entry) -> float:
    """Variance of an update's noise in units of lr^2 / N: members of one pair share theirs."""
    sums: dict[int, float] = {}
    for member, weight in zip(entry.members, entry.weights.tolist(), strict=True):
        sums[member.seed] = sums.get(member.seed, 0.0) + member.sign * weight
    return sum(value**2 for value in sums.values()) / len(entry.members)


def _no_single_ascent(entries: Sequence[Entry]) -> str:
    """Say why the generations are not one ascent with constant settings; empty if they are."""
    if back := next((entry.generation for entry in entries if entry.parent is not None), None):
        return (
            f"the run went back to an earlier centre before generation {back}, so its curve is not one ascent"
        )
    changing = {
        "lr": {entry.hyper["lr"] for entry in entries},
        "sigma": {entry.sigma for entry in entries},
        "population": {len(entry.members) for entry in entries},
    }
    named = " and ".join(name for name, values in changing.items() if len(values) > 1)
    return f"{named} changed during the run, and the model holds for constant settings" if named else ""


def _no_plain_step(header: Mapping[str, Any], entries: Sequence[Entry]) -> str:
    """Say why steps are not lr / N times the sum of z-scored noise; empty if they are."""
    settings, optimizer = header.get("settings") or {}, header.get("optimizer") or {}
    shaping, kind = settings.get("shaping"), str(optimizer.get("class", "")).rpartition(".")[2]
    used = optimizer.get("settings") or {}
    skipped = sum(entry.skipped for entry in entries)
    if shaping != "z_score":
        return f"d_eff is known from z-scored steps alone, and the run's shaping is {shaping}"
    if kind != "SGD" or any(used.get(name, 0) != value for name, value in PLAIN.items()):
        return "d_eff is known from steps of SGD without momentum and weight decay, and the run has others"
    if header.get("regularisers"):
        return "d_eff is known without regularisers, and the run has some"
    if skipped > SKIPPED * len(entries):
        return f"{skipped} of {len(entries)} generations made no update, so generations do not count steps"
    return ""
