"""What a probe says about each sigma: changes, best-of-N with its controls, held-out gain, and a verdict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from es_lightning.analysis.intervals import Estimate
from es_lightning.errors import UsageError
from es_lightning.landscape.arrays import Array
from es_lightning.landscape.statistics.best_curve import BestCurve, best_curve, largest_size
from es_lightning.landscape.statistics.best_of import headroom
from es_lightning.landscape.statistics.centre_offset import at_no_noise, centre_offset
from es_lightning.landscape.statistics.change_statistics import (
    ChangeStatistics,
    change_statistics,
    mean_changes,
)
from es_lightning.landscape.statistics.even_part import effective_dimension, even_parts
from es_lightning.landscape.statistics.held_out import HeldOutGain, chosen_gain

HELD_OUT_SIZES = (1, 2, 3, 5, 7, 10, 15, 20, 30, 40, 50)
FEW = 0.5  # share of exact zeros from which on they are worth a line


@dataclass(frozen=True)
class ProbeTable:
    """The rewards of a probe.

    Args:
        name: of the model or the folder, for tables.
        centre: the centre's rewards, [P].
        rewards: by sigma, [S, M, P].
        pairs: whether candidates 2k and 2k + 1 have the same noise with opposite signs.
        most: largest reward that the task gives; None if it is not known.
        parameters: of the model; None if they are not known.
        task: its name.
    """

    name: str
    centre: Array
    rewards: Mapping[float, Array]
    pairs: bool = False
    most: float | None = None
    parameters: int | None = None
    task: str = ""

    @property
    def sigmas(self) -> tuple[float, ...]:
        """The noise scales, in ascending order."""
        return tuple(sorted(self.rewards))

    @property
    def ceiling(self) -> float | None:
        """The largest reward: the task's, or 1 where all rewards seen are between 0 and 1."""
        if self.most is not None:
            return self.most
        seen = (self.centre, *self.rewards.values())
        between = all(np.min(part) >= 0 and np.max(part) <= 1 for part in seen)
        return 1.0 if between else None

    def headroom(self) -> float | None:
        """Return the largest reward minus the centre's; None if the largest is not known.

        Raises:
            UsageError: the centre already earns the most.
        """
        ceiling = self.ceiling
        return None if ceiling is None else headroom(float(self.centre.mean()), ceiling)


@dataclass(frozen=True)
class SigmaSummary:
    """What a probe says about one sigma.

    Args:
        sigma: noise scale, in units of the weights.
        changes: R - R_0 of each candidate, [S, M], in units of reward.
        statistics: of the changes.
        curve: best-of-N and its null.
        held_out: gain of the chosen on prompts that did not choose them; None with one prompt.
        dimension: effective dimension from antithetic pairs; None without pairs or curvature, and of one
            sigma alone, where the centre's luck cannot be told from curvature.
    """

    sigma: float
    changes: Array
    statistics: ChangeStatistics
    curve: BestCurve
    held_out: HeldOutGain | None
    dimension: Estimate | None

    @property
    def is_constant(self) -> bool:
        """Whether no candidate changed the reward."""
        return not self.changes.any()

    def verdict(self) -> Iterator[str]:
        """Yield plain sentences: like the null or not, what the chosen gain, how many do nothing."""
        if self.is_constant:
            yield "no candidate changed the reward: sigma is too small, or the reward too coarse"
            return
        yield self._against_null()
        if self.held_out is not None:
            yield from _chosen(self.held_out)
        if self.statistics.zeros >= FEW:
            yield f"{self.statistics.zeros:.0%} of the candidates earn exactly what the centre earns"

    def _against_null(self) -> str:
        curve = self.curve
        if curve.like_the_null:
            return f"best-of-N looks like the Gaussian null (p = {curve.p_null:.2g}): its shape says nothing"
        where = "above" if curve.above else "below"
        return f"best-of-N is {where} the Gaussian null (p = {curve.p_null:.2g}): the changes are not normal"


def _chosen(held_out: HeldOutGain) -> Iterator[str]:
    """Say what the chosen gain on held-out prompts, over the centre and over the mean candidate."""
    at = shown_size(held_out)
    value, high = held_out.gain[at], held_out.high[at]
    told = f"{value:+.4f} +- {high - value:.4f} on held-out prompts ({held_out.seen[at]:+.4f} on those that"
    verdict = _verdict(held_out.low[at], high)
    yield f"the best of {held_out.sizes[at]} gains {told} chose it): {verdict}"
    value, high = held_out.over_mean[at], held_out.over_mean_high[at]
    verdict = _verdict(held_out.over_mean_low[at], high)
    yield f"over the mean candidate it gains {value:+.4f} +- {high - value:.4f} there: {verdict}"


def _verdict(low: float, high: float) -> str:
    if low > 0:
        return "a gain"
    return "a loss" if high < 0 else "no gain is shown"


def offset_of(summaries: Sequence[SigmaSummary], pairs: bool) -> Estimate | None:
    """Extrapolate the mean change to sigma 0, from the two smallest sigmas; None of one sigma.

    Args:
        summaries: of the sigmas of a probe, in ascending order.
        pairs: whether candidates 2k and 2k + 1 have the same noise with opposite signs.
    """
    if len(summaries) < 2:
        return None
    near, far = summaries[:2]
    return centre_offset(near.changes, far.changes, near.sigma / far.sigma, 2 if pairs else 1)


def offset_words(offset: Estimate | None) -> str:
    """Say what it means that the mean change does not vanish with sigma; nothing where it may."""
    if offset is None or not (offset.low > 0 or offset.high < 0):
        return ""
    better = "more" if offset.value > 0 else "less"
    return (
        f"Extrapolated to sigma 0, candidates earn {abs(offset.value):.4f} {better} than the centre "
        f"({offset.low:+.4f} to {offset.high:+.4f}), where a smooth reward would not change at all: some "
        "answers tip at any touch, and the centre has one of several. Mean change, p(improve), best of N and "
        "the held-out gain hold that offset at every sigma, so compare sigmas with each other. The gain over "
        "the mean candidate is free of it, and so is d_eff."
    )


def shown_size(held_out: HeldOutGain) -> int:
    """Return the position of the N that tables show: 30, the usual population, or the largest below it."""
    return max(place for place, size in enumerate(held_out.sizes) if size <= 30)


def summarise(table: ProbeTable, largest: int | None = None, seed: int = 0) -> list[SigmaSummary]:
    """Compute the summary of every sigma.

    Args:
        table: the rewards.
        largest: N_max of best-of-N; None takes 50, or all candidates where there are fewer.
        seed: seed of bootstraps, halvings and simulated nulls.

    Raises:
        UsageError: fewer candidates than N_max, or a reward that is not finite.
    """
    for sigma in table.sigmas:
        if not np.isfinite(table.rewards[sigma]).all():
            raise UsageError(
                f"{table.name} has rewards at sigma {sigma:g} that are not finite: probe that sigma again."
            )
    offset = _offset_per_pair(table)
    return [_of_sigma(table, sigma, offset, largest, seed) for sigma in table.sigmas]


def _offset_per_pair(table: ProbeTable) -> Array | None:
    """Extrapolate the even part of each pair to sigma 0, [S, M / 2]; None without pairs, or of one sigma."""
    if not table.pairs or len(table.sigmas) < 2:
        return None
    near, far = table.sigmas[:2]
    even = [even_parts(mean_changes(table.rewards[sigma], table.centre)) for sigma in (near, far)]
    return at_no_noise(even[0], even[1], near / far)


def _of_sigma(
    table: ProbeTable, sigma: float, offset: Array | None, asked: int | None, seed: int
) -> SigmaSummary:
    rewards = np.asarray(table.rewards[sigma], dtype=np.float64)
    changes = mean_changes(rewards, table.centre)
    largest = largest_size(changes.shape[1], table.pairs, asked)
    sizes = tuple(dict.fromkeys([size for size in HELD_OUT_SIZES if size <= largest] + [largest]))
    unit = 2 if table.pairs else 1
    several = rewards.shape[-1] > 1
    return SigmaSummary(
        sigma=sigma,
        changes=changes,
        statistics=change_statistics(changes, table.pairs, seed),
        curve=best_curve(changes, largest, table.pairs, seed),
        held_out=chosen_gain(rewards, table.centre, sizes, seed=seed, unit=unit) if several else None,
        dimension=None if offset is None else effective_dimension(changes, offset),
    )
