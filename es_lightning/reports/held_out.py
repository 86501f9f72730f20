"""What a run changed on held-out problems: how many are solved, and the replies to a few of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from es_lightning.analysis.accuracy import Accuracy, marks
from es_lightning.records import Evaluation

MOST_PROBLEMS, MOST_CHARACTERS = 64, 1000
"""What is kept of the replies until the run ends: checkpoints hold it."""

NOTHING = "(nothing)"
"""Shown in place of an empty reply."""

# A success, something kept, and a failure: of each row, the first kind that there is.
_SHOWN = (("newly right",), ("still right",), ("newly wrong", "still wrong"))

Result = Mapping[str, Any]
"""What ``result`` returns, or a checkpoint of version 0.1.0 holds."""
Replies = Sequence[Mapping[str, Any]]


def result(evaluation: Evaluation) -> dict[str, Any]:
    """Keep of an evaluation what a report needs, as values that JSON can hold.

    Returns:
        ``reward``; ``solved``, the number of problems solved and of problems, None if nobody knows what is
        right; and ``replies``, the first problems with the first reply to each and whether it is right.
    """
    solved = marks(evaluation)
    samples = len(evaluation.completions) // len(evaluation.prompts)
    replies = [
        {
            "prompt": prompt.text[:MOST_CHARACTERS],
            "completion": evaluation.completions[index * samples].text[:MOST_CHARACTERS],
            "right": None if solved is None else solved[index] == 1,
        }
        for index, prompt in enumerate(evaluation.prompts[:MOST_PROBLEMS])
    ]
    counted = None if solved is None else [round(sum(solved)), len(solved)]
    return {"reward": evaluation.reward, "solved": counted, "replies": replies}


def accuracies_of(before: Result | None, after: Result | None) -> dict[str, Accuracy | None]:
    """Return the accuracies ``before`` and ``after``; None if not measured, or nobody knows what is right.

    Rewards of a model may be 0 and 1 by chance, so one of two results without accuracy tells of both.
    """
    results = {"before": before, "after": after}
    if any(each is not None and each.get("solved") is None for each in results.values()):
        return dict.fromkeys(results)
    return {when: None if each is None else Accuracy(*each["solved"]) for when, each in results.items()}


def comparison(before: Result | None, after: Result | None) -> dict[str, Any]:
    """Compare two results, for ``summary.json``.

    Returns:
        ``held_out_accuracy``, for ``before`` and ``after`` the numbers of an accuracy or None; and
        ``examples``, at most three problems with ``kind``, ``prompt``, ``before`` and ``after``.
    """
    accuracies = accuracies_of(before, after)
    return {
        "held_out_accuracy": {when: rate and rate.numbers() for when, rate in accuracies.items()},
        "examples": _examples(_replies(before), _replies(after)) if before and after else [],
    }


def lines(summary: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the comparison as lines with a label: the accuracies, then the examples."""
    before, after = summary["held_out_accuracy"]["before"], summary["held_out_accuracy"]["after"]
    if before and after:
        texts = (f"{each['rate']:.3f} ({each['low']:.2f} to {each['high']:.2f})" for each in (before, after))
        yield "held-out accuracy", f"{'  ->  '.join(texts)}, {after['of']} problems, 95 % interval"
    for row in summary["examples"]:
        yield row["kind"] or "prompt", row["prompt"]
        yield "  before", row["before"].strip() or NOTHING
        yield "  after", row["after"].strip() or NOTHING


def _replies(result: Result) -> Replies:
    """The replies that were kept; version 0.1.0 kept the first alone, without a verdict."""
    if "replies" in result:
        replies: Replies = result["replies"]
        return replies
    return [{"prompt": result["prompt"], "completion": result["completion"], "right": None}]


def _examples(before: Replies, after: Replies) -> list[dict[str, str]]:
    """Choose a problem that is newly right, one that is still right, and one that is wrong.

    Where nobody knows what is right, it is the first problem alone, and its kind is empty. A reply that the
    run has spoilt is shown rather than one that was wrong before.
    """
    first: dict[str, dict[str, str]] = {}
    for old, new in zip(before, after, strict=False):
        kind = _kind(old["right"], new["right"])
        row = {"prompt": new["prompt"], "before": old["completion"], "after": new["completion"]}
        first.setdefault(kind, {"kind": kind, **row})
    if "" in first:
        return [first[""]]
    chosen = (next((first[kind] for kind in kinds if kind in first), None) for kinds in _SHOWN)
    return [row for row in chosen if row is not None]


def _kind(before: bool | None, after: bool | None) -> str:
    if before is None or after is None:
        return ""
    return f"{'still' if before == after else 'newly'} {'right' if after else 'wrong'}"
