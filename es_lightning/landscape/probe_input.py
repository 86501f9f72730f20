"""The rewards of a probe as the statistics take them, from what a probe has written."""

from __future__ import annotations

import numpy as np

from es_lightning.landscape.probe_store import ProbeResults
from es_lightning.landscape.probe_summary import ProbeTable


def probe_table(results: ProbeResults) -> ProbeTable:
    """Return the rewards of a probe.

    Args:
        results: of a probe that has ended.
    """
    header = results.header
    return ProbeTable(
        name=results.folder.resolve().name,
        centre=results.centre,
        rewards={sigma: results.rewards(sigma) for sigma in results.sigmas},
        pairs=has_pairs(results),
        most=header.get("most"),
        parameters=header.get("parameters"),
        task=str(header.get("task", "")),
    )


def has_pairs(results: ProbeResults) -> bool:
    """Tell whether all candidates come in pairs with the same seed and opposite signs, side by side.

    Args:
        results: of a probe.
    """
    seeds, signs = (np.asarray(results.table[name].to_numpy()) for name in ("seed", "sign"))
    if len(seeds) % 2 or results.header["members"] % 2:
        return False
    return bool((seeds[::2] == seeds[1::2]).all() and (signs[::2] == -signs[1::2]).all())
