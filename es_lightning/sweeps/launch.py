"""Becomes a fit that ends with the sweep: python -m es_lightning.sweeps.launch PARENT CORES WORD ...

Between fork and exec of a process with threads almost nothing is safe. So a process of its own binds itself
to its cores, ties itself to the sweep, and then executes the command line in its own place.
"""

import os
import sys

from es_lightning.system.processes import end_with_parent


def launch(parent: int, cores: str, words: list[str]) -> None:
    """Execute ``es-lightning`` in the place of this process, unless the sweep has died meanwhile.

    Args:
        parent: process id of the sweep.
        cores: numbers of CPU cores, with commas; empty leaves all.
        words: the command line after ``es-lightning``.
    """
    end_with_parent()
    if os.getppid() != parent:  # it died before the kernel was told to end this process with it
        return
    if cores:
        os.sched_setaffinity(0, [int(core) for core in cores.split(",")])
    os.execv(sys.executable, [sys.executable, "-m", "es_lightning", *words])


if __name__ == "__main__":
    launch(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
