"""An evaluation as it is written to evaluations.jsonl."""

from __future__ import annotations

from es_lightning.analysis.accuracy import named_marks
from es_lightning.evaluation.metrics import evaluation_means
from es_lightning.journal.evaluations import RecordedEvaluation, Sample
from es_lightning.records import Costs, Evaluation

SAMPLES = 4
"""Prompts whose completion is kept."""


def recorded(evaluation: Evaluation, split: str, step: int, centre: str, costs: Costs) -> RecordedEvaluation:
    """Return what evaluations.jsonl keeps of an evaluation.

    Args:
        evaluation: of P prompts, with S completions each, of all ranks.
        split: ``val`` or ``test``.
        step: generations, or updates, that the run has done.
        centre: checksum of the evaluated weights.
        costs: what training has used so far.
    """
    each = len(evaluation.completions) // len(evaluation.prompts)
    samples = (
        Sample(
            _encodable(prompt.text),
            _encodable(evaluation.completions[index * each].text),
            float(evaluation.scores[index * each]["reward"]),
        )
        for index, prompt in enumerate(evaluation.prompts[:SAMPLES])
    )
    return RecordedEvaluation(
        step=step,
        split=split,
        prompts=tuple(prompt.id for prompt in evaluation.prompts),
        rewards=tuple(map(float, evaluation.rewards)),
        scores={name.partition("/")[2]: mean for name, mean in evaluation_means(evaluation, split).items()},
        tokens=evaluation.tokens,
        cost=costs,
        samples=tuple(samples),
        centre=centre,
        solved=tuple(named_marks(evaluation) or ()),
    )


def _encodable(text: str) -> str:
    """Replace what UTF-8 cannot write, such as half of a surrogate pair."""
    return text.encode("utf-8", "replace").decode()
