"""CPU cores for ranks: two engines that share cores slow each other down many times over."""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch


def share_of(cores: Sequence[int], rank: int, ranks: int, threads: int | None = None) -> list[int]:
    """The cores of one rank: a block of its own, as large as the others' or larger by one.

    Args:
        cores: all that this machine gives to the run.
        rank: index among the ranks of this machine.
        ranks: number of ranks on this machine; more ranks than cores take turns.
        threads: cores to use at the most; None uses the whole block.
    """
    if ranks > len(cores):
        return [cores[rank % len(cores)]]
    first, end = (len(cores) * r // ranks for r in (rank, rank + 1))
    return list(cores[first:end])[:threads]


def bind(cores: Sequence[int]) -> None:
    """Keep this process, with the threads it has and those to come, on some cores; one thread for each."""
    for thread in Path("/proc/self/task").glob("*"):
        with suppress(ProcessLookupError):  # a thread that has just ended
            os.sched_setaffinity(int(thread.name), cores)
    torch.set_num_threads(len(cores))
    os.environ["OMP_NUM_THREADS"] = str(len(cores))
