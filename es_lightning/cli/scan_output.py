"""What a scan writes and says: its table as CSV, short names of models, sentences."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from es_lightning.journal.entry import JOURNAL
from es_lightning.journal.opening import EXPORT
from es_lightning.landscape.scans import kinds
from es_lightning.landscape.scans.kinds import BASE, TUNED, Table
from es_lightning.landscape.scans.scan import Barrier
from es_lightning.system.files import replacing

log = logging.getLogger(__name__)


def write_table(path: Path, table: Table) -> None:
    """Write a table as CSV; the file is replaced as a whole, and what is no number there is empty.

    Args:
        path: the file.
        table: columns by name.
    """
    text = io.StringIO()
    lines = kinds.rows(table)
    writer = csv.DictWriter(text, list(table), lineterminator="\n")
    writer.writeheader()
    for row in lines:
        writer.writerow({name: "" if value != value else value for name, value in row.items()})  # nan != nan
    with replacing(path) as file:
        file.write(text.getvalue().encode())


def labels(references: Sequence[str]) -> list[str]:
    """Return short names for models: the last part of each path, or all of it where two would be alike."""
    short = []
    for reference in references:
        path = Path(reference.replace(f"/{JOURNAL}", ""))  # the run's name says more
        generic = path.name in (EXPORT, "best") and path.parent.name
        short.append(f"{path.parent.name}/{path.name}" if generic else path.name)
    reserved = {BASE, TUNED} & set(short) or len(set(short)) < len(short)
    return list(references) if reserved else short


def words(found: Barrier) -> str:
    """Say what is known of a barrier."""
    ends = f"{found.low:.3f} to {found.high:.3f} (95 %)"
    known = f"largest drop {found.height:.3f} at t = {found.at:g}, true one {ends}"
    return f"a barrier: {known}" if found.is_seen else f"no barrier beyond chance: {known}"


def tell_point(name: str, table: Table, at: npt.NDArray[np.bool_]) -> None:
    """Put the reward of one point into the log.

    Args:
        name: of the point.
        table: columns ``reward`` and ``reward_se``.
        at: where the point is in them; the first is taken.
    """
    values: Mapping[str, float] = {column: float(table[column][at][0]) for column in ("reward", "reward_se")}
    log.info("%s: reward %.3f +- %.3f (standard error over prompts).", name, *values.values())
