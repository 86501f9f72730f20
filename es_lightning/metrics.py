"""Metrics of a generation, on torchmetrics, so that ranks add up to what one process would have seen."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.aggregation import MeanMetric

from es_lightning.generation import Evaluation, Generation


class PopulationReward(Metric):
    """Mean, standard deviation, minimum and maximum of the members' rewards; higher is better.

    The standard deviation is the population's, as in the z-score.
    """

    higher_is_better = True
    full_state_update = False
    members: Tensor

    def __init__(self) -> None:
        super().__init__()
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


class MeanByKey(nn.Module):
    """A mean per named number, for whatever names a task's reward returns."""

    def __init__(self) -> None:
        super().__init__()
        self.means = nn.ModuleDict()

    def update(self, scores: Iterable[Mapping[str, float]]) -> None:
        """Take the numbers of some completions."""
        for score in scores:
            for key, value in score.items():
                if key not in self.means:
                    self.means[key] = MeanMetric()
                self.means[key](value)

    def compute_and_reset(self, prefix: str) -> dict[str, Tensor]:
        """All means, named ``prefix/key``; the next round starts empty."""
        values = {f"{prefix}/{key}": mean.compute() for key, mean in self.means.items()}  # type: ignore[operator]
        for mean in self.means.values():
            mean.reset()  # type: ignore[operator]
        return values


def measured(evaluation: Evaluation) -> list[dict[str, float]]:
    """The scores of all completions, each with its length in tokens and characters beside it."""
    return [
        {**score, "completion_tokens": len(completion.token_ids), "completion_chars": len(completion.text)}
        for score, completion in zip(evaluation.scores, evaluation.completions, strict=True)
    ]


def record_metrics(record: Generation) -> dict[str, float]:
    """The numbers of a generation other than its rewards' spread, by the names they are logged under."""
    scores = [score for evaluation in record.evaluations for score in measured(evaluation)]
    keys = dict.fromkeys(key for score in scores for key in score if key != "reward")
    columns = {key: [score[key] for score in scores if key in score] for key in keys}
    means = {f"train/{key}": sum(column) / len(column) for key, column in columns.items()}
    seconds = {f"time/{phase}_s": value for phase, value in record.seconds.items()}
    geometry = {"geometry/update_norm": record.update_norm, "geometry/drift": record.drift}
    return means | seconds | geometry | {"health/skipped": float(record.skipped)}
