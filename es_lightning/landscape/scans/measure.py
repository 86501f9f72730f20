"""Measure the reward at points of weight space, once each: what a scan has measured is on disk at once."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from es_lightning.algorithm.tensors import checksum
from es_lightning.distributed.ranks import Ranks
from es_lightning.errors import DivergenceError
from es_lightning.evaluation import Evaluator
from es_lightning.evaluation.kept_lines import KeptLines
from es_lightning.landscape.arrays import Array
from es_lightning.landscape.scans.directions import Direction, moved
from es_lightning.records import Prompt
from es_lightning.system.files import to_json

log = logging.getLogger(__name__)

KEY = "es_lightning_scan"


@dataclass(frozen=True)
class Point:
    """A point of weight space.

    Args:
        place: its coordinates in the figure, by the names of the CSV's columns.
        coefficients: c_j in theta + sum_j c_j D_j.
    """

    place: Mapping[str, float | str]
    coefficients: tuple[float, ...]

    def __str__(self) -> str:
        """Return its coordinates in words."""
        return ", ".join(
            f"{name} {value:g}" if isinstance(value, float) else value for name, value in self.place.items()
        )


class Measured:
    """The rewards of the points that were measured, in a file of JSON lines that grows point by point.

    Args:
        path: the file; if it is there, its points are not measured again.
        settings: what decides a reward besides the point, in plain JSON.
        prompts: P, the number of rewards of a point.
        ranks: the ranks that share the work; the first of them reads and writes.

    Raises:
        UsageError: the file has other settings, or is none of a scan.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], prompts: int, ranks: Ranks) -> None:
        self._lines = KeptLines(path, KEY, settings, partial(_is_point, prompts=prompts), ranks)
        self._rewards = {
            _key(row["place"]): [float(each) for each in row["rewards"]] for row in self._lines.rows
        }

    def __contains__(self, point: Point) -> bool:
        return _key(point.place) in self._rewards

    def rewards(self, points: Sequence[Point]) -> Array:
        """Return what was measured at points, float64 [T, P]."""
        return np.array([self._rewards[_key(point.place)] for point in points], dtype=np.float64)

    def add(self, point: Point, rewards: Sequence[float]) -> None:
        """Keep what was measured at a point; it is on disk before this returns.

        Raises:
            StorageError: the disk is full or the file cannot be written.
        """
        self._rewards[_key(point.place)] = list(rewards)
        self._lines.add({"place": point.place, "rewards": list(rewards)})


def measure(
    evaluator: Evaluator,
    centre: nn.Module,
    directions: Sequence[Direction],
    points: Sequence[Point],
    prompts: Sequence[Prompt],
    measured: Measured,
    tell: Callable[[int, int, float], None] | None = None,
) -> Array:
    """Measure the rewards of prompts at points; all ranks have to call it, and share the prompts of a point.

    The engine is given the weights of one point after the other, and the centre's at the end.

    Args:
        evaluator: decodes greedily, with an engine that has been started.
        centre: theta, float32 parameters under Hugging Face names; not changed.
        directions: J directions.
        points: T points, J coefficients each.
        prompts: P encoded prompts.
        measured: what is there already; what is measured is added.
        tell: called after each point with the number of points that are done, that of all, and the point's
            mean reward; None tells nobody.

    Returns:
        float64 [T, P].

    Raises:
        DivergenceError: a point gives log-probabilities that are not finite.
        RuntimeError: the centre is no longer what it was.
    """
    rollouts, shards = evaluator.rollouts, evaluator.ranks.shards
    missing = [point for point in points if point not in measured]
    before = checksum(centre.named_parameters(), shards) if missing else ""
    for index, point in enumerate(missing):
        change = partial(_weights, directions, point.coefficients, rollouts.engine.dtype)
        rollouts.load(rollouts.stream(centre, change))
        try:
            rewards = evaluator.evaluate(prompts).rewards
        except DivergenceError as error:
            raise DivergenceError(
                f"at {point} the model's log-probabilities are not finite: scan less far, with --start "
                "and --stop."
            ) from error
        measured.add(point, rewards)
        if tell is not None:
            tell(len(points) - len(missing) + index + 1, len(points), math.fsum(rewards) / len(rewards))
    if missing:
        rollouts.hold_centre(centre)
        if checksum(centre.named_parameters(), shards) != before:
            raise RuntimeError("a scan has changed the centre that it was to look around")
    return measured.rewards(points)


def _weights(
    directions: Sequence[Direction],
    coefficients: Sequence[float],
    dtype: torch.dtype,
    name: str,
    theta: Tensor,
) -> Tensor:
    return moved(name, theta, directions, coefficients).to(dtype)


def _key(place: Mapping[str, Any]) -> str:
    """Return a point's coordinates as text; numbers that differ by rounding alone are the same."""
    return to_json([f"{each:.9g}" if isinstance(each, float | int) else each for each in place.values()])


def _is_point(row: Any, prompts: int) -> bool:
    """Whether a row has a point's place, and as many finite rewards as there are prompts."""
    try:
        place, rewards = row["place"], row["rewards"]
        return isinstance(place, dict) and len(rewards) == prompts and all(map(math.isfinite, rewards))
    except (KeyError, TypeError):
        return False
