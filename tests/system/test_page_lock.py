"""Page-locked memory: what is asked of the CUDA runtime, in place of which this keeps the calls."""

import copy

import pytest
import torch

from es_lightning.errors import UsageError
from es_lightning.system.page_lock import PageLock

LARGE = 2**20  # elements of 4 bytes: 4 MiB


class Runtime:
    """Keeps what is locked; refuses the tensor of a given number."""

    def __init__(self, refuses: int = -1) -> None:
        self.locked: dict[int, int] = {}
        self.refuses = refuses

    def cudaHostRegister(self, place: int, size: int, flags: int) -> int:  # noqa: N802
        assert flags == 0
        assert place not in self.locked, "no page can be locked twice"
        if len(self.locked) == self.refuses:
            return 2  # cudaErrorMemoryAllocation
        self.locked[place] = size
        return 0

    def cudaHostUnregister(self, place: int) -> int:  # noqa: N802
        del self.locked[place]
        return 0


def test_large_tensors_are_locked_where_they_are_and_to_the_byte() -> None:
    tensors = [torch.zeros(LARGE), torch.zeros(3, LARGE), torch.zeros(8)]
    runtime = Runtime()
    lock = PageLock(tensors, runtime)
    assert runtime.locked == {tensors[0].data_ptr(): 4 * LARGE, tensors[1].data_ptr(): 12 * LARGE}
    copy.deepcopy(lock).release()
    assert len(runtime.locked) == 2, "a copy's tensors are elsewhere"
    lock.release()
    assert not runtime.locked
    lock.release()


def test_a_machine_that_refuses_ends_in_one_sentence_and_nothing_stays_locked() -> None:
    runtime = Runtime(refuses=1)
    with pytest.raises(UsageError, match=r"refuses to page-lock .* \(CUDA error 2, after 1 tensors\): free"):
        PageLock([torch.zeros(LARGE), torch.zeros(LARGE)], runtime)
    assert not runtime.locked
