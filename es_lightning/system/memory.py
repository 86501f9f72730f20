"""Give freed tensors back to the system, so that peaks stay where the algorithm puts them."""

import ctypes

M_MMAP_THRESHOLD = -3  # glibc, malloc.h
THRESHOLD = 4 * 2**20


def return_freed_tensors() -> None:
    """Let glibc map every block of 4 MiB or more apart from the heap, for the life of the process.

    Left alone, glibc raises that threshold to 32 MiB as blocks are freed, and the heap keeps what streaming
    weights through an engine leaves behind. Other C libraries have no such setting, and are left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, THRESHOLD)


def trim_heap() -> None:
    """Give back what smaller blocks left behind in the heap; takes milliseconds."""
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)
