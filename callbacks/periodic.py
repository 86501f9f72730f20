"""Callbacks that act every few updates and at the end."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from es_lightning.callbacks.monitor import Tuning, tuning
from es_lightning.errors import UsageError
from es_lightning.system.signals import Interrupted, stop_is_asked


class Periodic(Callback):
    """Base of callbacks that act on the centre before the first update, every few updates, and at the end.

    They act right after an update and not during validation. Acting during validation would tie the two
    schedules together, and Lightning does not tell beforehand whether a validation follows. The engine loads
    the centre once for all callbacks of a generation, which takes a fraction of the time of one member.

    A signal that ends an action lets the other callbacks keep what they have of the generation, and ends the
    run where the next generation or validation begins. A resumed run then does the action.

    A periodic monitor names this base first: ``class Mine(Periodic, Monitor)``.

    Args:
        every: generations from one action to the next; None acts only at the end.

    Raises:
        UsageError: ``every`` is below 1.
    """

    at_start = True
    """Whether to act on the base model."""

    def __init__(self, every: int | None) -> None:
        super().__init__()
        if every is not None and every < 1:
            raise UsageError(f"{type(self).__name__}.every is {every}: give at least 1 generation.")
        self.every = every
        self._centre = ""  # checksum of the centre that was acted on last
        self._resumes = False  # whether nothing has been done since the run was resumed

    @abstractmethod
    def act(self, trainer: pl.Trainer, module: Tuning) -> None:
        """Act on the present centre; all ranks take part."""

    def acted(self, trainer: pl.Trainer) -> bool:
        """Whether the action for this number of updates was done; a resumed run asks before it begins."""
        return False

    def is_known(self, module: Tuning) -> bool:
        """Whether the last action was on the present centre, so that none is needed at the end of a run."""
        return self._centre == module.centre_checksum

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Act on the base model, if it is time."""
        super().on_train_start(trainer, pl_module)
        self._resumes = trainer.global_step > 0
        if self.at_start and not self._resumes:
            self._act_if_due(trainer, pl_module)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Act where an interruption cut an action off; only now has the module its journal again."""
        if self._resumes:
            self._resumes = False
            self._act_if_due(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Act after an update, if it is time."""
        self._act_if_due(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Act on the last centre, unless that was done."""
        module = tuning(pl_module)
        if not self.is_known(module):  # another callback may have put an earlier centre back
            self._act(trainer, module)
        super().on_train_end(trainer, pl_module)

    def _act_if_due(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        due = self.every is not None and trainer.global_step % self.every == 0
        if due and not stop_is_asked() and not self.acted(trainer):
            try:
                self._act(trainer, tuning(pl_module))
            except Interrupted:
                if not stop_is_asked():  # else it is raised again where the next generation begins
                    raise

    def _act(self, trainer: pl.Trainer, module: Tuning) -> None:
        self.act(trainer, module)
        self._centre = module.centre_checksum
