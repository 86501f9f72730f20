"""Threads, peak memory and digests, on every kind of device."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b

import torch
from torch import Tensor

from benchmarks.memory import reset_peak, resident


def digest(tensor: Tensor) -> str:
    """Return a text that stands for all bits of a tensor."""
    raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return blake2b(raw.numpy().tobytes(), digest_size=16).hexdigest()


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread, so that other numbers of threads can be compared with it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def use_all_cores() -> None:
    """Compute with two threads at least: the reference is made with one."""
    torch.set_num_threads(max(2, len(os.sched_getaffinity(0))))


def synchronize(device: str) -> None:
    """Wait until a device has done what it was asked for."""
    if device != "cpu":
        torch.accelerator.synchronize()


def start_peak(device: str) -> None:
    """Let the peak start from now."""
    if device == "cpu":
        reset_peak()
    else:
        torch.accelerator.reset_peak_memory_stats()


def peak_gb(device: str) -> float:
    """Return the peak: of torch's tensors on the device, or of the whole process on a CPU."""
    return (resident("VmHWM") if device == "cpu" else torch.accelerator.max_memory_allocated()) / 1e9
