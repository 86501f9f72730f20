"""Normal numbers on the grid of a reward in steps: what a mean of P coarse rewards can be at all.

Rewards that are multiples of a unit have mean changes that are multiples of step = unit / P. A normal number
with mean mu and standard deviation s that is rounded to such multiples has a variance of about
s^2 + step^2 / 12 (Sheppard, 1898), and where s is below a third of a step, one that depends on mu as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from es_lightning.landscape.arrays import Array

FINE = 0.1  # step / standard deviation, below which nothing tells a grid from none
ROUNDING = 1e-9  # relative to the largest change: a remainder below it is none
REACH = 9.0  # standard deviations; beyond them nothing is left in float64


@dataclass(frozen=True)
class GridNormal:
    """A normal number that is rounded to the nearest multiple of a step; 0 is one of them.

    Args:
        mean: of the number before it is rounded, in steps.
        deviation: its standard deviation before it is rounded, in steps.
        step: in units of reward.
    """

    mean: float
    deviation: float
    step: float

    def draw(self, generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
        """Draw independent numbers, in units of reward."""
        return self.step * np.rint(generator.normal(self.mean, self.deviation, shape))

    def best_of(self, sizes: Sequence[int]) -> Array:
        """Compute the expected largest of N, float64 [K]: sum_k k (F(k)^N - F(k - 1)^N).

        Args:
            sizes: values of N, at least 1.
        """
        places, below = self._shares()
        number = np.asarray(sizes, dtype=np.float64)[:, None]
        return self.step * np.asarray(np.diff(below**number, axis=1) @ places)

    def moments(self) -> tuple[float, float]:
        """Return mean and standard deviation after rounding, in steps."""
        places, below = self._shares()
        shares = np.diff(below)
        mean = float(shares @ places)
        return mean, float(np.sqrt(shares @ (places - mean) ** 2))

    def _shares(self) -> tuple[Array, Array]:
        """The multiples that occur, [K], and how much lies below each and below none, [K + 1]."""
        from scipy.special import ndtr

        reach = REACH * self.deviation + 1
        places = np.arange(np.floor(self.mean - reach), np.ceil(self.mean + reach) + 1)
        edges = np.append(places - 0.5, places[-1] + 0.5)
        return places, np.asarray(ndtr((edges - self.mean) / self.deviation))


def common_step(changes: Array) -> float | None:
    """Find the step of which all changes are multiples, by Euclid's algorithm.

    It is the greatest that fits, so few changes may show a multiple of the true step. A reward without steps
    has none: remainders go on until they are as small as nothing could tell.

    Args:
        changes: of any shape, not all the same.

    Returns:
        The step; None if there is none, or if it is below a tenth of the changes' standard deviation.
    """
    sizes = np.unique(np.abs(changes))
    least, rounding = FINE * float(changes.std(ddof=1)), ROUNDING * float(sizes[-1])
    step = 0.0
    for size in sizes[sizes > rounding]:
        rest = float(size)
        while rest > rounding:
            step, rest = rest, abs(step - rest * round(step / rest))
        if step < least:
            return None
    return step


def grid_normal(mean: float, deviation: float, step: float) -> GridNormal:
    """Find the normal number that has a mean and a standard deviation once it is rounded.

    Args:
        mean: after rounding, in units of reward.
        deviation: after rounding, in units of reward, above 0.
        step: of the grid, in units of reward.

    Returns:
        The number. Where few values occur, several normal numbers round to them alike, and this is one.
    """
    from scipy.optimize import brentq

    mean, deviation = mean / step, deviation / step
    narrow, wide = 1e-3, deviation + 1.0
    if _centred(mean, narrow).moments()[1] < deviation:
        narrow = float(brentq(lambda each: _centred(mean, each).moments()[1] - deviation, narrow, wide))
    found = _centred(mean, narrow)
    return GridNormal(found.mean, found.deviation, step)


def _centred(mean: float, deviation: float) -> GridNormal:
    """The normal number of a standard deviation before rounding, and of a mean after it, both in steps."""
    from scipy.optimize import brentq

    def missed(before: float) -> float:
        return GridNormal(before, deviation, 1.0).moments()[0] - mean

    # Rounding moves a number, and so a mean, by half a step at most.
    return GridNormal(float(brentq(missed, mean - 0.501, mean + 0.501)), deviation, 1.0)
