"""Metrics of a generation, from gathered numbers only, so that the number of ranks does not change them."""

from collections.abc import Mapping, Sequence
from math import fsum, isnan, nan
from typing import Protocol

from es_lightning.grading.grade import FAILED
from es_lightning.records import Completion, Evaluation

LONGEST = "completion_longest"


def columns(scores: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """Collect each named number from the completions that have it; failures count as 0 for the others."""
    keys = dict.fromkeys(key for score in scores for key in score)
    return {
        key: [score.get(key, 0.0) for score in scores if key in score or key.startswith(FAILED)]
        for key in keys
    }


def means(scores: Sequence[Mapping[str, float]], prefix: str) -> dict[str, float]:
    """Average each named number over the completions that have it; the mean is named ``prefix/key``."""
    return {f"{prefix}/{key}": fsum(column) / len(column) for key, column in columns(scores).items()}


def evaluation_means(evaluation: Evaluation, prefix: str) -> dict[str, float]:
    """Average each number of an evaluation over its completions; the mean is named ``prefix/key``.

    Where only the best of some samples counts, ``prefix/reward`` is the mean over prompts of that: pass@k.
    """
    found = means(measured(evaluation), prefix)
    if evaluation.pass_k > 1:
        found[f"{prefix}/reward"] = fsum(evaluation.rewards) / len(evaluation.prompts)
    return found


def prompt_means(evaluation: Evaluation, key: str) -> list[float]:
    """Average one number of an evaluation over each prompt's completions.

    Args:
        evaluation: P prompts with S completions each.
        key: name of the number, without a prefix; ``reward`` is pass@k where only the best samples count.

    Returns:
        P means, whose own mean is what ``evaluation_means`` returns; empty if a completion lacks the number.
    """
    if key == "reward":
        return evaluation.rewards
    scores = measured(evaluation)
    if not all(key in score for score in scores):
        return []
    samples = len(scores) // len(evaluation.prompts)
    values = [score[key] for score in scores]
    return [fsum(values[i : i + samples]) / samples for i in range(0, len(values), samples)]


def measured(evaluation: Evaluation) -> list[dict[str, float]]:
    """Return the scores of all completions, with each completion's length and whether it was cut off."""
    return [
        {**score, **_shape(completion)}
        for score, completion in zip(evaluation.scores, evaluation.completions, strict=True)
    ]


def longest(member: Evaluation) -> dict[str, float]:
    """Return the length of a member's longest completion, by the name that it has among scores.

    Returns:
        ``completion_longest``, in tokens; nothing if choices were scored: none waits for another then.
    """
    if any(completion.finish_reason == "choice" for completion in member.completions):
        return {}
    return {LONGEST: max(len(completion.token_ids) for completion in member.completions)}


def straggling(scores: Mapping[str, float]) -> dict[str, float]:
    """Return the share of the engine's places that were empty while a member's longest completion went on.

    That is 1 - sum of lengths / sum of (completions * longest) over the members. Where an engine cannot
    compute all of a member's completions at once, others take the places that become empty, and it is less.

    Args:
        scores: means over a generation's completions; without ``completion_longest`` nothing is returned.
    """
    if not scores.get(LONGEST):
        return {}
    return {"time/straggling_fraction": max(0.0, 1 - scores["completion_tokens"] / scores[LONGEST])}


class Recorded(Protocol):
    """What a generation's record and its entry in the journal have in common."""

    @property
    def scores(self) -> Mapping[str, float]: ...  # noqa: D102
    @property
    def seconds(self) -> Mapping[str, float]: ...  # noqa: D102
    @property
    def drift(self) -> float: ...  # noqa: D102
    @property
    def skipped(self) -> bool: ...  # noqa: D102


def record_metrics(record: Recorded, update_norm: float = nan) -> dict[str, float]:
    """Return a generation's numbers other than its reward statistics, by the names they are logged under.

    Args:
        record: of the generation.
        update_norm: Euclidean norm of its step, which journals do not keep; NaN leaves it out.
    """
    means = {_grouped(key): value for key, value in record.scores.items() if key != "reward"}
    seconds = {f"time/{phase}_s": value for phase, value in record.seconds.items()}
    geometry = {"geometry/update_norm": update_norm, "geometry/drift": record.drift}
    known = {name: value for name, value in geometry.items() if not isnan(value)}
    return means | seconds | straggling(record.scores) | known | {"health/skipped": float(record.skipped)}


def _shape(completion: Completion) -> dict[str, float]:
    return {
        "completion_tokens": len(completion.token_ids),
        "completion_chars": len(completion.text),
        "completion_truncated": float(completion.finish_reason == "length"),
    }


def _grouped(key: str) -> str:
    """Name a failure or a property of completions health/..., and any other number reward/..."""
    return f"health/{key}" if key.startswith((FAILED, "completion_")) else f"reward/{key}"
