"""What graders print, from any code and process of theirs: the first lines of it, and a count of the rest.

A grader's stdout and stderr are one pipe. Its keeper reads all of it, so that nobody waits for room in it,
and sends the run a few lines.
"""

import ctypes
import json
import logging
import os
import socket
import sys
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from es_lightning.system.text import printable, shortened

log = logging.getLogger(__name__)

MOST_LINES = 5
"""Lines that are kept of what is printed at one time, and lines that the log shows of a round."""
LONGEST_NAME = 100
_LONGEST = 4096
_READ_BYTES = 65536
_READS = 64  # at one time, so that a process that prints without end does not keep its reader
_MARK = b"\0"  # begins a line that says who prints from there on
_LIBC = ctypes.CDLL(None)

# In the process that grades ------------------------------------------------------------------------


class _Voice:
    """Whose lines this process prints; ``captured`` once its stdout is the pipe of a keeper."""

    captured = False
    name = ""


def capture(pipe: int) -> None:
    """Let all that this process and its children print go to a pipe."""
    for descriptor in (1, 2):
        os.dup2(pipe, descriptor)
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # a task's module may have put anything in their place
            stream.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]
    _Voice.captured, _Voice.name = True, ""


def speak_as(name: str) -> None:
    """Say whose function is called from here on; in the run's own process nothing is captured or said."""
    if _Voice.captured and name != _Voice.name:
        flush()
        _Voice.name = name
        os.write(1, b"\n" + _MARK + printable(name)[:LONGEST_NAME].encode() + b"\n")


def flush() -> None:
    """Write out what Python and C have buffered for stdout and stderr."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    _LIBC.fflush(None)


# In its keeper -------------------------------------------------------------------------------------


class Reader:
    """Reads all that comes through a pipe, and sends the run the first lines of it.

    Args:
        pipe: its end for reading.
        run: datagrams of JSON go there: ``[[[name, line], ...], {name: lines left out}]``.
    """

    def __init__(self, pipe: int, run: socket.socket) -> None:
        os.set_blocking(pipe, False)
        self.pipe, self.closed, self._run = pipe, False, run
        self._name, self._rest = "", b""
        self._lines: list[tuple[str, str]] = []
        self._left_out: Counter[str] = Counter()

    def read(self) -> bool:
        """Read what there is; tell whether there was anything."""
        for reads in range(_READS):
            try:
                data = os.read(self.pipe, _READ_BYTES)
            except BlockingIOError:
                return reads > 0
            if not data:
                self.closed = True
                return reads > 0
            lines, end, rest = (self._rest + data).rpartition(b"\n")
            self._rest = rest[:_LONGEST]
            if end and len(self._lines) == MOST_LINES and _MARK not in lines:
                self._left_out[self._name] += lines.count(end) + 1  # a flood is not looked at line by line
            elif end:
                self._take(lines.split(end))
        return True

    def send(self) -> None:
        """Send the run what has been read since the last time, or keep it while the run takes nothing."""
        if self._lines or self._left_out:
            packet = json.dumps([self._lines, self._left_out]).encode()
            with suppress(OSError):
                self._run.send(packet, socket.MSG_DONTWAIT)
                self._lines, self._left_out = [], Counter()

    def finish(self) -> None:
        """Read and send the last of it, a line without an end included."""
        self.read()
        self._take([self._rest])
        self.send()

    def _take(self, lines: list[bytes]) -> None:
        for line in lines:
            name = line[1:_LONGEST].decode(errors="replace")
            if line.startswith(_MARK) and len(name) <= LONGEST_NAME and name.isprintable():
                self._name = name
            elif len(self._lines) == MOST_LINES:
                self._left_out[self._name] += bool(line)
            elif text := line[:_LONGEST].decode(errors="backslashreplace").strip():
                self._lines.append((self._name, shortened(printable(text))))


# In the run ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Printed:
    """Some of what graders have printed.

    Args:
        lines: pairs of a function's name, empty if unknown, and a printable line of its.
        left_out: how many more lines there were, by name.
    """

    lines: tuple[tuple[str, str], ...]
    left_out: dict[str, int]


def receive(prints: socket.socket, most: int = 1000) -> list[Printed]:
    """Return what keepers have sent since the last call, without waiting."""
    received: list[Printed] = []
    with suppress(OSError):  # no more for now
        while len(received) < most:
            lines, left_out = json.loads(prints.recv(2**20, socket.MSG_DONTWAIT))
            received.append(Printed(tuple((name, line) for name, line in lines), left_out))
    return received


class PrintLog:
    """Puts what graders print into the log: the first lines of each round, and how many more there were.

    Args:
        unnamed: who printed a line that has no name.
    """

    def __init__(self, unnamed: str) -> None:
        self._unnamed, self._lines = unnamed, 0
        self._left_out: Counter[str] = Counter()

    def add(self, printed: Iterable[Printed]) -> None:
        """Log lines while the round has some left, and count the others."""
        for some in printed:
            self._left_out.update(some.left_out)
            for name, line in some.lines:
                if self._lines < MOST_LINES:
                    log.info("%s printed: %s", self._who(name), line)
                    self._lines += 1
                else:
                    self._left_out[name] += 1

    def end_round(self) -> None:
        """Log how many lines were left out, and begin to count anew."""
        for name, count in self._left_out.items():
            if count:
                log.info("%s printed %d more lines, which are left out here.", self._who(name), count)
        self._left_out, self._lines = Counter(), 0

    def _who(self, name: str) -> str:
        return f"Reward {printable(name)}" if name else self._unnamed
