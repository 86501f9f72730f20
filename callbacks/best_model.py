"""The best centre so far by a validation metric, as a Hugging Face folder."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from es_lightning.callbacks.export_hf import write_centre
from es_lightning.callbacks.monitor import averages, tuning
from es_lightning.errors import UsageError
from es_lightning.journal.entry import JOURNAL

log = logging.getLogger(__name__)

POPULATION = ("reward/", "health/", "time/")  # groups of metrics that say nothing about the present centre


class BestModel(Callback):
    """Writes the centre to ``best/``, with card and journal, when a validation finds it better than before.

    Args:
        monitor: metric of the centre to compare. If another callback measures it, list this one after it.
        mode: ``max`` if more is better, ``min`` if less is.
        min_delta: by how much a centre has to be better; a tie keeps the earlier one.
        folder: where to write; None takes ``best`` in the run's folder.

    Raises:
        UsageError: ``mode`` is neither, ``min_delta`` is below 0, or ``monitor`` is a metric of the
            population.
    """

    def __init__(
        self,
        monitor: str = "val/reward",
        mode: Literal["max", "min"] = "max",
        min_delta: float = 0.0,
        folder: str | None = None,
    ) -> None:
        if mode not in {"max", "min"}:
            raise UsageError(f"BestModel's mode is {mode!r}: give max or min.")
        if not min_delta >= 0:
            raise UsageError(f"BestModel's min_delta is {min_delta}: give 0 or more.")
        if monitor.startswith(POPULATION):
            raise UsageError(
                f"BestModel's monitor {monitor!r} is a number of the population around the previous centre: "
                "choose a number of the centre itself, such as val/reward."
            )
        self.monitor, self.mode, self.min_delta, self.folder = monitor, mode, min_delta, folder
        self.best: float | None = None
        self.step: int | None = None
        self._before_update: Tensor | None = None
        self._before_validation: Tensor | None = None
        self._due = self._warned = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse an order of callbacks that would write the wrong weights, and a folder of other files.

        Raises:
            UsageError: WeightAveraging would take its average out of the centre's place before this callback
                writes it, or the folder, which is replaced as a whole, holds something other than an export.
        """
        if stage == "fit" and averages(self._before(trainer)):
            raise UsageError(
                "BestModel has to come before WeightAveraging in trainer.callbacks: behind it, the centre is "
                "no longer the average that was validated."
            )
        folder = self._folder(trainer)
        exported = all((folder / name).is_file() for name in (JOURNAL, "config.json"))
        if stage == "fit" and self.folder and folder.exists() and not exported and any(folder.iterdir()):
            raise UsageError(
                f"BestModel's folder {folder} holds other files, and would be replaced: name a new one."
            )

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Remember the metric of the previous centre, to notice when it is measured anew."""
        self._before_update = trainer.callback_metrics.get(self.monitor)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remember the metric of the previous validation, to notice when it is measured anew."""
        self._due = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        self._before_validation = trainer.callback_metrics.get(self.monitor)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Judge the centre while it is still the one that was validated; later hooks may change it."""
        averaged = averages(trainer.callbacks)  # type: ignore[attr-defined]
        # With WeightAveraging, a number from between update and validation is not one of the average.
        if self._due and self._is_measured(
            trainer, self._before_validation if averaged else self._before_update
        ):
            self._judge(trainer, pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Judge the centre by a metric that another callback has just measured.

        Raises:
            UsageError: no callback has measured it yet, or it was measured on weights that have been replaced
                since.
        """
        if not self._due:
            return
        if self.monitor not in trainer.callback_metrics:
            raise UsageError(
                f"BestModel's monitor {self.monitor!r} is none of this run's metrics: choose among "
                f"{', '.join(sorted(trainer.callback_metrics))}."
            )
        if self._is_measured(trainer, self._before_update):
            if averages(trainer.callbacks):  # type: ignore[attr-defined]
                raise UsageError(
                    f"BestModel cannot follow {self.monitor} beside WeightAveraging, which validates other "
                    "weights than it leaves: choose a metric of validation itself, such as val/reward."
                )
            self._judge(trainer, pl_module)

    @rank_zero_only
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Warn if there was nothing to judge."""
        if self.best is None:
            message = "BestModel has written nothing: no validation came in a generation that measured %s."
            log.warning(message, self.monitor)

    def _is_measured(self, trainer: pl.Trainer, earlier: Tensor | None) -> bool:
        value = trainer.callback_metrics.get(self.monitor)
        # Every measurement makes a new tensor, even if its value is the same.
        return value is not None and value is not earlier

    def _judge(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._due = False
        value = float(trainer.callback_metrics[self.monitor])
        if math.isnan(value):
            if not self._warned:
                log.warning("%s is not a number; BestModel passes over such validations.", self.monitor)
            self._warned = True
        elif self._improves(value):
            self.best, self.step = value, trainer.global_step
            self._write(trainer, pl_module)

    def _improves(self, value: float) -> bool:
        if self.best is None:
            return True
        gain = value - self.best if self.mode == "max" else self.best - value
        return gain > self.min_delta

    def _write(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        folder = self._folder(trainer)
        if write_centre(trainer, tuning(pl_module), folder, metric=self.monitor):
            log.info("%s has the best centre so far: %s %.6g.", folder, self.monitor, self.best)

    def _folder(self, trainer: pl.Trainer) -> Path:
        return Path(self.folder or Path(trainer.default_root_dir) / "best")

    def _before(self, trainer: pl.Trainer) -> list[Callback]:
        others: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        return others[: others.index(self)]

    def state_dict(self) -> dict[str, Any]:
        """The best value so far, and after how many updates it was measured."""
        return {"best": self.best, "step": self.step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.best, self.step = state_dict["best"], state_dict["step"]
