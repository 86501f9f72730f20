"""The processes that grade: one that holds the task, and its forks, which do the work.

Started by ``GradingPool`` as ``python -m es_lightning.grading.worker FD``. The first process loads the task
once and then forks at a byte's notice, so that a worker that had to be killed is replaced within
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
"""Grading gives way to an engine on the same cores."""


def main() -> None:
    """Take the task from the socket whose number is the only argument, then fork until it is closed."""
    os.nice(NICENESS)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a run that is asked to stop ends its graders itself
    control = socket.socket(fileno=int(sys.argv[1]))
    task = _receive_task(control)
    if task is not None:
        _fork_on_request(control, task)


def _receive_task(control: socket.socket) -> Task | None:
    connection = Connection(os.dup(control.fileno()))
    sys.path[:] = json.loads(connection.recv_bytes())
    try:
        task: Task = pickle.loads(
            connection.recv_bytes()
        )  # the caller's own object, through a private socket
        task.prepare()
    except Exception:
        connection.send_bytes(traceback.format_exc().encode())
        return None
    connection.send_bytes(b"")
    return task


def _fork_on_request(control: socket.socket, task: Task) -> None:
    """Each byte brings two descriptors: the new worker's connection, and a file for its last words."""
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
        workers -= {pid for pid in workers if _ended(pid)}
    for pid in workers:  # whoever asked has gone; nobody waits for what still runs
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)


def _ended(pid: int) -> bool:
    return os.waitpid(pid, os.WNOHANG)[0] == pid


def _work(task: Task, control: socket.socket, descriptor: int, trace: int) -> None:
    """Grade until the connection is closed; never returns."""
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
        os._exit(0)


if __name__ == "__main__":
    main()
