"""Freed memory goes back to the system, so that the peak is what the algorithm itself needs."""

import ctypes

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
