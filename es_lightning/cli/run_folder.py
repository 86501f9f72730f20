"""The folder of a run: what a run writes there, and how a later one takes its place."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from es_lightning.journal.entry import JOURNAL, REWARDS
from es_lightning.tracking.logger import MLFLOW_RUN

RUN_FILES = ("config.yaml", JOURNAL, REWARDS, MLFLOW_RUN, "summary.json")
RUN_FOLDERS = ("checkpoints", "model", "plots", "tables", "best", "exported")

Stamps = Mapping[Path, tuple[int, int]]


def stamps(root: Path) -> Stamps:
    """The files that a run has left in its folder, each with what changes when it is written again."""
    return {path: _stamp(path) for path in _files(root)}


def remove_unchanged(root: Path, before: Stamps) -> None:
    """Delete a run's files, but for those that the next run has written since, and nothing of others.

    Args:
        root: the run's folder.
        before: its files before the next run wrote any.
    """
    for path in _files(root):
        if before.get(path) == _stamp(path):
            path.unlink()
    for name in RUN_FOLDERS if before else ():
        for folder, _, _ in os.walk(root / name, topdown=False):
            with suppress(OSError):  # it holds files of the next run
                os.rmdir(folder)


def _files(root: Path) -> Iterator[Path]:
    yield from (root / name for name in RUN_FILES if os.path.lexists(root / name))
    for name in RUN_FOLDERS:
        for folder, folders, files in os.walk(root / name):
            paths = [Path(folder, entry) for entry in (*folders, *files)]
            yield from (path for path in paths if path.is_symlink() or not path.is_dir())


def _stamp(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_ino, status.st_mtime_ns
