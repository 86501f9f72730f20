"""Grading in worker processes: its speed, what hanging graders cost the others, and a maths grade.

    python benchmarks/grading.py

Nothing is generated: completions are written here.
"""

import argparse
import logging
import statistics
import time
from pathlib import Path

from es_lightning.cli.console import quiet
from es_lightning.grading.scorer import Grading, Scorer
from es_lightning.records import Completion, Prompt
from es_lightning.task import Task
from es_lightning.tasks import Countdown, MathTask

log = logging.getLogger("grading")


class Hangs(Task):
    """Hangs on one text."""

    def problems(self, split: str) -> list[Prompt]:
        """One problem."""
        return [Prompt("hangs/0", "?")]

    def reward(self, prompt: Prompt, completion: str) -> float:
        """1, some day."""
        while completion == "hang":
            time.sleep(1)
        return 1.0


def written(texts: list[str]) -> list[Completion]:
    """Completions as an engine gives them."""
    return [Completion(text, (1,), "stop") for text in texts]


def throughput(scorer: Scorer, count: int) -> float:
    """Completions graded per second, once the workers are there."""
    prompts = scorer.task.problems("train")[:100]
    texts = written(["so <answer>1 + 2</answer>"] * count)
    seconds = []
    for _ in range(4):
        started = time.perf_counter()
        scorer.round(count).add(prompts, texts).scores()
        seconds.append(time.perf_counter() - started)
    return count / statistics.median(seconds[1:])


def beside_hangs(hangs: int, plain: int) -> float:
    """Seconds until the plain ones are graded, behind so many that hang."""
    scorer = Scorer(Hangs(), Grading(timeout_seconds=5, max_failures=1))
    prompts = scorer.task.problems("train")
    scorer.round(plain).add(prompts, written(["x"] * plain)).scores()
    started = time.perf_counter()
    futures = scorer.submit(prompts * (hangs + plain), ["hang"] * hangs + ["x"] * plain)
    for future in futures[hangs:]:
        future.result()
    elapsed = time.perf_counter() - started
    scorer.close()
    return elapsed


def maths() -> list[float]:
    """Milliseconds of each maths grade, right answers and wrong ones of the shipped problems."""
    times = []
    for name in ("gsm8k", "math", "math500", "minerva", "olympiadbench", "amc", "aime24"):
        task = MathTask(name, "sample")
        task.prepare()
        problems = task.problems("test")
        for prompt in problems:
            for other in problems:
                started = time.perf_counter()
                task.reward(prompt, f"So it is $\\boxed{{{other.reference['answer']}}}$.")
                times.append(1e3 * (time.perf_counter() - started))
    return times


def main() -> None:
    """Measure and print."""
    argparse.ArgumentParser(description=Path(__file__).stem).parse_args()
    quiet()
    logging.getLogger("es_lightning").setLevel(logging.ERROR)
    scorer = Scorer(Countdown(n_train=100))
    log.info("Countdown, 4 workers: %.0f completions/s", throughput(scorer, 2000))
    scorer.close()
    for hangs in (0, 8):
        log.info("200 completions behind %d that hang: %.2f s", hangs, beside_hangs(hangs, 200))
    times = maths()
    log.info(
        "%d maths grades: median %.2f ms, largest %.1f ms", len(times), statistics.median(times), max(times)
    )


if __name__ == "__main__":
    main()
