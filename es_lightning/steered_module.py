"""A population whose settings may be changed, and whose centre may be put back, while a run is under way."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor
from torch.optim import Optimizer

from es_lightning.algorithm.population import Population
from es_lightning.algorithm.tensors import drift
from es_lightning.errors import UsageError
from es_lightning.evaluation.gather import compare_centres
from es_lightning.journal.entry import JOURNAL, Entry, lineage, parse
from es_lightning.journal.replay import repeat
from es_lightning.journal.restore import load_base, load_centre, on_disk
from es_lightning.population_module import PopulationModule
from es_lightning.records import Member, Prompt
from es_lightning.system.memory import trim_heap
from es_lightning.system.stopwatch import Stopwatch

log = logging.getLogger(__name__)
# Learning rates that schedulers compute with, in parameter groups (OneCycleLR) and in themselves (CyclicLR).
_OF_GROUPS, _OF_SCHEDULERS = ("lr", "initial_lr", "max_lr", "min_lr"), ("base_lrs", "max_lrs")


class SteeredModule(PopulationModule):
    """What callbacks may do beside watching; all ranks have to do it alike, between two generations."""

    drift: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.register_buffer("drift", torch.zeros((), dtype=torch.float64))  # so that checkpoints keep it
        self.after: int | None = None
        """Generation whose result the next update starts from, if that is not the one before."""
        self._adjusted: dict[str, Any] = {}

    @property
    def _lightning_optimizer(self) -> LightningOptimizer:
        return cast(LightningOptimizer, self.optimizers())

    @property
    def _optimizer(self) -> Optimizer:
        return self._lightning_optimizer.optimizer

    @property
    def lr(self) -> float:
        """Learning rate of the next update; alpha in the papers."""
        return float(self._optimizer.param_groups[0]["lr"])

    def adjust(
        self, sigma: float | None = None, population: int | None = None, lr_factor: float | None = None
    ) -> None:
        """Change settings from the next generation on; checkpoints keep them.

        Args:
            sigma: new noise scale, in units of the weights.
            population: new number of members.
            lr_factor: factor on the learning rate, and on those that a scheduler computes with.

        Raises:
            UsageError: a value is outside its range.
        """
        if sigma is not None:
            if not sigma > 0:
                raise UsageError(f"sigma is {sigma}: give a noise scale above 0, for example 0.001.")
            self.sigma = sigma
        if population is not None:
            old = self.population
            self.population = Population(population, old.run_seed, old.antithetic)
        if lr_factor is not None:
            for group in self._optimizer.param_groups:
                group |= {name: group[name] * lr_factor for name in _OF_GROUPS if name in group}
            _scale(self.lr_schedulers(), lr_factor)
        self._adjusted = {"sigma": self.sigma, "population": self.population.size}

    def evaluate_members(
        self, members: Sequence[Member], prompts: Sequence[Prompt], sigma: float
    ) -> tuple[Tensor, dict[str, float]]:
        """Evaluate members that belong to no generation; all ranks take part and get all of it.

        Args:
            members: M members.
            prompts: P encoded prompts, the same on every rank.
            sigma: noise scale in units of the weights.

        Returns:
            Rewards, float64 [M, P], and the means of what the task's reward returned and of the completions'
            lengths.
        """
        _, outcome = self.evaluate_population(members, prompts, Stopwatch(), sigma)
        return outcome.rewards, dict(outcome.scores)

    # Going back -----------------------------------------------------------------------------------

    def on_train_start(self) -> None:
        """Start or go on, from the centre that the journal leads to.

        Raises:
            UsageError: a run is to begin with a centre that is no base model, or its checkpoint is ahead of
                its journal.
            RankError: another rank holds another centre.
        """
        if self.generation == 0 and self.drift != 0:
            raise UsageError(
                "this module's centre has been tuned already, and a run begins at the base model: make a new "
                "module, or give the ckpt_path of the run that is to go on."
            )
        super().on_train_start()
        path = lineage(self._entries(), self.generation - 1 if self.after is None else self.after)
        compare_centres(self.exchange(self.centre_checksum.encode()), self.generation)
        if path and path[-1].checksum != self.centre_checksum:
            # Written amid an update or a validation of WeightAveraging, or after its end.
            log.warning(
                "The checkpoint's centre %s is not the journal's %s, which is made again.",
                self.centre_checksum,
                path[-1].checksum,
            )
            self.restore(path[-1].generation + 1)

    def _entries(self) -> list[Entry]:
        _, entries = parse(self.run_journal.lines, Path(self.trainer.default_root_dir) / JOURNAL)
        if len(entries) < self.generation:
            raise UsageError(
                f"the checkpoint has seen {self.generation} generations and its journal {len(entries)}: it "
                "was written after a failure. Give an earlier --ckpt_path."
            )
        return entries

    @torch.no_grad()
    def restore(self, generation: int) -> None:
        """Put centre and optimizer back to where they were before a generation; settings stay as they are.

        From the nearest checkpoint, or the base model, and the journal. All ranks take part.

        Args:
            generation: updates that the wanted centre has seen; 0 is the base model.

        Raises:
            UsageError: the journal does not lead there.
        """
        entries = self._entries()
        if not 0 <= generation <= len(entries):
            raise UsageError(
                f"the centre of generation {generation} cannot be restored: it is still to come."
            )
        path = lineage(entries, generation - 1)
        # A checkpoint's groups hold what schedulers had put there by then, OneCycleLR's peak for example.
        present = [_without_parameters(group) for group in self._optimizer.param_groups]
        for entry in path[self._start(path) :]:
            repeat(entry, self.centre, self._optimizer, self.noise)
        for group, settings in zip(self._optimizer.param_groups, present, strict=True):
            group.update(settings)
        self.centre_checksum = self.checksum()
        if path and self.centre_checksum != path[-1].checksum:
            raise UsageError(
                f"the journal leads to centre {self.centre_checksum} before generation {generation}, where "
                f"{path[-1].checksum} was: library or device have changed since the run began."
            )
        self.after = None if generation == self.generation else generation - 1
        self.drift.fill_(drift(self.base_weights, self.centre))
        self.centre_has_changed()
        trim_heap()

    def _start(self, path: list[Entry]) -> int:
        """Load the latest centre of a lineage that all ranks find on disk; returns the updates it saw."""
        folders = {
            Path(each.dirpath)
            for each in self.trainer.checkpoint_callbacks
            if isinstance(each, ModelCheckpoint) and each.dirpath
        }
        mine = [[str(file), index] for index, file in on_disk(folders, path)]
        agreed = json.loads(self.exchange(json.dumps(mine).encode())[0])
        for file, index in agreed:
            optimizer_state = load_centre(Path(file), self.centre, path[index].checksum)
            told = self.exchange(b"no" if optimizer_state is None else b"yes")
            if optimizer_state is not None and set(told) == {b"yes"}:
                self._optimizer.load_state_dict(optimizer_state)
                return int(index) + 1
        load_base(self.base_weights, self.centre)
        self._optimizer.state.clear()
        return 0

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put what callbacks have changed into the checkpoint."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["steered"] = {"after": self.after, **self._adjusted}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take what callbacks had changed from the checkpoint."""
        super().on_load_checkpoint(checkpoint)
        steered = dict(checkpoint.get("steered", {}))
        self.after = steered.pop("after", None)
        if steered:
            self.adjust(**steered)


def _without_parameters(group: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name != "params"}


def _scale(scheduler: Any, factor: float) -> None:
    """Let a scheduler, and those that it is made of, compute with other learning rates."""
    for name in _OF_SCHEDULERS:
        if hasattr(scheduler, name):
            setattr(scheduler, name, [lr * factor for lr in getattr(scheduler, name)])
    for part in getattr(scheduler, "_schedulers", ()):
        _scale(part, factor)
