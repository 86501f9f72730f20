"""Page-locked host memory, which an accelerator reads by itself at the speed of its link."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from es_lightning.errors import UsageError
from es_lightning.system.memory import THRESHOLD


class PageLock:
    """Locks the memory of host tensors where it is, for the GPUs that torch calls cuda.

    ``Tensor.pin_memory`` would copy them, and take memory for the next power of two: for a matrix of Qwen2.5
    7B nearly twice as much. Tensors below 4 MiB stay as they are, since they may share a page with others,
    and no page can be locked twice.

    Args:
        tensors: contiguous, in host memory; they must not be freed before ``release``.
        runtime: with the functions of the CUDA runtime that this needs; None takes torch's.

    Raises:
        UsageError: the system refuses to lock so much memory.
    """

    def __init__(self, tensors: Iterable[Tensor], runtime: Any = None) -> None:
        self._runtime = runtime or torch.cuda.cudart()
        self._places: list[int] = []
        for tensor in tensors:
            size = tensor.numel() * tensor.element_size()
            if size >= THRESHOLD:
                self._lock(tensor.data_ptr(), size)

    def _lock(self, place: int, size: int) -> None:
        if code := int(self._runtime.cudaHostRegister(place, size, 0)):
            locked = len(self._places)
            self.release()
            raise UsageError(
                f"the machine refuses to page-lock memory for the centre (CUDA error {code}, after {locked} "
                "tensors): free some of its memory, or give --model.centre_device device."
            )
        self._places.append(place)

    def __deepcopy__(self, memo: dict[int, Any]) -> PageLock:
        """Return a lock of nothing: the tensors of a copy are elsewhere."""
        return PageLock((), self._runtime)

    def release(self) -> None:
        """Unlock the memory; once is enough."""
        while self._places:
            self._runtime.cudaHostUnregister(self._places.pop())
