"""SIGTERM and Ctrl-C end a run between two steps, never within one; a second Ctrl-C ends it at once.

A run can abandon waiting and generating at any moment, since they do not touch the centre. It finishes an
update, a line of the journal and a checkpoint first. Before the first generation there is nothing to finish.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from threading import Thread, current_thread, main_thread
from typing import Any, TypeVar

T = TypeVar("T")
SIGNALS = [signal.SIGTERM, signal.SIGINT]
ECHO_SECONDS = 0.5
"""A launcher and a terminal may both pass on one Ctrl-C; a signal within this time is taken for an echo."""


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
    """The handler of the signals, and what it has to remember.

    Args:
        depth: interruptible blocks that are open.
    """

    def __init__(self, depth: int = 0) -> None:
        self.depth = depth
        self.asked: int | None = None  # the signal that asked for a stop
        self.asked_at = 0.0
        self.before: dict[int, Any] = {}  # the handlers that this one replaced
        self.tell: Callable[[int], None] | None = None

    def __call__(self, signum: int, frame: Any) -> None:
        if self.asked is not None:
            self._insist(signum)
            return
        self.asked, self.asked_at = signum, time.monotonic()
        if self.tell is not None:
            self.tell(signum)
        if self.depth:
            raise Interrupted(signum)
        if signum == signal.SIGINT:
            _say("stopping after this step; Ctrl-C again ends the run at once")

    def _insist(self, signum: int) -> None:
        """End the process on a second Ctrl-C: what the first one waits for may never end.

        Graders and ranks end with it, since their sockets close.
        """
        if signum == signal.SIGINT and time.monotonic() - self.asked_at > ECHO_SECONDS:
            _say("ended at once by another Ctrl-C; --ckpt_path last goes on after the last generation")
            os._exit(128 + signum)


_listener = _Listener()


@contextmanager
def ending_at_once() -> Iterator[None]:
    """Let SIGTERM and Ctrl-C end the process in one line, without a traceback: nothing has been started yet.

    An exception would not do while modules load, since some of them turn it into errors of their own.
    """
    with _handling(_end):
        yield


@contextmanager
def interruptible_start() -> Iterator[None]:
    """Let SIGTERM and Ctrl-C raise ``Interrupted`` anywhere in this block, until ``listen`` takes over."""
    with _handling(_Listener(depth=1)):
        try:
            yield
        finally:
            stop_listening()  # a run that failed may not have come to that


@contextmanager
def _handling(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Handle the signals with ``handler`` in this block; those that the caller ignores stay ignored."""
    if current_thread() is not main_thread():
        yield
        return
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}
    before = {signum: old for signum, old in before.items() if old is not signal.SIG_IGN}
    for signum in before:
        signal.signal(signum, handler)
    try:
        yield
    finally:
        for signum, old in before.items():
            signal.signal(signum, signal.SIG_DFL if old is None else old)


def _end(signum: int, frame: Any) -> None:
    """End this process now, without its exit handlers."""
    _say(str(Interrupted(signum)))
    os._exit(128 + signum)


def _say(line: str) -> None:
    """Write a line to stderr, past its buffer, which the interrupted code may be about to change."""
    os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"\nes-lightning: {line}.\n".encode())


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


def stop_is_asked() -> bool:
    """Whether a signal waits for the next interruptible block, so that nothing long should begin."""
    return _listener.asked is not None and bool(_listener.before)


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


def wait_for(work: Callable[[], T], abandons: bool = True) -> T:
    """Run ``work`` in another thread and wait for it, so that a signal can interrupt the wait.

    Python runs signal handlers only in the main thread, between two steps of Python code. If that thread
    waited in C++, as collectives do for other ranks, signals would be held back.

    Args:
        work: what to wait for.
        abandons: whether one signal ends the wait; otherwise it takes a second Ctrl-C, as within an update.
    """
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    with interruptible() if abandons else nullcontext():
        Thread(target=run, daemon=True, name="wait_for").start()
        return outcome.result()
