"""Threads that wait do so quietly while other processes need the cores.

Between two parallel regions the threads of libgomp, PyTorch's OpenMP library on Linux, spin. On a quiet
machine that is fastest. Beside one busy process it is several times slower, since threads that spin use up
the time of those that have work (benchmarks/busy_neighbour.py measures both). Once there are more OpenMP
threads than cores, libgomp spins 100 times instead of 300,000 before a thread sleeps (libgomp's manual,
GOMP_SPINCOUNT). So as long as there is a neighbour, one more team of threads is kept, which sleeps. The
number of threads that compute stays, and so does every bit of the results.
"""

import os
import threading
import time
from collections.abc import Collection
from pathlib import Path

import torch

STAT = Path("/proc/stat")
OPENMP_VARIABLES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")
BUSY, QUIET = 0.25, 0.1  # cores that others use: above the first there is a neighbour, below the second none
PARALLEL_ELEMENTS = 1 << 20  # a tensor of this size is divided among all threads


class NeighbourWatch:
    """Looks once a second whether other processes use the same cores; if so, waiting threads sleep.

    It does nothing where it has nothing to decide: with one core, with a variable of OpenMP set by the user,
    or without Linux's ``/proc/stat``.

    Args:
        cores: the cores that this process computes on.
        interval_seconds: time between two looks.
    """

    def __init__(self, cores: Collection[int], interval_seconds: float = 1.0) -> None:
        self.cores, self.interval_seconds = frozenset(cores), interval_seconds
        self.quiet = threading.Event()
        self.quiet.set()
        self._stopped = threading.Event()
        chosen = any(name in os.environ for name in OPENMP_VARIABLES)
        self._thread: threading.Thread | None = None
        if len(self.cores) > 1 and not chosen and STAT.exists():
            self._thread = threading.Thread(target=self._watch, name="neighbours", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        if self._thread is not None:
            self._thread.start()

    def stop(self) -> None:
        """End the watch; threads spin again."""
        self._stopped.set()
        if self._thread is not None and self._thread.is_alive():
            self._thread.join()
        self.quiet.set()

    def _watch(self) -> None:
        before = (time.monotonic(), busy_seconds(self.cores), time.process_time())
        while not self._stopped.wait(self.interval_seconds):
            now = (time.monotonic(), busy_seconds(self.cores), time.process_time())
            wall, busy, own = (b - a for a, b in zip(before, now, strict=True))
            self._judge((busy - own) / wall)
            before = now

    def _judge(self, others: float) -> None:
        """Take note of how many cores other processes used since the last look."""
        if self.quiet.is_set() and others > BUSY:
            self.quiet.clear()
            threading.Thread(target=_keep_a_team_until, args=(self.quiet,), name="team", daemon=True).start()
        elif others < QUIET:
            self.quiet.set()


def busy_seconds(cores: Collection[int]) -> float:
    """Return the time that some cores have spent on any process since the machine started, in seconds."""
    ticks = 0
    for line in STAT.read_text(encoding="ascii").splitlines():
        name, *numbers = line.split()
        if name[:3] == "cpu" and name[3:].isdigit() and int(name[3:]) in cores:
            user, nice, system, _, _, *interrupts = map(int, numbers[:8])  # not: idle, waiting for a disk
            ticks += user + nice + system + sum(interrupts[:2])
    return ticks / os.sysconf("SC_CLK_TCK")


def _keep_a_team_until(event: threading.Event) -> None:
    """Start one more team of OpenMP threads, which sleeps until the event; it ends with this thread."""
    torch.ones(PARALLEL_ELEMENTS).exp_()
    event.wait()
