"""The effective dimension that antithetic pairs tell for nothing: curvature bends both members alike.

To second order R(theta +- sigma eps) = R_0 +- sigma g.eps + sigma^2 / 2 eps^T H eps, so a pair's even part
s = (R+ + R-) / 2 - R_0 = sigma^2 / 2 eps^T H eps has mean sigma^2 / 2 tr H and variance sigma^4 / 2 tr H^2:

    d_eff = 2 mean(s)^2 / var(s) = (tr H)^2 / tr H^2,

the signed participation ratio of H's eigenvalues. Noise of the rewards adds to var(s), and lowers it.

A centre that is luckier than its nearest neighbours shifts every s by the same amount at every sigma. That is
no curvature, and two noise scales tell it: ``at_no_noise`` of the even parts.
"""

from __future__ import annotations

import numpy as np

from es_lightning.analysis.intervals import Estimate, t_quantile
from es_lightning.landscape.arrays import Array
from es_lightning.landscape.statistics.intervals import jackknife_error

ROUNDING = 1e-9  # a spread below this, relative to the largest change, is no spread


def even_parts(changes: Array) -> Array:
    """Compute s = (R+ + R-) / 2 - R_0 of each pair.

    Args:
        changes: R - R_0, [..., 2 K], the two members of a pair side by side.

    Returns:
        float64 [..., K].
    """
    return np.asarray((changes[..., ::2] + changes[..., 1::2]) / 2)


def effective_dimension(changes: Array, offset: Array | None = None) -> Estimate | None:
    """Estimate d_eff from antithetic pairs, with the jackknife's interval over pairs, on a log scale.

    Args:
        changes: R - R_0, [..., 2 K], the two members of a pair side by side.
        offset: even part of each pair, extrapolated to sigma 0, [..., K]; it is taken off the mean. None is
            0, as where the reward is smooth.

    Returns:
        None with fewer than 4 pairs, where all even parts are equal, or where their mean is not away from 0
        at 95 %: without curvature there is nothing whose dimension could be told.
    """
    parts = even_parts(changes).ravel()
    count = len(parts)
    bent = parts if offset is None else parts - offset.ravel()
    if count < 4 or np.ptp(parts) <= ROUNDING * np.abs(changes).max():
        return None
    quantile = t_quantile(count - 1)
    if abs(bent.mean()) <= quantile * bent.std(ddof=1) / np.sqrt(count):
        return None
    value = 2 * bent.mean() ** 2 / parts.var(ddof=1)
    # Mean and variance without each pair in turn.
    apart = parts - parts.mean()
    means = bent.mean() - (bent - bent.mean()) / (count - 1)
    variances = ((apart**2).sum() - count / (count - 1) * apart**2) / (count - 2)
    with np.errstate(divide="ignore"):
        half = quantile * float(jackknife_error(np.log(2 * means**2 / variances)))
    if not np.isfinite(half):  # all pairs but one agree
        return Estimate(float(value), np.nan, np.nan, f"{count} pairs, of which all but one agree")
    return Estimate(float(value), value * np.exp(-half), value * np.exp(half), f"jackknife, {count} pairs")
