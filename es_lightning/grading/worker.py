"""The processes that grade: one that holds the task, and its forks, which do the work.

``GradingPool`` starts the first one as ``python -m es_lightning.grading.worker FD``. It loads the task once
and then forks a worker for each byte that it receives. A worker that had to be killed is thus replaced within
milliseconds, whatever the task imports.
"""

import faulthandler
import json
import os
import pickle
import signal
import socket
import sys
import traceback
from contextlib import suppress
from multiprocessing.connection import Connection

from es_lightning.grading.grade import grade, pack_grades, unpack_job
from es_lightning.task import Task

NICENESS = 10
"""Grading yields to an engine on the same cores."""


def main() -> None:
    """Receive the task from the socket whose descriptor is the only argument, then fork until it closes."""
    os.nice(NICENESS)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a run that is asked to stop ends its workers itself
    control = socket.socket(fileno=int(sys.argv[1]))
    task = _receive_task(control)
    if task is not None:
        _fork_on_request(control, task)


def _receive_task(control: socket.socket) -> Task | None:
    connection = Connection(os.dup(control.fileno()))
    sys.path[:] = json.loads(connection.recv_bytes())  # the run's, to find the task's module
    try:
        # Safe to unpickle: the run's own object, sent through a private socket.
        task: Task = pickle.loads(connection.recv_bytes())
        task.prepare()
    except Exception:
        connection.send_bytes(traceback.format_exc().encode())
        return None
    connection.send_bytes(b"")
    return task


def _fork_on_request(control: socket.socket, task: Task) -> None:
    """Fork a worker for each byte; with it come descriptors of the worker's connection and of its trace."""
    workers: set[int] = set()
    while True:
        asked, descriptors, _, _ = socket.recv_fds(control, 1, 2)
        if not asked:
            break
        pid = os.fork()
        if pid == 0:
            _work(task, control, *descriptors)
        workers.add(pid)
        for descriptor in descriptors:
            os.close(descriptor)
        workers -= {pid for pid in workers if _ended(pid)}  # also removes their zombies
    for pid in workers:  # the run has closed the socket or is gone, so nobody waits for these
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)


def _ended(pid: int) -> bool:
    return os.waitpid(pid, os.WNOHANG)[0] == pid


def _work(task: Task, control: socket.socket, descriptor: int, trace: int) -> None:
    """Grade until the connection is closed, then end this process; never return."""
    try:
        control.close()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.setpgid(0, 0)  # what a grader starts is killed with it
        faulthandler.enable(trace)
        faulthandler.register(signal.SIGUSR1, trace, all_threads=False)
        connection = Connection(descriptor)
        connection.send_bytes(str(os.getpid()).encode())
        while True:
            connection.send_bytes(pack_grades(grade(task, *unpack_job(connection.recv_bytes()))))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the run has closed the connection: nothing more to grade
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)  # without the forking process's exit handlers and the rest of its call stack


if __name__ == "__main__":
    main()
