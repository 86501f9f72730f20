"""A pool of grading processes: several at once, killed at their time-out, replaced, in nobody's way."""

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
from es_lightning.records import Prompt
from es_lightning.task import Task

PATIENCE_SECONDS = 0.1
"""A grader that takes longer, and much longer than others did, gets a stand-in: nobody waits for it."""
MUCH_LONGER = 10


class _Lost(Exception):
    """A worker that gives no answer any more."""

    def __init__(self, kind: FailureKind, why: str) -> None:
        self.grade = Grade(failure=kind, why=why)


@dataclass(frozen=True)
class _Job:
    payload: bytes
    size: int
    future: Future[list[Grade]]


class GradingPool:
    """Grades in other processes; answers come as futures.

    Args:
        task: what completions are worth; it is pickled once.
        workers: processes that grade at the same time.
        timeout_seconds: wall-clock seconds that one job may take.
    """

    def __init__(self, task: Task, workers: int, timeout_seconds: float) -> None:
        self.task, self.workers, self.timeout_seconds = task, workers, timeout_seconds
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._lock = Lock()
        self._threads = self._surplus = 0
        self._graded, self._seconds = 0, 0.0
        self._forker: Forker | None = None
        self._closed = False

    def start(self) -> None:
        """Let the task be loaded in the background; ``submit`` does it where nobody has."""
        with self._lock:
            if self._forker is None:
                self._forker = Forker(self.task)

    def submit(self, prompts: Sequence[Prompt], answers: Sequence[Answer]) -> "Future[list[Grade]]":
        """Grade some completions in one go, in one worker.

        Args:
            prompts: one per answer.
            answers: texts, or log-probabilities of choices.

        Returns:
            A grade for each; all are failures of one kind if the worker hung or died. The future raises
            ``RewardError`` if no worker can be started.
        """
        self.start()
        future: Future[list[Grade]] = Future()
        self._jobs.put(_Job(pack_job(prompts, answers), len(answers), future))
        if self._threads < self.workers:
            self._add_thread()
        return future

    def close(self) -> None:
        """Drop jobs that nobody has begun, and kill what runs."""
        with self._lock:
            self._closed = True
            forker, self._forker = self._forker, None
            threads = self._threads
        for _ in range(threads):
            self._jobs.put(None)
        if forker is not None:
            forker.close()

    def _add_thread(self) -> None:
        with self._lock:
            self._threads += 1
        Thread(target=self._serve, daemon=True, name="grading").start()

    def _serve(self) -> None:
        """Hand jobs to one worker after another, until there are more threads than asked for."""
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
                        raise _Lost("timeout", worker.last_words(f"no reward in {self.timeout_seconds:g} s"))
            reply = worker.connection.recv_bytes()
            with self._lock:
                self._graded, self._seconds = self._graded + 1, self._seconds + time.monotonic() - started
            return reply
        except (EOFError, OSError):
            raise _Lost("crash", worker.last_words("the grader took its process with it")) from None

    @property
    def _patience(self) -> float:
        """Seconds after which a grader is taken for one that hangs, until it proves otherwise.

        They double with every ``workers`` stand-ins: graders that are all slow must not fill a machine.
        """
        usual = self._seconds / self._graded if self._graded else 0.0
        stand_ins = max(self._threads - self.workers, 0)
        return max(PATIENCE_SECONDS, MUCH_LONGER * usual) * 2.0 ** (stand_ins // self.workers)

    @contextmanager
    def _stand_in(self) -> Iterator[None]:
        """One thread more while this one waits for a slow grader."""
        self._add_thread()
        try:
            yield
        finally:
            with self._lock:
                self._surplus += 1

    def _may_go(self) -> bool:
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
