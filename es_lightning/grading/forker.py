"""The processes behind a pool of graders, seen from the run: one that forks, and the workers it forks."""

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
        task: what completions are worth; it is pickled, and loaded there.
    """

    def __init__(self, task: Task) -> None:
        import cloudpickle  # also takes classes that were defined in a script or a notebook

        pickled = cloudpickle.dumps(task)
        self._control, theirs = socket.socketpair()
        self._lock = Lock()
        self._ready = False
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "es_lightning.grading.worker", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the run, which decides what becomes of its graders
                env=dict(os.environ) | _THREADS,
            )
        self._connection = Connection(os.dup(self._control.fileno()))
        self._connection.send_bytes(json.dumps(sys.path).encode())
        self._connection.send_bytes(pickled)

    def fork(self) -> "Worker":
        """A new worker.

        Raises:
            RewardError: the task cannot be loaded in another process, or the process is gone.
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
        trace = tempfile.TemporaryFile()  # noqa: SIM115  (the worker's, until it is killed)
        with theirs:
            socket.send_fds(self._control, [b"f"], [theirs.fileno(), trace.fileno()])
        return Worker(Connection(ours.detach()), trace)

    def close(self) -> None:
        """End it, and all workers with it."""
        self._connection.close()
        self._control.close()
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
                problem = self._connection.recv_bytes().decode()
        if problem:
            raise RewardError(
                f"the task cannot be loaded in a grading process: {problem.strip().splitlines()[-1]}. Put "
                "its class into a module of its own, or set data.grading.workers to 0 (no time-outs then)."
            )
        self._ready = True


class Worker:
    """One process that grades.

    Args:
        connection: takes a job and gives its grades, one after the other.
        trace: file that the process writes into when it is asked what it does, or when it dies.
    """

    def __init__(self, connection: Connection, trace: IO[bytes]) -> None:
        self.connection, self._trace = connection, trace
        self._pid = int(connection.recv_bytes())

    def last_words(self, reason: str) -> str:
        """The reason, and below it what the worker was doing when it was asked or when it died."""
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGUSR1)
        for _ in range(20):
            self._trace.seek(0)
            if words := self._trace.read().decode(errors="replace"):
                frames = takewhile(lambda line: "/es_lightning/grading" not in line, words.splitlines())
                return "\n".join([reason, *islice(frames, MOST_FRAMES)])
            time.sleep(0.01)
        return f"{reason}; it left no trace (killed, or out of memory)"

    def is_gone(self) -> bool:
        """Whether it has ended while it had nothing to do."""
        gone = self.connection.poll(0)  # it says nothing unasked: there is an end to read
        if gone:
            self.kill()
        return gone

    def kill(self) -> None:
        """End it, with all that it has started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._pid, signal.SIGKILL)
        self.connection.close()
        self._trace.close()
