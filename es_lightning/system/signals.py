"""SIGTERM and Ctrl-C end a run between two steps, never within one.

Waiting and generating can be left at any moment, since the centre is not touched; an update, a line of the
journal and a checkpoint are finished first.
"""

import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from threading import Thread, current_thread, main_thread
from typing import Any, TypeVar

T = TypeVar("T")
SIGNALS = [signal.SIGTERM, signal.SIGINT]


class Interrupted(BaseException):
    """The run was asked to stop; no ``Exception``, so that nothing on the way swallows it.

    Args:
        signum: the signal that asked.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.exit_code = 128 + signum


class _Listener:
    """What the two signals do at present."""

    def __init__(self) -> None:
        self.depth = 0
        self.asked: int | None = None
        self.before: dict[int, Any] = {}
        self.tell: Callable[[int], None] | None = None

    def __call__(self, signum: int, frame: Any) -> None:
        if self.asked is not None:
            return  # a launcher and a terminal may both send one; the first is being obeyed
        self.asked = signum
        if self.tell is not None:
            self.tell(signum)
        if self.depth:
            raise Interrupted(signum)


_listener = _Listener()


def listen(tell: Callable[[int], None] | None = None) -> None:
    """Take the two signals over; only the main thread can.

    Args:
        tell: called with the signal as soon as it comes, for example to pass it on to other ranks.
    """
    if current_thread() is not main_thread():
        return
    stop_listening()
    signals = list(SIGNALS)
    if signal.getsignal(signal.SIGUSR1) not in {signal.SIG_DFL, signal.SIG_IGN, None}:
        signals.append(signal.SIGUSR1)  # under SLURM Lightning would write a checkpoint amid an update
    _listener.tell = tell
    _listener.before = {signum: signal.signal(signum, _listener) for signum in signals}


def stop_listening() -> None:
    """Give the signals back to whoever had them."""
    for signum, handler in _listener.before.items():
        signal.signal(signum, handler)
    _listener.before, _listener.asked, _listener.depth, _listener.tell = {}, None, 0, None


@contextmanager
def interruptible() -> Iterator[None]:
    """Within this block a signal raises ``Interrupted``; elsewhere it waits for the next such block."""
    _listener.depth += 1
    try:
        if _listener.asked is not None and _listener.before:
            raise Interrupted(_listener.asked)
        yield
    finally:
        _listener.depth = max(0, _listener.depth - 1)


def wait_for(work: Callable[[], T]) -> T:
    """Run ``work`` in a thread and wait for it in this one: a wait outside Python would hold signals back."""
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    with interruptible():
        Thread(target=run, daemon=True, name="wait_for").start()
        return outcome.result()
