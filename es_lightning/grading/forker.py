"""The run's side of the grading processes: one that forks, and the workers that it forks."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from itertools import islice, takewhile
from multiprocessing.connection import Connection
from threading import Lock
from typing import IO

from es_lightning.errors import RewardError
from es_lightning.grading.output import Printed, receive
from es_lightning.system.going_on import how_to_go_on
from es_lightning.system.text import printable, shortened
from es_lightning.task import Task

START_SECONDS = 120.0
CLOSE_SECONDS = 5.0
MOST_FRAMES = 20
_THREADS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class Forker:
    """The process that holds the task and forks workers, and the keeper of that process.

    Args:
        task: the task whose rewards are computed; it is pickled here and loaded there.

    Raises:
        RewardError: no process can be started.
    """

    def __init__(self, task: Task) -> None:
        import cloudpickle  # it also pickles classes that were defined in a script or a notebook

        pickled = cloudpickle.dumps(task)
        self._lock = Lock()
        self._ready = False
        self._control, theirs = socket.socketpair()
        self._prints, printing = socket.socketpair(type=socket.SOCK_DGRAM)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (close closes it)
        with theirs, printing:
            self._process = self._started(theirs.fileno(), printing.fileno())
        self._connection = Connection(os.dup(self._control.fileno()))
        with suppress(OSError):  # it has ended already: whoever asks for a worker is told why
            self._connection.send_bytes(json.dumps(sys.path).encode())
            self._connection.send_bytes(pickled)

    def _started(self, *descriptors: int) -> "subprocess.Popen[bytes]":
        try:
            return subprocess.Popen(
                [sys.executable, "-m", "es_lightning.grading.worker", *map(str, descriptors)],
                pass_fds=descriptors,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                start_new_session=True,  # Ctrl-C must reach only the run, which ends its workers itself
                env=dict(os.environ) | _THREADS,
            )
        except OSError as error:
            raise _none_started(error) from None

    def fork(self) -> "Worker":
        """Fork a new worker.

        Raises:
            RewardError: the task cannot be loaded in the forking process, or that process is gone.
        """
        with self._lock:
            self._wait_until_ready()
            try:
                return self._forked()
            except (EOFError, OSError) as error:
                raise _none_started(error) from None

    def _forked(self) -> "Worker":
        ours, theirs = socket.socketpair()
        trace = tempfile.TemporaryFile()  # noqa: SIM115  (Worker.kill closes it)
        with theirs:
            socket.send_fds(self._control, [b"f"], [theirs.fileno(), trace.fileno()])
        return Worker(ours, trace)

    def printed(self) -> list[Printed]:
        """Return what the processes have printed since the last call."""
        return receive(self._prints)

    def close(self) -> list[Printed]:
        """End the process, all workers with it, and all that they have started; return what they printed."""
        with suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)  # also if a fork of the run still holds the socket
        try:
            self._process.wait(timeout=CLOSE_SECONDS)  # the keeper ends last
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        printed = self.printed()
        for end in (self._connection, self._control, self._prints, self._errors):
            end.close()
        return printed

    def _wait_until_ready(self) -> None:
        if self._ready:
            return
        problem = f"it was not ready after {START_SECONDS:g} s"
        try:
            if self._connection.poll(START_SECONDS):
                problem = self._connection.recv_bytes().decode()  # empty once the task is loaded
        except (EOFError, OSError):
            problem = self._last_error() or "it ended"
        if problem:
            reason = printable(shortened(problem.strip().splitlines()[-1], 1000))
            raise RewardError(
                f"the task cannot be loaded in a grading process: {reason}. Put its class into a module of "
                "its own, or set data.grading.workers to 0 (no time-outs then)."
            )
        self._ready = True

    def _last_error(self) -> str:
        """Return what Python said on its way out, if it could not even start."""
        with suppress(ValueError):  # closed
            self._errors.seek(0)
            return self._errors.read().decode(errors="replace").strip()
        return ""


def _none_started(error: Exception) -> RewardError:
    return RewardError(
        f"no grading process can be started any more ({type(error).__name__}: {error}): the machine may be "
        f"out of memory or processes. Free some, then {how_to_go_on()}."
    )


class Worker:
    """One process that grades.

    Args:
        line: carries one job at a time to the process, and its grades back. When the line is cut, the
            worker's keeper kills it and all that it has started.
        trace: file into which the process writes its stack on SIGUSR1 and when it crashes.
    """

    def __init__(self, line: socket.socket, trace: IO[bytes]) -> None:
        self._line, self._trace = line, trace
        self.connection = Connection(os.dup(line.fileno()))
        self._pid = int(self.connection.recv_bytes())

    def stack(self) -> str:
        """Return the stack of the worker, which is busy, as it is now."""
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGUSR1)  # its faulthandler writes the stack within milliseconds
        return self.last_stack()

    def last_stack(self) -> str:
        """Return the stack that the worker has written, innermost frame first."""
        for _ in range(20):
            self._trace.seek(0)
            if words := self._trace.read().decode(errors="replace"):
                # The task's frames come first, then our own, which say nothing.
                frames = takewhile(lambda line: "/es_lightning/grading" not in line, words.splitlines())
                return printable("\n".join(islice(frames, MOST_FRAMES)))
            time.sleep(0.01)
        return ""

    def is_gone(self) -> bool:
        """Tell whether the process has ended while it was idle."""
        gone = self.connection.poll(0)  # an idle worker sends nothing, so this can only be the end of file
        if gone:
            self.kill()
        return gone

    def kill(self) -> None:
        """Have the process killed, and all that it has started."""
        with suppress(OSError):
            self._line.shutdown(socket.SHUT_RDWR)  # also if a fork of the run still holds the socket
        self.connection.close()
        self._line.close()
        self._trace.close()
