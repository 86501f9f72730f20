"""A limit on the time that a piece of code may take in this process."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread
from typing import Any

AGAIN_SECONDS = 1.0


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise in this block once it has taken too long; outside the main thread there is no limit.

    Only Python code can be interrupted: a single call into C is waited for.

    Args:
        seconds: of wall-clock time.

    Raises:
        TimeoutError: the block has taken longer.
    """
    if current_thread() is not main_thread():  # it alone may set handlers
        yield
        return

    def end(signum: int, frame: Any) -> None:
        raise TimeoutError(f"not finished after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, end)
    # The alarm comes again, in case the first one is raised where exceptions are dropped.
    signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before if before is not None else signal.SIG_DFL)
