"""Keepers: each watches over one process that runs a task's code, and outlives it only to tidy up.

A keeper runs no code of a task. It reads what the process and its children print. It kills all of them, in
whatever session or process group they are, as soon as the process ends or the run hangs up. On Linux it is
the parent of every orphan below it, so that none escapes. Elsewhere a process escapes if it leaves both the
process group and the parent that it was started with.
"""

import os
import select
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress

from es_lightning.grading.output import Reader, capture
from es_lightning.system.processes import adopt_orphans, children, end_with_parent

CHECK_MS = 500
"""How often a keeper looks whether its parent is still there, if nothing else wakes it."""
READ_PAUSE = (
    0.02  # seconds: between them a writer fills the pipe, so one that prints much wakes nobody for it
)
FAREWELL_SECONDS = 0.5  # for the keepers below that one whose process has ended
KILL_SECONDS = 2.0  # a process that the system holds for longer, on a dead disk say, is given up


def keep(
    work: Callable[[], None],
    parent: int,
    line: socket.socket,
    prints: socket.socket,
    mercy_seconds: float = 0.0,
) -> None:
    """Do some work in a fork of this process; return once it has ended, and all that it started.

    Args:
        work: done in the fork, which exits after it.
        parent: process that started this one; when it ends, the fork is to end. It may have ended already.
        line: to the run; when the run hangs up, the fork is to end.
        prints: takes what the fork and its children print, see ``Reader``.
        mercy_seconds: how long the fork may take to end by itself after the run has hung up. It gets a SIGHUP
            then. After that, or at once if this is 0, it is killed.
    """
    keeper = os.getpid()
    adopt_orphans()
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        end_with_parent()
        if os.getppid() != keeper:  # it had ended before that call
            os._exit(0)
        os.close(ours)
        prints.close()
        capture(theirs)
        os.close(theirs)
        work()
        raise SystemExit
    os.close(theirs)
    _Watch(child, parent, line, Reader(ours, prints)).until_all_have_ended(mercy_seconds)


class _Watch:
    """A keeper's view of the process that it watches over."""

    def __init__(self, child: int, parent: int, line: socket.socket, output: Reader) -> None:
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, signal.SIG_IGN)  # a keeper ends last
        self._wake, waker = os.pipe()
        for descriptor in (self._wake, waker):
            os.set_blocking(descriptor, False)
        for signum in (signal.SIGCHLD, signal.SIGHUP):
            signal.signal(signum, lambda *_: None)  # a handler: what is ignored wakes nobody
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        self._child: int | None = child
        self._parent, self._line, self._output = parent, line, output
        self._poll = select.poll()
        self._poll.register(self._wake, select.POLLIN)
        self._poll.register(output.pipe, select.POLLIN)
        self._poll.register(line, 0)  # asks for the end of the line alone

    def until_all_have_ended(self, mercy_seconds: float) -> None:
        while self._reap() and self._child and os.getppid() == self._parent:
            if self._line.fileno() in self._events(CHECK_MS):
                break
        self._poll.unregister(self._line)  # its end would wake every wait from here on
        if self._child and mercy_seconds:
            os.kill(self._child, signal.SIGHUP)
            self._wait(mercy_seconds, for_all=False)
        if self._child is None and mercy_seconds:
            for (
                pid
            ) in children():  # keepers of workers, mostly: they tell what was printed last, then they end
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGHUP)
            self._wait(FAREWELL_SECONDS, for_all=True)
        deadline = time.monotonic() + KILL_SECONDS
        while self._reap() and time.monotonic() < deadline:
            self._kill_all()
            self._output.read()
            time.sleep(0.001)
        self._output.finish()

    def _wait(self, seconds: float, for_all: bool) -> None:
        """Wait until the process has ended, or all children have, but no longer than some seconds."""
        deadline = time.monotonic() + seconds
        while self._reap() and (for_all or self._child) and (left := deadline - time.monotonic()) > 0:
            self._events(min(CHECK_MS, int(1000 * left) + 1))

    def _events(self, milliseconds: int) -> set[int]:
        """Wait until something happens; pass on what has been printed."""
        events = {descriptor for descriptor, _ in self._poll.poll(milliseconds)}
        if self._wake in events:
            os.read(self._wake, 4096)
        if self._output.pipe in events and self._output.read():
            time.sleep(READ_PAUSE)
        if self._output.pipe in events and self._output.closed:
            self._poll.unregister(self._output.pipe)
        self._output.send()
        return events

    def _reap(self) -> bool:
        """Let ended children go; tell whether there are others."""
        try:
            while pid := os.waitpid(-1, os.WNOHANG)[0]:
                if pid == self._child:
                    self._child = None
        except ChildProcessError:
            return False
        return True

    def _kill_all(self) -> None:
        """Kill the children, and the groups that they lead; the orphans that this makes come next."""
        for pid in {*children(), *filter(None, [self._child])}:
            with suppress(ProcessLookupError, PermissionError):
                if os.getpgid(pid) == pid:
                    os.killpg(pid, signal.SIGKILL)
                os.kill(pid, signal.SIGKILL)
