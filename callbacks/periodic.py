"""What callbacks share that probe the centre with prompts of other tasks, every so many generations."""

from __future__ import annotations

import random
import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import lightning.pytorch as pl

from es_lightning.callbacks.monitor import Monitor, evolved
from es_lightning.errors import UsageError
from es_lightning.module import EvolutionStrategies
from es_lightning.records import Prompt
from es_lightning.task import Task


class Probing(Monitor):
    """A monitor that measures at generation 0, after every so many updates, and at the end.

    It does so as soon as the update is done, and not in the validation: that would tie the two schedules
    together, and Lightning tells nobody beforehand whether a validation follows. The centre is loaded once
    for all monitors of a generation, which takes a fraction of the time that one member does.

    Args:
        every: generations from one measurement to the next.

    Raises:
        UsageError: it is below 1.
    """

    def __init__(self, every: int) -> None:
        super().__init__()
        if every < 1:
            raise UsageError(f"{type(self).__name__}.every is {every}: give at least 1 generation.")
        self.every = every
        self._centre = ""  # checksum of what was measured last

    @abstractmethod
    def measure(self, module: EvolutionStrategies) -> Mapping[str, float]:
        """Numbers of the centre, by the names they are logged under; all ranks take part."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure the base model; in a resumed run, what the interruption has cut off."""
        super().on_train_start(trainer, pl_module)
        self._measure_if(trainer.global_step % self.every == 0, trainer, pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure the centre if it is time to."""
        self._measure_if(trainer.global_step % self.every == 0, trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure the last centre, unless it is the one that was measured last, and draw the whole run."""
        if self._centre != evolved(pl_module).centre_checksum:  # another callback may have put one back
            self._measure(trainer, evolved(pl_module))
        super().on_train_end(trainer, pl_module)

    def _measure_if(self, due: bool, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        measured = {row["generation"] for row in self.rows}
        if due and float(trainer.global_step) not in measured:
            self._measure(trainer, evolved(pl_module))

    def _measure(self, trainer: pl.Trainer, module: EvolutionStrategies) -> None:
        self._centre = module.centre_checksum
        self.keep(trainer, self.measure(module))


def check_names(
    owner: str, tasks: Mapping[str, Task], suffixes: Sequence[str] = ("",), reserved: Sequence[str] = ()
) -> None:
    """Make sure that every task's metrics have names of their own, which every logger takes.

    Args:
        owner: the callback.
        tasks: by name.
        suffixes: what stands behind a task's name in its metrics.
        reserved: names that the callback itself uses like a task's.

    Raises:
        UsageError: a name cannot be used.
    """
    for name in tasks:
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
            raise UsageError(f"{owner}.tasks has {name!r}: name a task with letters, digits and _ . - alone.")
    metrics = Counter(f"{name}{suffix}" for name in [*reserved, *tasks] for suffix in suffixes)
    for metric, count in metrics.items():
        if count > 1:
            raise UsageError(f"{owner}.tasks gives two metrics the name {metric!r}: rename a task.")


def choose(problems: Sequence[Prompt], size: int, seed: int | None) -> list[Prompt]:
    """Some of the problems in their order: the first ones, or a subset that the seed decides."""
    if seed is None or size >= len(problems):
        return list(problems[:size])
    return [problems[i] for i in sorted(random.Random(seed).sample(range(len(problems)), size))]


def problems_of(task: Task, splits: Sequence[str]) -> tuple[str, list[Prompt]]:
    """The first of the splits that has problems, with these; no problems where none has."""
    for split in splits:
        problems = task.problems(split)
        if problems:
            return split, problems
    return splits[0], []
