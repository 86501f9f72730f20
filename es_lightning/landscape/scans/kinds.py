"""The four kinds of scans: which points each looks at, and the table that it makes of their rewards.

Distances are Euclidean norms over all parameters, tied ones counted once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from es_lightning.algorithm.noise import Noise
from es_lightning.algorithm.noise.base import hash64
from es_lightning.landscape.arrays import Array
from es_lightning.landscape.scans.directions import Direction, Drawn
from es_lightning.landscape.scans.measure import Point
from es_lightning.landscape.scans.scan import Barrier, band, drops, mean_and_error, orthonormal, quantile

BASE, TUNED = "base", "tuned"
SAME = 1e-3
"""Of the first model's distance: a point of a plane's grid that is nearer to a model is that model."""
Table = dict[str, npt.NDArray[Any]]
"""Columns by name, all of one length."""


@dataclass(frozen=True)
class Scan:
    """What a scan looks at.

    Args:
        directions: J of them.
        points: with J coefficients each.
    """

    directions: tuple[Direction, ...]
    points: tuple[Point, ...]


def line(tuned: Direction, times: Array) -> Scan:
    """The line from the base model at t = 0 to a tuned one at t = 1, and beyond both."""
    return Scan((tuned,), tuple(Point({"t": float(t)}, (float(t),)) for t in times))


def between(first: Direction, second: Direction, times: Array) -> Scan:
    """The line from a tuned model at t = 0 to another one at t = 1."""
    points = (Point({"t": float(t)}, (1 - float(t), float(t))) for t in times)
    return Scan((first, second), tuple(points))


def radial(tuned: Direction, drawn: Sequence[Drawn], radii: Array, lengths: Sequence[float]) -> Scan:
    """Rays from the base model: towards a tuned one, and in random directions at the same distances.

    Args:
        tuned: direction to the tuned model, of length L.
        drawn: K random directions.
        radii: in multiples of L, 0 among them.
        lengths: Euclidean norms, L and those of the random directions.
    """
    rays: tuple[Direction, ...] = (tuned, *drawn)
    names = (TUNED, *(each.name for each in drawn))
    points = [Point({"direction": BASE, "radius": 0.0}, (0.0,) * len(rays))]
    for place, (name, length) in enumerate(zip(names, lengths, strict=True)):
        for radius in radii[radii != 0]:
            coefficients = [0.0] * len(rays)
            coefficients[place] = float(radius) * (lengths[0] / length)
            points.append(Point({"direction": name, "radius": float(radius)}, tuple(coefficients)))
    return Scan(rays, tuple(points))


@dataclass(frozen=True)
class Plane:
    """A plane through the base model, with models in it.

    Args:
        scan: what is looked at: the models first, then the grid.
        marks: names of the models in the plane -> their coordinates.
        length: distance of the first model, the unit of both coordinates.
        cosine: of the angle between the two directions.
    """

    scan: Scan
    marks: Mapping[str, tuple[float, float]]
    length: float
    cosine: float


def plane(first: Direction, second: Direction, products: Array, across: Array, up: Array) -> Plane:
    """The plane of the base model and two directions, in orthonormal coordinates.

    The first axis leads to the first model, which is at (1, 0). The second is what is left of the second
    direction when its part along the first is taken away.

    Args:
        first: direction to a tuned model.
        second: direction to another one, or a random one.
        products: inner products of the two, [2, 2].
        across: first coordinates of the grid.
        up: second coordinates.

    Raises:
        UsageError: the two directions are one.
    """
    axes = orthonormal(products, [first.name, second.name])
    length = float(np.sqrt(products[0, 0]))
    end = (axes @ products)[:, 1] / length  # of the second direction
    marks = {BASE: (0.0, 0.0), first.name: (1.0, 0.0)}
    points = [_at(0.0, 0.0, (0.0, 0.0)), _at(1.0, 0.0, (1.0, 0.0))]
    if not isinstance(second, Drawn):
        marks[second.name] = (float(end[0]), float(end[1]))
        points.append(_at(*marks[second.name], (0.0, 1.0)))
    for v in up:
        for u in across:
            if min(np.hypot(u - x, v - y) for x, y in marks.values()) > SAME:
                c = length * (float(u) * axes[0] + float(v) * axes[1])
                points.append(_at(float(u), float(v), (float(c[0]), float(c[1]))))
    cosine = products[0, 1] / np.sqrt(products[0, 0] * products[1, 1])
    return Plane(Scan((first, second), tuple(points)), marks, length, float(cosine))


def _at(x: float, y: float, coefficients: tuple[float, ...]) -> Point:
    return Point({"x": x, "y": y}, coefficients)


def random_directions(noise: Noise, seed: int, count: int) -> list[Drawn]:
    """Return random directions whose seeds are hashes of (seed, number), the same anywhere.

    Args:
        noise: kind of noise.
        seed: any integer.
        count: how many.
    """
    return [Drawn(f"random {k}", noise, hash64(f"scan/{seed}/{k}")) for k in range(count)]


# Tables -----------------------------------------------------------------------------------------------


def line_table(times: Array, rewards: Array) -> Table:
    """Make a row for each t, with the paired differences to t = 0 and t = 1.

    Args:
        times: t of each point, [T]; 0 and 1 are among them.
        rewards: [T, P].
    """
    table = {"t": times, **_columns("reward", rewards)}
    for name, at in (("minus_t0", 0), ("minus_t1", 1)):
        table |= _columns(name, rewards - rewards[times == at])
    return table


def between_table(times: Array, rewards: Array, found: Barrier) -> Table:
    """Make a row for each t, with the drop below the straight line; its interval holds for all t at once.

    Args:
        times: t of each point, [T]; 0 and 1 are among them.
        rewards: [T, P].
        found: the barrier. Its reach is for the points from 0 to 1; beyond, no interval is given.
    """
    drop, error = mean_and_error(drops(times, rewards))
    reach = np.where((times >= 0) & (times <= 1), found.reach, np.nan)
    ends = {"drop_low": drop - reach, "drop_high": drop + reach}
    return {"t": times, **_columns("reward", rewards), "drop": drop, "drop_se": error, **ends}


def radial_table(points: Sequence[Point], rewards: Array, length: float) -> Table:
    """Make a row for each direction and radius, with the range of a further random direction there.

    Args:
        points: of a radial scan.
        rewards: [T, P].
        length: L, the distance of the tuned model.
    """
    names = np.array([str(point.place["direction"]) for point in points])
    radii = np.array([float(point.place["radius"]) for point in points])
    table = {"direction": names, "radius": radii, "distance": radii * length, **_columns("reward", rewards)}
    table |= _columns("minus_base", rewards - rewards[0])
    is_drawn = (names != TUNED) & (names != BASE)
    middle, low, high = (table["reward"].copy() for _ in range(3))  # at radius 0 there is one point for all
    for radius in np.unique(radii[is_drawn]):
        there = band(table["reward"][is_drawn & (radii == radius)])
        at = radii == radius
        middle[at], low[at], high[at] = there.mean, there.low, there.high
    return {**table, "random": middle, "random_low": low, "random_high": high}


def plane_table(found: Plane, rewards: Array) -> Table:
    """Make a row for each point of a plane; ``model`` names the one that is there.

    Args:
        found: the plane.
        rewards: [T, P].
    """
    places = [(float(point.place["x"]), float(point.place["y"])) for point in found.scan.points]
    names = {place: name for name, place in found.marks.items()}
    x, y = np.array(places).T
    table = {"model": np.array([names.get(place, "") for place in places]), "x": x, "y": y}
    table |= {"distance": found.length * np.hypot(x, y), **_columns("reward", rewards)}
    return table | _columns("minus_base", rewards - rewards[0])


def rows(table: Table) -> list[dict[str, Any]]:
    """Return a table's rows, each by the names of its columns, in plain numbers and texts."""
    columns = [column.tolist() for column in table.values()]
    return [dict(zip(table, row, strict=True)) for row in zip(*columns, strict=True)]


def _columns(name: str, values: Array) -> Table:
    """Return the mean over prompts, its standard error, and the ends of its 95 % interval."""
    mean, error = mean_and_error(values)
    reach = quantile(values.shape[1]) * error
    return {name: mean, f"{name}_se": error, f"{name}_low": mean - reach, f"{name}_high": mean + reach}
