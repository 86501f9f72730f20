"""Freed memory goes back to the system, so that the peak, told here too, is what the algorithm needs."""

import ctypes
import resource
import sys
from contextlib import suppress
from pathlib import Path

M_MMAP_THRESHOLD = -3  # glibc, malloc.h
THRESHOLD = 4 * 2**20


def return_freed_tensors() -> None:
    """Make glibc map every block of 4 MiB or more outside the heap, for the life of the process.

    Such a block goes back to the system when it is freed. By default glibc raises the threshold up to 32 MiB
    as blocks are freed, and the heap keeps what streaming weights through an engine leaves behind. Other C
    libraries have no such setting and stay as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, THRESHOLD)


def trim_heap() -> None:
    """Return the memory of smaller blocks, freed within the heap, to the system; takes milliseconds."""
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)


def peak_of_process() -> int:
    """Return the most bytes of host memory that this process has had so far.

    On Linux ``getrusage`` would count what the process that started this one had had by then.
    """
    with suppress(OSError):
        lines = Path("/proc/self/status").read_text().splitlines()
        if peaks := [line.split()[1] for line in lines if line.startswith("VmHWM:")]:
            return int(peaks[0]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB: getrusage(2)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def peak_of_accelerator() -> int | None:
    """Return the most bytes that torch has had on this process's accelerator; None where nobody counts."""
    import torch

    with suppress(RuntimeError):  # not every version can count Apple's memory: pytorch issue 186430
        if torch.accelerator.is_available():
            return int(torch.accelerator.max_memory_allocated())
    return None


def peak_bytes() -> int:
    """Return the most bytes of memory that this process has had: the accelerator's if there is one."""
    on_accelerator = peak_of_accelerator()
    return peak_of_process() if on_accelerator is None else on_accelerator
