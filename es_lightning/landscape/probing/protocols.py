"""p(improve) of several models under both published protocols: one sigma for all, or a sigma for each.

Neural Thickets measures all sizes at the same sigma; arXiv 2602.00170 takes for each model the sigma with
the highest best-of-N. They disagree about how p(improve) moves with the size of a model. Here both are
measured on halves of the prompts, both ways: a sigma, and a candidate, is chosen on one half and judged on
the other, so choosing costs nothing. A fixed sigma is judged on the same halves, whose rewards have coarser
steps than those of all prompts: only numbers on halves may be compared. Beside them stands what the papers
would have: sigma and candidates chosen and judged on all prompts alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from es_lightning.analysis.intervals import Estimate
from es_lightning.landscape.arrays import Array
from es_lightning.landscape.probing.summary import ProbeTable
from es_lightning.landscape.statistics.best_curve import largest_size
from es_lightning.landscape.statistics.best_of import best_of, best_of_pairs
from es_lightning.landscape.statistics.change_statistics import SAME, mean_changes
from es_lightning.landscape.statistics.held_out import Way, gain_over, halvings
from es_lightning.landscape.statistics.intervals import share

SIZE = 30
"""N of the best-of-N that chooses a sigma: the usual population."""
FIXED, CHOSEN = "fixed sigma", "sigma chosen per model"


@dataclass(frozen=True)
class ProtocolRow:
    """One model under one protocol.

    Args:
        name: of the model.
        parameters: of the model; None if they are not known.
        protocol: ``FIXED`` or ``CHOSEN``.
        sigmas: the sigma, or how often each was chosen.
        improve: p(improve) on the half of the prompts that did not choose the sigma.
        gain: change of the reward there, of the best of N that the other half has chosen.
        size: N.
        sigma_all: the sigma, or that with the highest best-of-N on all prompts.
        improve_all: p(improve) at that sigma on all prompts, as published.
        best_all: best of N at that sigma on all prompts, as published: on those that chose.
    """

    name: str
    parameters: int | None
    protocol: str
    sigmas: Mapping[float, int]
    improve: Estimate
    gain: Estimate
    size: int
    sigma_all: float
    improve_all: Estimate
    best_all: float

    @property
    def shown_sigma(self) -> str:
        """The sigma in words; of several, the most frequent first, with how often it was chosen."""
        if len(self.sigmas) == 1:
            return f"{next(iter(self.sigmas)):g}"
        often = sorted(self.sigmas.items(), key=lambda each: -each[1])
        return ", ".join(f"{sigma:g} x{count}" for sigma, count in often)


def protocol_rows(tables: Sequence[ProbeTable], size: int = SIZE, seed: int = 0) -> list[ProtocolRow]:
    """Compute the rows of both protocols: each sigma that all models have, then the chosen ones.

    Args:
        tables: rewards of the models.
        size: N of the best-of-N that chooses; fewer where there are fewer candidates.
        seed: seed of the halvings and bootstraps.

    Raises:
        UsageError: a probe has one prompt alone, or no 2 candidates.
    """
    common = sorted(set.intersection(*(set(table.sigmas) for table in tables)))
    ways = [_ways(table, seed) for table in tables]
    rows = list[ProtocolRow]()
    for sigma in common:
        rows += [
            _row(table, FIXED, [sigma] * len(each[sigma]), sigma, each, size, seed)
            for table, each in zip(tables, ways, strict=True)
        ]
    for table, each in zip(tables, ways, strict=True):
        choices, best = _choices(table, each, size), _choice(table, size)
        rows.append(_row(table, CHOSEN, choices, best, each, size, seed))
    return rows


def _ways(table: ProbeTable, seed: int) -> dict[float, list[Way]]:
    """By sigma, the changes with each way of choosing and measuring."""
    halves = halvings(len(table.centre), seed=seed)
    changes = {sigma: table.rewards[sigma] - table.centre for sigma in table.sigmas}
    return {sigma: [Way(each, *places) for places in halves] for sigma, each in changes.items()}


def _choices(table: ProbeTable, ways: Mapping[float, Sequence[Way]], size: int) -> list[float]:
    """The sigma with the highest best-of-N on the prompts that choose, for each way."""
    best = {sigma: [_best(table, way.means()[..., 0], size) for way in each] for sigma, each in ways.items()}
    count = len(ways[table.sigmas[0]])
    return [max(table.sigmas, key=lambda sigma: best[sigma][place]) for place in range(count)]


def _choice(table: ProbeTable, size: int) -> float:
    """The sigma with the highest best-of-N on all prompts."""
    return max(table.sigmas, key=lambda sigma: _best(table, _changes(table, sigma), size))


def _best(table: ProbeTable, changes: Array, size: int) -> float:
    """Best-of-N of changes [S, M]."""
    statistic = best_of_pairs if table.pairs else best_of
    return float(statistic(changes, [_size(table, size)]).mean())


def _changes(table: ProbeTable, sigma: float) -> Array:
    """Changes of the mean over all prompts, [S, M]."""
    return mean_changes(np.asarray(table.rewards[sigma], dtype=np.float64), table.centre)


def _row(
    table: ProbeTable,
    protocol: str,
    sigmas: Sequence[float],
    sigma_all: float,
    ways: Mapping[float, Sequence[Way]],
    size: int,
    seed: int,
) -> ProtocolRow:
    """Judge a sigma for each way on the prompts that did not choose it, and one on all prompts."""
    taken = [ways[sigma][place] for place, sigma in enumerate(sigmas)]
    marks = np.mean([way.means()[..., 1] > SAME for way in taken], axis=0)
    size, changes = _size(table, size), _changes(table, sigma_all)
    gain = gain_over(taken, [size], 2 if table.pairs else 1, seed)
    return ProtocolRow(
        name=table.name,
        parameters=table.parameters,
        protocol=protocol,
        sigmas=Counter(sigmas),
        improve=share(marks, table.pairs),
        gain=Estimate(float(gain.gain[0]), float(gain.low[0]), float(gain.high[0]), "prompts and candidates"),
        size=size,
        sigma_all=sigma_all,
        improve_all=share((changes > 0).astype(np.float64), table.pairs),
        best_all=_best(table, changes, size),
    )


def _size(table: ProbeTable, size: int) -> int:
    candidates = min(rewards.shape[1] for rewards in table.rewards.values())
    return min(size, largest_size(candidates, table.pairs))
