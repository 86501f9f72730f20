"""The processes that grade: one that holds the task, and its forks, which do the work.

``GradingPool`` starts the first one as ``python -m es_lightning.grading.worker LINE PRINTS``, the descriptors
of two sockets. It loads the task once and then forks a worker for each byte that it receives. A worker that
had to be killed is thus replaced within milliseconds, whatever the task imports. Each process has a keeper:

    run -> keeper -> forker, holds the task -> keeper -> worker -> what the task starts
                                            -> keeper -> worker -> ...

The run's end is no error for any of them: they end in silence.
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
from functools import partial
from multiprocessing.connection import Connection

from es_lightning.grading.grade import grade, pack_grades, unpack_job
from es_lightning.grading.keeper import keep
from es_lightning.grading.output import flush
from es_lightning.task import Task

NICENESS = 10
"""Grading yields to an engine on the same cores."""
MERCY_SECONDS = 2.0
"""How long the exit handlers of a task's modules may take when the run ends."""


def main() -> None:
    """Keep the process that receives the task and forks workers, until the run hangs up."""
    run = os.getppid()
    os.nice(NICENESS)
    line, prints = (_socket(int(descriptor)) for descriptor in sys.argv[1:3])
    keep(partial(_hold_task, line, os.dup(prints.fileno())), run, line, prints, MERCY_SECONDS)


def _socket(descriptor: int) -> socket.socket:
    os.set_inheritable(descriptor, False)  # what a grader starts must not hold the run's line
    return socket.socket(fileno=descriptor)


def _hold_task(control: socket.socket, prints: int) -> None:
    """Receive the task, then fork workers until the run hangs up."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a run that is asked to stop ends its workers itself
    signal.signal(
        signal.SIGHUP, signal.SIG_DFL
    )  # while the task loads, the keeper's SIGHUP ends this process
    with suppress(EOFError, ConnectionError):  # the run has ended
        task = _receive_task(control)
        if task is not None:
            _fork_on_request(control, _socket(prints), task)


def _receive_task(control: socket.socket) -> Task | None:
    connection = Connection(os.dup(control.fileno()))
    sys.path[:] = json.loads(connection.recv_bytes())  # the run's, to find the task's module
    pickled = connection.recv_bytes()
    try:
        task: Task = pickle.loads(pickled)  # safe: the run's own object, sent through a private socket
        task.prepare()
    except (Exception, SystemExit):
        connection.send_bytes(traceback.format_exc().encode(errors="backslashreplace"))
        return None
    # From here on the end of the line is seen, and exit handlers may run. It is not SIG_IGN, which whatever
    # the graders start would inherit.
    signal.signal(signal.SIGHUP, lambda *_: None)
    connection.send_bytes(b"")
    return task


def _fork_on_request(control: socket.socket, prints: socket.socket, task: Task) -> None:
    """Fork a worker for each byte; with it come descriptors of the worker's connection and of its trace."""
    keepers: set[int] = set()
    while True:
        asked, descriptors, _, _ = socket.recv_fds(control, 1, 2)
        if not asked:
            break
        flush()  # or each fork would print it again
        forker, pid = os.getpid(), os.fork()
        if pid == 0:
            control.close()
            _keep_worker(task, forker, prints, *descriptors)
        keepers.add(pid)
        for descriptor in descriptors:
            os.close(descriptor)
        keepers -= {pid for pid in keepers if _ended(pid)}  # also removes their zombies


def _ended(pid: int) -> bool:
    return os.waitpid(pid, os.WNOHANG)[0] == pid


def _keep_worker(task: Task, forker: int, prints: socket.socket, line: int, trace: int) -> None:
    """Keep a worker, then end this process; never return."""
    try:
        os.set_inheritable(trace, False)
        with _socket(line) as connection:
            keep(partial(_work, task, line, trace), forker, connection, prints)
    except BaseException:
        traceback.print_exc()
    finally:
        _leave()


def _work(task: Task, descriptor: int, trace: int) -> None:
    """Grade until the connection is closed, then end this process; never return."""
    try:
        for signum in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(signum, signal.SIG_DFL)
        os.setpgid(0, 0)  # what a grader starts can be killed with it in one call
        faulthandler.enable(trace)
        faulthandler.register(signal.SIGUSR1, trace, all_threads=False)
        connection = Connection(os.dup(descriptor))
        connection.send_bytes(str(os.getpid()).encode())
        while True:
            grades = pack_grades(grade(task, *unpack_job(connection.recv_bytes())))
            flush()
            connection.send_bytes(grades)
    except (EOFError, ConnectionError):
        pass  # the run has closed the connection: nothing more to grade
    except BaseException:
        traceback.print_exc()
    finally:
        _leave()


def _leave() -> None:
    """End this process without the forking process's exit handlers and the rest of its call stack."""
    flush()
    os._exit(0)


if __name__ == "__main__":
    main()
