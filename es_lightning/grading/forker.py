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
from es_lightning.task import Task

START_SECONDS = 120.0
MOST_FRAMES = 20
_THREADS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class Forker:
    """The process that holds the task and forks workers.

    Args:
        task: the task whose rewards are computed; it is pickled here and loaded there.
    """

    def __init__(self, task: Task) -> None:
        import cloudpickle  # it also pickles classes that were defined in a script or a notebook

        pickled = cloudpickle.dumps(task)
        self._control, theirs = socket.socketpair()
        self._lock = Lock()
        self._ready = False
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "es_lightning.grading.worker", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C must reach only the run, which ends its workers itself
                env=dict(os.environ) | _THREADS,
            )
        self._connection = Connection(os.dup(self._control.fileno()))
        self._connection.send_bytes(json.dumps(sys.path).encode())
        self._connection.send_bytes(pickled)

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
                raise RewardError(
                    f"no grading process can be started any more ({type(error).__name__}: {error}): the "
                    "machine may be out of memory or processes. Resume with --ckpt_path last."
                ) from None

    def _forked(self) -> "Worker":
        ours, theirs = socket.socketpair()
        trace = tempfile.TemporaryFile()  # noqa: SIM115  (Worker.kill closes it)
        with theirs:
            socket.send_fds(self._control, [b"f"], [theirs.fileno(), trace.fileno()])
        return Worker(Connection(ours.detach()), trace)

    def close(self) -> None:
        """End the process, and all workers with it."""
        self._connection.close()
        self._control.close()  # the process ends itself when the socket closes
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
            return
        self._process.kill()
        self._process.wait()

    def _wait_until_ready(self) -> None:
        if self._ready:
            return
        problem = "it said nothing"
        with suppress(EOFError, OSError):
            if self._connection.poll(START_SECONDS):
                problem = self._connection.recv_bytes().decode()  # empty once the task is loaded
        if problem:
            raise RewardError(
                f"the task cannot be loaded in a grading process: {problem.strip().splitlines()[-1]}. Put "
                "its class into a module of its own, or set data.grading.workers to 0 (no time-outs then)."
            )
        self._ready = True


class Worker:
    """One process that grades.

    Args:
        connection: carries one job at a time to the process, and its grades back.
        trace: file into which the process writes its stack on SIGUSR1 and when it crashes.
    """

    def __init__(self, connection: Connection, trace: IO[bytes]) -> None:
        self.connection, self._trace = connection, trace
        self._pid = int(connection.recv_bytes())

    def last_words(self, reason: str) -> str:
        """Return the reason, and below it the stack of the worker now, or as it was when it crashed."""
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGUSR1)  # its faulthandler writes the stack within milliseconds
        for _ in range(20):
            self._trace.seek(0)
            if words := self._trace.read().decode(errors="replace"):
                # The innermost frame comes first: the task's frames, then our own, which say nothing.
                frames = takewhile(lambda line: "/es_lightning/grading" not in line, words.splitlines())
                return "\n".join([reason, *islice(frames, MOST_FRAMES)])
            time.sleep(0.01)
        return f"{reason}; it left no trace (killed, or out of memory)"

    def is_gone(self) -> bool:
        """Tell whether the process has ended while it was idle."""
        gone = self.connection.poll(0)  # an idle worker sends nothing, so this can only be the end of file
        if gone:
            self.kill()
        return gone

    def kill(self) -> None:
        """Kill the process and all that it has started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._pid, signal.SIGKILL)
        self.connection.close()
        self._trace.close()
