"""Graders that misbehave, in a module of their own: the processes that grade load it without torch."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from es_lightning.grading.scorer import Grading, Scorer
from es_lightning.records import Completion, Prompt
from es_lightning.task import Reward, Task

PROMPTS = [Prompt("a", "first"), Prompt("b", "second")]


HERE = Grading(workers=0)
TOLERANT = {"max_failures": 1.0}


def completions(*texts: str) -> list[Completion]:
    return [Completion(text, (1,), "stop") for text in texts]


def score(task: Task, texts: list[Completion], grading: Grading = HERE) -> tuple[dict[str, float], ...]:
    scorer = Scorer(task, grading)
    try:
        return scorer.round(len(texts)).add(PROMPTS, texts).scores()
    finally:
        scorer.close()


def comes_true(condition: Callable[[], bool], seconds: float = 60.0) -> bool:
    """Wait until a condition holds; the limit is for machines that are busy, and is not reached else."""
    deadline = time.monotonic() + seconds
    while not (held := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return held


class Returns(Task):
    """Earns what it is given."""

    def __init__(self, value: Reward) -> None:
        self.value = value

    def problems(self, split: str) -> list[Prompt]:
        return PROMPTS

    def reward(self, prompt: Prompt, completion: str) -> Reward:
        return self.value


class Length(Returns):
    """Earns the length of the completion."""

    def reward(self, prompt: Prompt, completion: str) -> Reward:
        return {"reward": float(len(completion)), "accuracy": 1.0, "prompt": float(prompt.id == "b")}

    def choice_reward(self, prompt: Prompt, logprobs: Sequence[float]) -> Reward:
        return max(logprobs)


class Troubled(Length):
    """Does what the completion says."""

    failure_reward = -7.0

    def reward(self, prompt: Prompt, completion: str) -> Reward:
        word = completion.partition(" ")[0]
        if word == "hang":
            while True:
                time.sleep(1)
        if word == "spin":
            sum(1 for _ in iter(int, 1))
        if word == "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        if word == "leave":
            os._exit(3)
        if word == "exit":
            sys.exit("no")
        if word == "recurse":
            return self.reward(prompt, completion)
        if word == "raise":
            raise KeyError("no such thing")
        if word == "slow":
            time.sleep(0.3)
        if word == "child":
            os.system(f"sleep 100 & echo $! > {completion.partition(' ')[2]}; sleep 100")
        if word == "nan":
            return float("nan")
        return super().reward(prompt, completion)


class Batches(Returns):
    """Takes all completions of a batch at once."""

    batched = True

    def rewards(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[Reward | Exception]:
        if "raise" in completions:
            raise RuntimeError("the batch")
        if "short" in completions:
            return [1.0]
        return [KeyError(text) if text == "one" else float(len(completions)) for text in completions]


class Unloadable(Returns):
    """Cannot be made anew in another process."""

    def __setstate__(self, state: object) -> None:
        raise ImportError("no module named elsewhere")


class Sleepy(Returns):
    """Takes a quarter of a second for every completion."""

    def reward(self, prompt: Prompt, completion: str) -> Reward:
        time.sleep(0.25)
        return float(len(completion)) + 0.01 * sum(map(ord, completion))


class Fragile(Returns):
    """Fails on the second prompt alone."""

    def reward(self, prompt: Prompt, completion: str) -> Reward:
        if prompt.id == "b":
            raise ArithmeticError("not this one")
        return float(len(completion))


class Spawning(Returns):
    """Starts processes that leave its session, some of them twice removed; then does what the text says."""

    def __init__(self, seconds: float = 0.0, prepares: bool = True) -> None:
        super().__init__(1.0)
        self.seconds, self.prepares = seconds, prepares

    def prepare(self) -> None:
        if self.prepares:
            _spawn()
            time.sleep(self.seconds)

    def reward(self, prompt: Prompt, completion: str) -> Reward:
        _spawn()
        if completion == "hang":
            time.sleep(100)
        return 1.0


def _spawn() -> None:
    subprocess.Popen(["sleep", "100"], start_new_session=True)
    subprocess.run(["setsid", "sh", "-c", "sleep 100 & setsid sleep 100 &"], check=True)
