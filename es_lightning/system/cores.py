"""CPU cores for ranks. Two engines that share cores slow each other down many times over."""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import nn

from es_lightning.system.affinity import allow, allowed

TINY_MODEL = 4_000_000  # parameters; below, dividing a multiplication among threads costs more than it saves


def share_of(cores: Sequence[int], rank: int, ranks: int, threads: int | None = None) -> list[int]:
    """Return the cores of one rank: a block of its own; the sizes of blocks differ by one at most.

    Args:
        cores: all cores that the run has on this machine.
        rank: index among the ranks of this machine.
        ranks: number of ranks on this machine; if there are more ranks than cores, ranks share cores.
        threads: largest number of cores to use; None uses the whole block.
    """
    if ranks > len(cores):
        return [cores[rank % len(cores)]]
    first, end = (len(cores) * r // ranks for r in (rank, rank + 1))
    return list(cores[first:end])[:threads]


def bind(cores: Sequence[int]) -> Callable[[], None]:
    """Bind this process to some cores, with its present and future threads, and use one thread per core.

    Returns:
        What undoes it, for the calling thread and whatever that starts from then on.
    """
    before, threads, told = allowed(), torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
    # Linux binds single threads; a new thread inherits the cores of the one that starts it.
    for thread in Path("/proc/self/task").glob("*"):
        with suppress(ProcessLookupError):  # the thread has just ended
            os.sched_setaffinity(int(thread.name), cores)
    torch.set_num_threads(len(cores))
    os.environ["OMP_NUM_THREADS"] = str(len(cores))

    def undo() -> None:
        allow(before)
        torch.set_num_threads(threads)
        os.environ.pop("OMP_NUM_THREADS", None)
        if told is not None:
            os.environ["OMP_NUM_THREADS"] = told

    return undo


def use_one_thread_if_tiny(model: nn.Module) -> None:
    """Compute with one thread from now on if a model is tiny and on the CPU, where more would only wait."""
    parameters = list(model.parameters())
    on_cpu = all(parameter.device.type == "cpu" for parameter in parameters)
    if on_cpu and sum(parameter.numel() for parameter in parameters) < TINY_MODEL:
        torch.set_num_threads(1)
