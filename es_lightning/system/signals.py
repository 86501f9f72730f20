"""SIGTERM and Ctrl-C end a run between two steps, never within one.

A run can abandon waiting and generating at any moment, since they do not touch the centre. It finishes an
update, a line of the journal and a checkpoint first.
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
    """Raised when the run is asked to stop.

    It is not an ``Exception``, so that no ``except Exception`` on the way swallows it.

    Args:
        signum: the signal that asked for the stop.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.exit_code = 128 + signum  # as a shell reports a process that a signal has ended


class _Listener:
    """The handler of the signals, and what it has to remember."""

    def __init__(self) -> None:
        self.depth = 0  # interruptible blocks that are open
        self.asked: int | None = None  # the signal that asked for a stop
        self.before: dict[int, Any] = {}  # the handlers that this one replaced
        self.tell: Callable[[int], None] | None = None

    def __call__(self, signum: int, frame: Any) -> None:
        if self.asked is not None:
            return  # a launcher and a terminal may both send a signal; the first one already stops the run
        self.asked = signum
        if self.tell is not None:
            self.tell(signum)
        if self.depth:
            raise Interrupted(signum)


_listener = _Listener()


def listen(tell: Callable[[int], None] | None = None) -> None:
    """Take over SIGTERM and SIGINT; do nothing outside the main thread, which alone may set handlers.

    Args:
        tell: called with the signal as soon as it arrives, for example to pass it on to other ranks.
    """
    if current_thread() is not main_thread():
        return
    stop_listening()
    signals = list(SIGNALS)
    if signal.getsignal(signal.SIGUSR1) not in {signal.SIG_DFL, signal.SIG_IGN, None}:
        # Lightning handles it under SLURM, and would write a checkpoint in the middle of an update.
        signals.append(signal.SIGUSR1)
    _listener.tell = tell
    _listener.before = {signum: signal.signal(signum, _listener) for signum in signals}


def stop_listening() -> None:
    """Restore the handlers that ``listen`` replaced."""
    for signum, handler in _listener.before.items():
        signal.signal(signum, handler)
    _listener.before, _listener.asked, _listener.depth, _listener.tell = {}, None, 0, None


@contextmanager
def interruptible() -> Iterator[None]:
    """Let signals raise ``Interrupted`` within this block; elsewhere they wait for the next such block."""
    _listener.depth += 1
    try:
        if _listener.asked is not None and _listener.before:
            raise Interrupted(_listener.asked)
        yield
    finally:
        _listener.depth = max(0, _listener.depth - 1)  # stop_listening may have reset it to 0


def wait_for(work: Callable[[], T]) -> T:
    """Run ``work`` in another thread and wait for it, so that a signal can interrupt the wait.

    Python runs signal handlers only in the main thread, between two steps of Python code. If that thread
    waited in C++, as collectives do for other ranks, signals would be held back.
    """
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    with interruptible():
        Thread(target=run, daemon=True, name="wait_for").start()
        return outcome.result()
