"""Ties between processes: a child that ends with its parent, and orphans that come back to one of theirs.

Both need Linux. Elsewhere they do nothing, and whoever uses them does what can be done without.
"""

import ctypes
import os
import signal
from contextlib import suppress
from pathlib import Path

PR_SET_PDEATHSIG = 1  # Linux, sys/prctl.h
PR_SET_CHILD_SUBREAPER = 36


def end_with_parent() -> None:
    """Let the kernel kill this process when the thread that started it ends."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def adopt_orphans() -> None:
    """Become the parent of descendants that lose theirs, whatever their session or process group is."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def children() -> list[int]:
    """Return the ids of the processes whose parent is this one; none where there is no ``/proc``."""
    found, parent = [], os.getpid()
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended meanwhile
            fields = path.read_bytes().rpartition(b")")[2].split()  # the name before ")" may hold anything
            if int(fields[1]) == parent:
                found.append(int(path.parent.name))
    return found


def _prctl(option: int, value: int) -> None:
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0))
