"""Which CPU cores this thread may use; without torch, so that small commands start at once."""

import os


def allowed() -> frozenset[int]:
    """Return the cores that this thread may use: all of them where the system binds no threads."""
    every = range(os.cpu_count() or 1)
    return frozenset(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else every)


def allow(cores: frozenset[int]) -> None:
    """Let this thread, and whatever it starts from now on, use the cores that ``allowed`` returned before."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
