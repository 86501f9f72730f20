"""Scoring: other processes turn completions into rewards while the engine goes on generating."""

import logging
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from es_lightning.errors import RewardError, UsageError
from es_lightning.grading.grade import FAILED, Answer, Grade, answer_of, grade
from es_lightning.grading.output import PrintLog
from es_lightning.grading.pool import GradingPool
from es_lightning.records import LARGEST_REWARD, Completion, Prompt
from es_lightning.system.text import printable, shortened
from es_lightning.task import Task

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Grading:
    """How completions are graded.

    Args:
        workers: number of processes per rank that grade at the same time. 0 grades in the run's own process,
            which suits a debugger; a grader that hangs cannot be stopped there, and what it prints stays
            where it prints it.
        timeout_seconds: wall-clock seconds after which a grader is killed; they apply to one completion, or
            to one batch in tasks that grade whole batches.
        failure_reward: reward of a completion whose grader hung, died or raised; None takes the task's own.
        max_failures: largest share of a generation's completions that may fail, 0 to 1; the run stops if more
            fail.

    Raises:
        UsageError: a value is outside its range.
    """

    workers: int = 4
    timeout_seconds: float = 10.0
    failure_reward: float | None = None
    max_failures: float = 0.1

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        if self.workers < 0:
            raise UsageError(f"data.grading.workers is {self.workers}: give 0 or more.")
        if not self.timeout_seconds > 0:
            raise UsageError(f"data.grading.timeout_seconds is {self.timeout_seconds}: give more than 0.")
        if not 0 <= self.max_failures <= 1:
            raise UsageError(f"data.grading.max_failures is {self.max_failures}: give a share from 0 to 1.")
        if self.failure_reward is not None and not abs(self.failure_reward) <= LARGEST_REWARD:
            raise UsageError(
                f"data.grading.failure_reward is {self.failure_reward}: give a finite number, up to "
                f"{LARGEST_REWARD:g} in size."
            )


class Scorer:
    """Grades the completions of a run.

    Args:
        task: the task whose rewards are computed.
        grading: how completions are graded; None takes the defaults.
    """

    def __init__(self, task: Task, grading: Grading | None = None) -> None:
        self.task, self.grading = task, grading or Grading()
        value = self.grading.failure_reward
        self.failure_reward = task.failure_reward if value is None else value
        self._pool: GradingPool | None = None
        self._prepared = False
        self._shown: set[str] = set()
        self._prints = PrintLog(f"Task {task.name}")

    def start(self) -> None:
        """Start the grading processes in the background; without any, prepare the task here.

        Raises:
            RewardError: no process can be started, or the task cannot be prepared here.
        """
        if self.grading.workers and self._pool is None:
            self._pool = GradingPool(self.task, self.grading.workers, self.grading.timeout_seconds)
            self._pool.start()
        elif not self.grading.workers and not self._prepared:
            try:
                self.task.prepare()
            except (Exception, SystemExit) as error:
                reason = printable(f"{type(error).__name__}: {error}")
                raise RewardError(
                    f"task {self.task.name} cannot be prepared ({reason}): mend its method prepare."
                ) from error
            self._prepared = True

    def close(self) -> None:
        """End the grading processes; a closed scorer can be started again."""
        if self._pool is not None:
            self._prints.add(self._pool.close())
            self._prints.end_round()
        self._pool = None

    def hear(self) -> None:
        """Log what graders have printed since the last time."""
        if self._pool is not None:
            self._prints.add(self._pool.printed())

    def end_round(self) -> None:
        """Log what graders have printed, and how much more of it the log left out in this round."""
        self.hear()
        self._prints.end_round()

    def round(self, size: int) -> "Round":
        """Begin a round of completions that belong together: those of a generation, or of an evaluation.

        Args:
            size: how many completions there will be.
        """
        return Round(self, size)

    def submit(self, prompts: Sequence[Prompt], answers: Sequence[Answer]) -> "list[Future[list[Grade]]]":
        """Return futures that together give one grade per answer, in order."""
        self.start()
        if self._pool is None:
            done: Future[list[Grade]] = Future()
            done.set_result(grade(self.task, prompts, answers))
            return [done]
        if self.task.batched:
            return [self._pool.submit(prompts, answers)]
        pairs = zip(prompts, answers, strict=True)
        return [self._pool.submit([prompt], [answer]) for prompt, answer in pairs]

    def show(self, failed: Grade) -> None:
        """Log a failure with its traceback, if it is the first of its kind."""
        if failed.failure not in self._shown:
            self._shown.add(str(failed.failure))
            log.warning(
                "Grading failed (%s). Such completions earn %g; from now on they are only counted.\n%s",
                failed.failure,
                self.failure_reward,
                failed.why,
            )


class Round:
    """Completions that are graded together; results keep their order.

    Args:
        scorer: grades the completions.
        size: how many completions there will be.
    """

    def __init__(self, scorer: Scorer, size: int) -> None:
        self.scorer, self.size = scorer, size
        self.graded = 0
        """Completions whose grades were there at the last ``check``."""
        self._running: list[tuple[str, Future[list[Grade]]]] = []
        self._failures: Counter[str] = Counter()
        self._graded = 0

    def add(
        self, prompts: Sequence[Prompt], completions: Sequence[Completion], whose: str = "the centre"
    ) -> "Pending":
        """Begin to grade some completions; return at once.

        Args:
            prompts: P prompts.
            completions: P * n completions, the n of one prompt side by side.
            whose: who generated them, for messages.

        Raises:
            RewardError: more of the earlier completions have failed than ``max_failures`` allows, or one of
                their rewards is invalid.
        """
        self.check()
        n = len(completions) // len(prompts)
        futures = self.scorer.submit(
            [prompts[i // n] for i in range(len(completions))], [answer_of(c) for c in completions]
        )
        self._running += [(whose, future) for future in futures]
        return Pending(self, futures)

    def check(self) -> None:
        """Stop if too many of the finished completions have failed.

        Raises:
            RewardError: the share of failures is above the limit, or a reward is invalid; the message quotes
                one failure.
        """
        done = [(whose, future.result()) for whose, future in self._running if future.done()]
        self._running = [(whose, future) for whose, future in self._running if not future.done()]
        self.graded += sum(len(grades) for _, grades in done)
        failed = [(whose, grade) for whose, grades in done for grade in grades if grade.failure]
        self._hear(sum(len(grades) for _, grades in done))
        for whose, one in failed:
            if one.failure == "invalid":
                raise RewardError(f"{one.why} It was {whose}.")
            self.scorer.show(one)
        self._failures.update(str(one.failure) for _, one in failed)
        total, most = self._failures.total(), self.scorer.grading.max_failures
        if failed and total > most * self.size:
            kinds = ", ".join(f"{count} {kind}" for kind, count in self._failures.items())
            whose, last = failed[-1]
            raise RewardError(
                f"grading failed for {total} of {self.size} completions ({kinds}), more than "
                f"data.grading.max_failures {most:g} allows: mend the reward of task "
                f"{self.scorer.task.name}. The last reason, with {whose}: {_reason(last)}"
            )

    def _hear(self, graded: int) -> None:
        """Let the log have what was printed; the round ends with its last grade."""
        self._graded += graded
        if graded and self._graded == self.size:
            self.scorer.end_round()
        else:
            self.scorer.hear()


def _reason(failed: Grade) -> str:
    """Return the line with the reason: a traceback's last, or the first of what a lost worker left behind."""
    lines = failed.why.splitlines()
    return shortened((lines[-1] if failed.failure == "exception" else lines[0]).strip(), 500)


class Pending:
    """Scores of completions whose grading has begun."""

    def __init__(self, round: Round, futures: "list[Future[list[Grade]]]") -> None:
        self._round, self._futures = round, futures

    def scores(self) -> tuple[dict[str, float], ...]:
        """Wait for all grades and return the scores of every completion, in order.

        A failed completion gets the configured reward, accuracy 0 if others have an accuracy, and 1 for
        ``failed_<kind>``.

        Raises:
            RewardError: too many have failed, a reward is invalid, or no grading process can be started.
        """
        grades = [one for future in self._futures for one in future.result()]
        self._round.check()
        accuracy = {"accuracy": 0.0} if any("accuracy" in one.scores for one in grades) else {}
        failed = {"reward": self._round.scorer.failure_reward, **accuracy}
        return tuple(
            dict(one.scores) if one.failure is None else {**failed, f"{FAILED}{one.failure}": 1.0}
            for one in grades
        )
