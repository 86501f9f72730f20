"""Whether the centre is like its nearest neighbours: the mean change, extrapolated to sigma 0."""

from __future__ import annotations

import numpy as np

from es_lightning.analysis.intervals import Estimate, over
from es_lightning.landscape.arrays import Array


def centre_offset(near: Array, far: Array, ratio: float, unit: int = 1) -> Estimate:
    """Extrapolate the mean change to sigma 0, from two noise scales (Richardson).

    Around a point of a smooth reward the mean change is sigma^2 / 2 tr H, up to sigma^4, and with q = ratio^2

        (mean change at the smaller sigma - q * that at the larger) / (1 - q)

    is 0. A greedy answer that tips at any touch is as often another at the smallest sigma as at a larger
    one, and the centre has only one of the two: it is then luckier or unluckier than its neighbours.

    Args:
        near: changes at the smaller sigma, [S, M], in units of reward.
        far: those of the same noise at the larger, [S, M].
        ratio: the smaller sigma divided by the larger.
        unit: 2 where candidates 2k and 2k + 1 have the same noise with opposite signs, otherwise 1.

    Returns:
        With Student's interval over candidates, or over pairs.
    """
    independent = at_no_noise(near, far, ratio).reshape(-1, unit).mean(axis=1)
    return over(np.asarray(independent), "candidates" if unit == 1 else "pairs")


def at_no_noise(near: Array, far: Array, ratio: float) -> Array:
    """Extrapolate values at two noise scales to scale 0, linearly in the square of the scale.

    Args:
        near: at the smaller scale, of any shape.
        far: at the larger, of the same shape.
        ratio: the smaller scale divided by the larger.
    """
    return np.asarray((near - ratio**2 * far) / (1 - ratio**2))
