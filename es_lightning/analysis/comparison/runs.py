"""What a comparison knows of a run: its evaluations with what they had cost, and numbers by update."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import fsum, nan
from typing import Any

from es_lightning.journal.evaluations import Sample
from es_lightning.records import Costs

AXES = ("rollouts", "tokens", "seconds", "flops")
"""What training costs: completions, tokens generated, wall-clock seconds, floating-point operations."""

Points = Sequence[tuple[int, float]]
"""Updates done, and a value."""


@dataclass(frozen=True)
class Evaluated:
    """One evaluation of the model that a run tunes.

    Args:
        step: updates that the model had seen.
        split: ``val`` or ``test``.
        rewards: reward of each problem, by its id.
        scores: means of the numbers that the task's reward returned.
        cost: what training had cost until then.
        samples: some of the completions.
        solved: whether each problem was solved, by its id, 1 or 0 or the share of its samples; empty if the
            file does not tell.
        centre: checksum of the weights; empty if the file does not tell.
    """

    step: int
    split: str
    rewards: Mapping[str, float]
    scores: Mapping[str, float] = field(default_factory=dict)
    cost: Costs = Costs()
    samples: tuple[Sample, ...] = ()
    solved: Mapping[str, float] = field(default_factory=dict)
    centre: str = ""

    def is_of_model_of(self, other: Evaluated) -> bool:
        """Whether both are of the same weights: an earlier centre may have been put back between them."""
        same = not self.centre or not other.centre or self.centre == other.centre
        return self.step == other.step and same

    @property
    def reward(self) -> float:
        """Mean over the problems."""
        return fsum(self.rewards.values()) / len(self.rewards)

    def spent(self, axis: str) -> float:
        """Return what training had cost on one of ``AXES``."""
        return float(getattr(self.cost, axis))


@dataclass(frozen=True)
class Run:
    """A training, as its folder tells of it.

    Args:
        name: its folder, or its name in MLflow.
        method: how the model was tuned, in a word: ``ES``, ``GRPO``.
        seed: seed of the run; None if the folder does not tell.
        task: name of the task.
        settings: what else it was made with, flat, by dotted names.
        evaluations: in the order of updates.
        series: numbers by update: ``reward`` of training, its components ``reward/NAME``, ``norm`` of the
            change of the weights, and divergences from the base model, ``kl_...``.
        finals: numbers of the whole run, such as ``sparsity_1e-6`` and ``peak_bytes``.
        forgotten: change of the accuracy on each prior task, or of the reward where it has none, and its
            standard error over problems, NaN if that is not known.
        prior: the same change by the problem's id, of the prior tasks whose problems are known.
        machine: what it ran on; empty if the folder does not tell.
        checksum: of the final weights; None if the folder does not tell.
    """

    name: str
    method: str
    seed: str | None
    task: str
    settings: Mapping[str, Any]
    evaluations: tuple[Evaluated, ...]
    series: Mapping[str, Points] = field(default_factory=dict)
    finals: Mapping[str, float] = field(default_factory=dict)
    forgotten: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    prior: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    machine: str = ""
    checksum: str | None = None

    def on(self, split: str) -> list[Evaluated]:
        """Return the evaluations on a split, in the order of updates."""
        return [each for each in self.evaluations if each.split == split]

    def course(self, split: str) -> list[Evaluated]:
        """Return the evaluations whose first and last tell what training has changed.

        They are those of the split, unless it has none of the model before its first update and the test
        split has: fits are validated first after some generations, and tested before them.

        Args:
            split: ``val`` or ``test``, on which the run has an evaluation.
        """
        courses = (self.on(each) for each in dict.fromkeys((split, "test")))
        return next((each for each in courses if len(each) > 1 and each[0].step == 0), self.on(split))

    def last(self, series: str) -> float:
        """Return the last value of a series; NaN if there is none."""
        points = self.series.get(series, ())
        return points[-1][1] if points else nan


def curve_split(runs: Iterable[Run]) -> str | None:
    """Return the split whose rewards make the curves: ``val`` if every run has it, else ``test``."""
    runs = list(runs)
    return next((split for split in ("val", "test") if all(run.on(split) for run in runs)), None)


def divergence_name(name: str) -> str:
    """Return a divergence as formulas have it: ``kl_base_tuned_k3/x`` is KL(base||tuned) of x, by k3."""
    kind, _, task = name.partition("/")
    _, one, other, *estimator = kind.split("_")
    return ", ".join([f"KL({one}||{other})", *estimator, task])
