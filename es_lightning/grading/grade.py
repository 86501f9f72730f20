"""Grading of completions, in this process or in another: jobs and grades are plain data."""

import json
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from es_lightning.grading.numbers import reward_number
from es_lightning.records import Choice, Completion, Prompt
from es_lightning.system.text import printable, shown
from es_lightning.task import Reward, Task

FailureKind = Literal["exception", "invalid", "timeout", "crash"]
FAILED = "failed_"
"""Prefix of the names under which failures are counted, one per kind: ``failed_timeout``."""

Answer = str | list[float]
"""A completion's text, or the log-probabilities of its prompt's choices."""


@dataclass(frozen=True)
class Grade:
    """The result of grading one completion.

    Args:
        scores: the numbers of the task's reward, ``reward`` among them; empty if grading failed.
        failure: what went wrong, if anything did. ``exception``: the grader raised one. ``timeout``: it was
            stopped at its time-out, or raised a TimeoutError. ``crash``: its process died. ``invalid``: what
            it returned is no finite reward; this stops the run.
        why: traceback of or reason for a failure.
    """

    scores: Mapping[str, float] = field(default_factory=dict)
    failure: FailureKind | None = None
    why: str = ""


def answer_of(completion: Completion) -> Answer:
    """Return what a grader sees of a completion."""
    return list(completion.choice_logprobs) if completion.finish_reason == "choice" else completion.text


def grade(task: Task, prompts: Sequence[Prompt], answers: Sequence[Answer]) -> list[Grade]:
    """Grade completions in this process; whatever the task raises becomes a failure.

    Args:
        task: the task whose rewards are computed.
        prompts: one per answer.
        answers: texts or log-probabilities.
    """
    if task.batched and all(isinstance(answer, str) for answer in answers):
        return _grade_batch(task, prompts, [str(answer) for answer in answers])
    return [_grade_one(task, prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]


def _grade_one(task: Task, prompt: Prompt, answer: Answer) -> Grade:
    try:
        if isinstance(answer, str):
            return _to_grade(task, prompt, task.reward(prompt, answer))
        return _to_grade(task, prompt, task.choice_reward(prompt, answer))
    except (Exception, SystemExit) as error:  # a grader that calls exit() has failed; it must end no process
        return _raised(error)


def _grade_batch(task: Task, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Grade]:
    try:
        rewards = list(task.rewards(prompts, texts))
        if len(rewards) != len(texts):
            raise ValueError(f"{len(rewards)} rewards for {len(texts)} completions: give one for each.")
        return [_to_grade(task, *pair) for pair in zip(prompts, rewards, strict=True)]
    except (Exception, SystemExit) as error:
        return [_raised(error)] * len(texts)


def _raised(error: BaseException) -> Grade:
    below = error.__traceback__ and error.__traceback__.tb_next  # without our own frame
    lines = traceback.format_exception(type(error), error, below or error.__traceback__)
    kind: FailureKind = "timeout" if isinstance(error, TimeoutError) else "exception"
    return Grade(failure=kind, why=printable("".join(lines).rstrip()))


def _to_grade(task: Task, prompt: Prompt, reward: Reward | Exception) -> Grade:
    """Return a reward as a grade: a failure unless all values are usable numbers, ``reward`` among them."""
    if isinstance(reward, Exception):
        return _raised(reward)
    values = dict(reward) if isinstance(reward, Mapping) else {"reward": reward}
    returned = f"task {task.name} returned"
    if "reward" not in values:
        return _invalid(f"{returned} {shown(values)} for prompt {prompt.id}: the key 'reward' is missing.")
    scores: dict[str, float] = {}
    for key, value in values.items():
        name = printable(str(key))
        scores[name], problem = reward_number(value)
        if problem:
            return _invalid(f"{returned} {name} = {shown(value)} for prompt {prompt.id}: {problem}")
    return Grade(scores)


def _invalid(why: str) -> Grade:
    return Grade(failure="invalid", why=printable(why))


# Between processes ---------------------------------------------------------------------------------


def pack_job(prompts: Sequence[Prompt], answers: Sequence[Answer]) -> bytes:
    """Return a job as JSON; text that a model wrote is never pickled."""
    rows = [
        {**vars(prompt), "token_ids": (), "choices": [_without_ids(choice) for choice in prompt.choices]}
        for prompt in prompts
    ]
    return json.dumps([rows, list(answers)]).encode()


def unpack_job(packed: bytes) -> tuple[list[Prompt], list[Answer]]:
    """Return the job that ``pack_job`` packed; of the token ids, only how many belong to a choice."""
    rows, answers = json.loads(packed)
    return [_prompt(row) for row in rows], answers


def pack_grades(grades: Sequence[Grade]) -> bytes:
    """Return grades as JSON."""
    return json.dumps([asdict(grade) for grade in grades]).encode()


def unpack_grades(packed: bytes) -> list[Grade]:
    """Return the grades that ``pack_grades`` packed."""
    return [Grade(**row) for row in json.loads(packed)]


def _without_ids(choice: Choice) -> dict[str, Any]:
    return {**vars(choice), "token_ids": ()}


def _prompt(row: dict[str, Any]) -> Prompt:
    choices = tuple(Choice(**{**choice, "token_ids": ()}) for choice in row["choices"])
    return Prompt(**{**row, "token_ids": (), "choices": choices})
