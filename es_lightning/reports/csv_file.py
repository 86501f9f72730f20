"""Rows of numbers as a CSV file: what stands beside every picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from es_lightning.system.files import replacing


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as CSV, in columns of the keys' names; a number keeps every bit, None is empty.

    Args:
        path: the file, which is replaced as a whole; its folder is made.
        rows: one mapping per line; a key that a row lacks is empty.

    Raises:
        StorageError: the disk is full or the folder cannot be written.
    """
    from pandas import DataFrame

    with replacing(path) as file:
        DataFrame(list(rows)).to_csv(file, index=False)
