"""The folder of a fit or a baseline: which files it writes there, and how a later run replaces them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from es_lightning.baselines.files import LOG, POLICY, UPDATES
from es_lightning.errors import UsageError
from es_lightning.journal.entry import JOURNAL, REWARDS
from es_lightning.journal.evaluations import EVALUATIONS
from es_lightning.tracking.places import MLFLOW_RUN

ANALYSIS = ("analysis.json", "analysis.csv", "analysis.jsonl")
"""What ``analyze`` has left of the run in its folder."""
CONFIG = "config.yaml"
OF_BASELINE = (UPDATES, LOG, POLICY)
RUN_FILES = (CONFIG, JOURNAL, REWARDS, EVALUATIONS, MLFLOW_RUN, "summary.json", *ANALYSIS, *OF_BASELINE)
RUN_FOLDERS = ("checkpoints", "model", "plots", "tables", "best", "exported", "trl")

Stamps = Mapping[Path, tuple[int, int]]


def holds_run(root: Path) -> bool:
    """Whether a fit or a baseline has begun in a folder; other files of the user's do not count."""
    return any(os.path.lexists(root / name) for name in (CONFIG, JOURNAL, UPDATES))


def holds_baseline(root: Path) -> bool:
    """Whether the run in a folder is a baseline, which no fit can go on with."""
    return os.path.lexists(root / UPDATES) and not os.path.lexists(root / JOURNAL)


def check_base_stays(base: str, root: Path, option: str) -> None:
    """Refuse to replace a run by one that starts from a model of that run.

    Args:
        base: folder of the model, or another name of one.
        root: the run's folder.
        option: that names the folder, for the message.

    Raises:
        UsageError: the model would be deleted.
    """
    place = Path(base).expanduser()
    owned = [(root / name).resolve() for name in RUN_FOLDERS]
    if place.exists() and any(place.resolve().is_relative_to(folder) for folder in owned):
        raise UsageError(
            f"--overwrite true would delete the base model {base}: copy it elsewhere, or choose another "
            f"folder with {option}."
        )


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
