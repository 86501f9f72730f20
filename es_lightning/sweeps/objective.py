"""What a run is worth: its validations, as they stand in its folder, and their mean over the seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from es_lightning.errors import UsageError
from es_lightning.journal.evaluations import EVALUATIONS, read_evaluations

Point = tuple[int, float]
"""Generations done, and the centre's value on the validation problems."""

STRIDE = 1_000_000
"""Optuna's step of seed number i (from 0) and generation g is i * STRIDE + g."""


def read_points(folder: Path, objective: str) -> list[Point]:
    """Read the validations of a run so far; none where it has not come to the first.

    The base model's, at generation 0, is left out: it says nothing of the settings.

    Args:
        folder: of the run.
        objective: ``val/reward``, or another score of the validations.

    Raises:
        UsageError: the validations have no such score, or their file is damaged.
    """
    if not (folder / EVALUATIONS).exists():
        return []
    name = objective.removeprefix("val/")
    points = {}
    for row in read_evaluations(folder):
        if row.split == "val" and row.step > 0:
            if name not in row.scores:
                known = ", ".join(f"val/{each}" for each in sorted(row.scores))
                raise UsageError(f"objective is {objective}, and the validations have {known}: give one.")
            points[row.step] = row.scores[name]
    return sorted(points.items())


def worth(points: Sequence[Point], take: str) -> float:
    """Return what a run is worth, in units of the objective.

    Args:
        points: by generation, at least one.
        take: ``last`` or ``best``.
    """
    values = [value for _, value in points]
    return max(values) if take == "best" else values[-1]


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean over seeds and its standard error; that of one seed is nan.

    Args:
        values: of the seeds, at least one.
    """
    if len(values) < 2:
        return values[0], math.nan
    return statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values))


def intermediate(done: Sequence[float], points: Sequence[Point], take: str) -> dict[int, float]:
    """Return what a trial is worth so far after each validation of the seed under way, by Optuna's step.

    It is the mean over the seeds that are done and the one under way, so that it ends as the trial's
    objective. Trials are compared at the same seed and generation, where they have the same prompts.

    Args:
        done: what the runs of earlier seeds are worth.
        points: of the seed under way.
        take: ``last`` or ``best``.
    """
    steps = {}
    for count, (generation, _) in enumerate(points, 1):
        value = statistics.fmean([*done, worth(points[:count], take)])
        steps[len(done) * STRIDE + generation] = value
    return steps
