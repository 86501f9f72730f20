"""Folders that a run writes: whether they can be written, and how one takes the place of another."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import tempfile
from itertools import count
from pathlib import Path

from es_lightning.errors import UsageError

PROBE_BYTES = 2**16
AT_FDCWD = -100  # Linux, fcntl.h
RENAME_EXCHANGE = 2  # Linux, linux/fs.h


def check_writable(folder: str | Path, option: str) -> None:
    """Refuse a folder that a run could not write into; nothing is left behind, and no folder is made.

    Args:
        folder: if it does not exist yet, its nearest parent that does is tried.
        option: the option that names it, for the message.

    Raises:
        UsageError: it is a file or lies in one, its name is too long, or the disk is full or read-only.
    """
    if "://" in str(folder):
        raise UsageError(
            f"{option} is {folder}: give a folder of this machine, to whose files a run appends."
        )
    try:
        nearest = _nearest(Path(folder).absolute())
        if not nearest.is_dir():
            raise UsageError(f"{option} is {folder}, but {nearest} is a file: give another folder.")
        longest = os.pathconf(nearest, "PC_NAME_MAX")
        if any(len(os.fsencode(part)) > longest for part in Path(folder).parts):
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        with tempfile.TemporaryFile(dir=nearest) as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())  # a full disk may show only here
    except (OSError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise UsageError(
            f"{option} is {str(folder)[:100]!r}, which cannot be written ({reason}): free space, mend its "
            "permissions, or give another folder."
        ) from error


def new_folder(folder: str | Path) -> str:
    """Return the name of a folder for a new run: the given one, or NAME-2, NAME-3, ... if others are taken.

    Args:
        folder: the wanted name; a folder that exists and holds nothing is not taken.

    Raises:
        UsageError: this process is one of several ranks, which might find different names.
    """
    if int(os.environ.get("LOCAL_RANK", 0)) or int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise UsageError(
            "new_folder is for runs of one process, since ranks may find different folders: name a folder "
            "of its own for each run with default_root_dir."
        )
    for number in count(1):
        path = Path(folder if number == 1 else f"{folder}-{number}")
        if not path.exists() or (path.is_dir() and not any(path.iterdir())):
            break
    return str(path)


def _nearest(path: Path) -> Path:
    """Return the path itself if it exists, else the nearest of its parents that does."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return _nearest(path.parent)
    return path


def replace_folder(folder: Path, by: Path) -> None:
    """Let a complete folder take the place of another one; a crash at any moment loses neither.

    Linux swaps the two names in one step. Elsewhere, and on file systems that cannot do that, the old folder
    stands aside under a name of its own while the new one takes its place.

    Args:
        folder: the name; there may be nothing of that name yet.
        by: the new folder, on the same file system.
    """
    if not os.path.lexists(folder):
        by.rename(folder)
        return
    aside = by
    if not _exchanged(by, folder):
        aside = folder.with_name(f"{folder.name}.old")
        _remove(aside)
        folder.rename(aside)
        by.rename(folder)
    _remove(aside)


def _exchanged(one: Path, other: Path) -> bool:
    """Swap two names in one step; returns whether the system can do that."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    if rename is None:
        return False
    names = os.fsencode(one), os.fsencode(other)
    return bool(rename(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE) == 0)


def _remove(path: Path) -> None:
    """Remove a folder, or a link to one, as far as that is allowed."""
    if path.is_symlink():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)
