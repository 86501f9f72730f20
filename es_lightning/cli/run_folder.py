"""The folder of a run: which files a run writes there, and how a later run replaces them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from es_lightning.journal.entry import JOURNAL, REWARDS
from es_lightning.journal.evaluations import EVALUATIONS
from es_lightning.tracking.places import MLFLOW_RUN

ANALYSIS = ("analysis.json", "analysis.csv", "analysis.jsonl")
"""What ``analyze`` has left of the run in its folder."""
RUN_FILES = ("config.yaml", JOURNAL, REWARDS, EVALUATIONS, MLFLOW_RUN, "summary.json", *ANALYSIS)
RUN_FOLDERS = ("checkpoints", "model", "plots", "tables", "best", "exported")

Stamps = Mapping[Path, tuple[int, int]]


def stamps(root: Path) -> Stamps:
    """Return the files that a run has left in its folder, each with a stamp that any rewriting changes."""
    return {path: _stamp(path) for path in _files(root)}


def remove_unchanged(root: Path, before: Stamps) -> None:
    """Delete a run's files, except those that the next run has already rewritten; other files stay.

    Args:
        root: the run's folder.
        before: the ``stamps`` of its files from before the next run wrote any.
    """
    for path in _files(root):
        if before.get(path) == _stamp(path):
            path.unlink()
    for name in RUN_FOLDERS if before else ():
        for folder, _, _ in os.walk(root / name, topdown=False):
            with suppress(OSError):  # not empty: it holds files of the next run
                os.rmdir(folder)


def _files(root: Path) -> Iterator[Path]:
    yield from (root / name for name in RUN_FILES if os.path.lexists(root / name))
    for name in RUN_FOLDERS:
        for folder, folders, files in os.walk(root / name):
            paths = [Path(folder, entry) for entry in (*folders, *files)]
            # A link to a folder counts as a file: it is removed, and what it points to is left alone.
            yield from (path for path in paths if path.is_symlink() or not path.is_dir())


def _stamp(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_ino, status.st_mtime_ns
