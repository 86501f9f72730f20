"""Metrics of a generation: all of them are made from what the ranks have gathered, so that any number of
ranks gives the numbers of one.
"""

from collections.abc import Mapping, Sequence
from math import fsum

import torch
from torch import Tensor
from torchmetrics import Metric

from es_lightning.grading.grade import FAILED
from es_lightning.records import Completion, Evaluation, Generation


class PopulationReward(Metric):
    """Mean, standard deviation, minimum and maximum of the members' rewards; higher is better.

    The standard deviation is the population's, as in the z-score.
    """

    higher_is_better = True
    full_state_update = False
    members: Tensor

    def __init__(self) -> None:
        super().__init__(sync_on_compute=False)  # its rewards are gathered already
        self.add_state("members", torch.zeros(0, dtype=torch.float64), dist_reduce_fx=None)

    def update(self, rewards: Tensor) -> None:
        """Take the rewards of one generation.

        Args:
            rewards: [N, P], gathered: the same on every rank.
        """
        self.members = rewards.to(self.members.device, torch.float64).mean(dim=1)

    def compute(self) -> dict[str, Tensor]:
        """The four numbers, by the names they are logged under."""
        members = self.members.flatten()
        return {
            "reward/mean": members.mean(),
            "reward/std": members.std(correction=0),
            "reward/min": members.min(),
            "reward/max": members.max(),
        }


def columns(scores: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """Each named number of those completions that have it; failures are 0 for the others."""
    keys = dict.fromkeys(key for score in scores for key in score)
    return {
        key: [score.get(key, 0.0) for score in scores if key in score or key.startswith(FAILED)]
        for key in keys
    }


def means(scores: Sequence[Mapping[str, float]], prefix: str) -> dict[str, float]:
    """The mean of each named number over those completions that have it, named ``prefix/key``."""
    return {f"{prefix}/{key}": fsum(column) / len(column) for key, column in columns(scores).items()}


def measured(evaluation: Evaluation) -> list[dict[str, float]]:
    """The scores of all completions, each with its length and whether it was cut off beside it."""
    return [
        {**score, **_shape(completion)}
        for score, completion in zip(evaluation.scores, evaluation.completions, strict=True)
    ]


def record_metrics(record: Generation) -> dict[str, float]:
    """The numbers of a generation other than its rewards' spread, by the names they are logged under."""
    means = {_grouped(key): value for key, value in record.scores.items() if key != "reward"}
    seconds = {f"time/{phase}_s": value for phase, value in record.seconds.items()}
    geometry = {"geometry/update_norm": record.update_norm, "geometry/drift": record.drift}
    return means | seconds | geometry | {"health/skipped": float(record.skipped)}


def _shape(completion: Completion) -> dict[str, float]:
    return {
        "completion_tokens": len(completion.token_ids),
        "completion_chars": len(completion.text),
        "completion_truncated": float(completion.finish_reason == "length"),
    }


def _grouped(key: str) -> str:
    """What was earned is of the group reward/, how it came about of the group health/."""
    return f"health/{key}" if key.startswith((FAILED, "completion_")) else f"reward/{key}"
