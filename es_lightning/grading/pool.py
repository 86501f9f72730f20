"""A pool of grading processes: one that hangs holds up no other, is killed at its time-out and replaced."""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Lock, Thread

from es_lightning.errors import RewardError
from es_lightning.grading.forker import Forker, Worker
from es_lightning.grading.grade import Answer, FailureKind, Grade, pack_job, unpack_grades
from es_lightning.grading.output import Printed
from es_lightning.records import Prompt
from es_lightning.task import Task

PATIENCE_SECONDS = 0.1
"""A worker that takes longer than this, and MUCH_LONGER times as long as usual, gets a stand-in meanwhile."""
MUCH_LONGER = 10


class _Lost(Exception):
    """Raised for a worker that will not answer any more."""

    def __init__(self, kind: FailureKind, reason: str, stack: str) -> None:
        why = f"{reason}\n{stack}" if stack else f"{reason}; it left no trace (killed, or out of memory)"
        self.grade = Grade(failure=kind, why=why)


@dataclass(frozen=True)
class _Job:
    payload: bytes
    size: int
    future: Future[list[Grade]]


class GradingPool:
    """Grades completions in other processes and returns futures.

    Args:
        task: the task whose rewards are computed; it is pickled once.
        workers: number of processes that grade at the same time.
        timeout_seconds: wall-clock seconds that one job may take.
    """

    def __init__(self, task: Task, workers: int, timeout_seconds: float) -> None:
        self.task, self.workers, self.timeout_seconds = task, workers, timeout_seconds
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._lock = Lock()
        self._threads = self._surplus = 0  # a thread serves one worker; surplus ones are to end
        self._graded, self._seconds = 0, 0.0
        self._forker: Forker | None = None
        self._closed = False

    def start(self) -> None:
        """Begin to load the task in the background; otherwise the first ``submit`` does."""
        with self._lock:
            if self._forker is None:
                self._forker = Forker(self.task)

    def submit(self, prompts: Sequence[Prompt], answers: Sequence[Answer]) -> "Future[list[Grade]]":
        """Grade some completions as one job, in one worker.

        Args:
            prompts: one per answer.
            answers: texts, or log-probabilities of choices.

        Returns:
            A future with one grade per answer. If the worker hung or died, all of them are failures of that
            kind. The future raises ``RewardError`` if no worker can be started.
        """
        self.start()
        future: Future[list[Grade]] = Future()
        self._jobs.put(_Job(pack_job(prompts, answers), len(answers), future))
        if self._threads < self.workers:
            self._add_thread()
        return future

    def printed(self) -> list[Printed]:
        """Return what graders have printed since the last call."""
        with self._lock:
            return [] if self._forker is None else self._forker.printed()

    def close(self) -> list[Printed]:
        """Drop jobs that no worker has begun, and kill all workers; return what they printed last."""
        with self._lock:
            self._closed = True
            forker, self._forker = self._forker, None
            threads = self._threads
        for _ in range(threads):
            self._jobs.put(None)
        return [] if forker is None else forker.close()

    def _add_thread(self) -> None:
        with self._lock:
            self._threads += 1
        Thread(target=self._serve, daemon=True, name="grading").start()

    def _serve(self) -> None:
        """Serve one worker in a thread: send it jobs, replace it if it is lost, end if surplus."""
        worker: Worker | None = None
        while (job := self._jobs.get()) is not None and not self._closed:
            try:
                if worker is None or worker.is_gone():
                    worker = self._fork()
                job.future.set_result(unpack_grades(self._ask(worker, job.payload)))
            except _Lost as lost:
                if worker is not None:
                    worker.kill()
                worker = None
                job.future.set_result([lost.grade] * job.size)
            except BaseException as error:
                job.future.set_exception(error)
            if self._may_go():
                break
        if worker is not None:
            worker.kill()

    def _ask(self, worker: "Worker", payload: bytes) -> bytes:
        try:
            started, patience = time.monotonic(), min(self._patience, self.timeout_seconds)
            worker.connection.send_bytes(payload)
            if not worker.connection.poll(patience):
                with self._stand_in():
                    if not worker.connection.poll(self.timeout_seconds - patience):
                        raise _Lost("timeout", f"no reward in {self.timeout_seconds:g} s", worker.stack())
            reply = worker.connection.recv_bytes()
            with self._lock:
                self._graded, self._seconds = self._graded + 1, self._seconds + time.monotonic() - started
            return reply
        except (EOFError, OSError):
            raise _Lost("crash", "the grader crashed its process", worker.last_stack()) from None

    @property
    def _patience(self) -> float:
        """Seconds after which a worker is presumed to hang, until it answers or is killed.

        They double with every ``workers`` stand-ins: if all graders are slow, stand-ins must not fill the
        machine.
        """
        usual = self._seconds / self._graded if self._graded else 0.0
        stand_ins = max(self._threads - self.workers, 0)
        return max(PATIENCE_SECONDS, MUCH_LONGER * usual) * 2.0 ** (stand_ins // self.workers)

    @contextmanager
    def _stand_in(self) -> Iterator[None]:
        """Add a thread while this one waits for a slow worker."""
        self._add_thread()
        try:
            yield
        finally:
            with self._lock:
                self._surplus += 1  # whichever thread finishes a job first will end

    def _may_go(self) -> bool:
        """Tell whether this thread is surplus and has to end; if so, count it out."""
        with self._lock:
            if self._surplus:
                self._surplus -= 1
                self._threads -= 1
                return True
            return False

    def _fork(self) -> "Worker":
        forker = self._forker
        if forker is None:
            raise RewardError("the pool of graders is closed.")
        return forker.fork()
