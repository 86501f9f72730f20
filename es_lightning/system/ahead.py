"""Items that a thread makes ahead of whoever takes them."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from queue import Full, Queue
from threading import Event, Thread
from typing import Generic, TypeVar

import torch

T = TypeVar("T")
LOOK_SECONDS = 0.1  # how often a thread with an item that nobody takes looks whether anybody will


def ahead(items: Iterable[T]) -> Iterator[T]:
    """Yield items that another thread makes, while the one before is in use; it is one item ahead.

    The main thread waits for an item in Python, so that a signal can interrupt it. If whoever takes the items
    stops early, the thread makes the others all the same and drops them: other ranks may wait for its part.

    Args:
        items: made without gradients, on the stream of the calling thread's accelerator.
    """
    work = _Work(items)
    Thread(target=work.run, daemon=True, name="ahead").start()
    try:
        yield from work.taken()
    finally:
        work.left.set()


class _Work(Generic[T]):
    def __init__(self, items: Iterable[T]) -> None:
        self.items, self.left = items, Event()
        self._queue: Queue[tuple[list[T], BaseException | None]] = Queue(maxsize=1)
        on_cpu = torch.accelerator.current_accelerator(check_available=True) is None
        self._stream = None if on_cpu else torch.accelerator.current_stream()

    @torch.no_grad()
    def run(self) -> None:
        error: BaseException | None = None
        if self._stream is not None:
            torch.accelerator.set_stream(self._stream)
        try:
            for item in self.items:
                self._put([item], None)
        except BaseException as raised:
            error = raised
        self._put([], error)

    def _put(self, item: list[T], error: BaseException | None) -> None:
        while not self.left.is_set():
            with suppress(Full):
                self._queue.put((item, error), timeout=LOOK_SECONDS)
                return

    def taken(self) -> Iterator[T]:
        while True:
            item, error = self._queue.get()
            if error is not None:
                raise error
            if not item:
                return
            yield from item
