"""The rewards of probes as the statistics take them, from what probes have written."""

from __future__ import annotations

from collections.abc import Sequence

from es_lightning.landscape.probing.results import ProbeResults
from es_lightning.landscape.probing.summary import ProbeTable


def probe_tables(results: Sequence[ProbeResults]) -> list[ProbeTable]:
    """Return the rewards of probes, under the names of their models, or of their folders if those repeat.

    Args:
        results: of probes that have ended.
    """
    models = [str(each.header.get("model") or each.folder.resolve().name) for each in results]
    folders = [each.folder.resolve().name for each in results]
    names = models if len(set(models)) == len(models) else folders
    return [probe_table(each, name) for each, name in zip(results, names, strict=True)]


def probe_table(results: ProbeResults, name: str) -> ProbeTable:
    """Return the rewards of a probe.

    Args:
        results: of a probe that has ended.
        name: of the model, for tables.
    """
    header = results.header
    return ProbeTable(
        name=name,
        centre=results.centre,
        rewards={sigma: results.rewards(sigma) for sigma in results.sigmas},
        pairs=header["antithetic"],
        parameters=header.get("parameters"),
        task=header.get("task", ""),
    )
