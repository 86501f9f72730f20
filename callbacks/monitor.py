"""What the monitors of this folder share: rows of numbers that checkpoints keep, a log, and a picture."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, WeightAveraging
from lightning.pytorch.utilities import rank_zero_only

from es_lightning.module import EvolutionStrategies
from es_lightning.reports import plots
from es_lightning.tracking.artifacts import keep_artifact

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REDRAW_SECONDS = 30.0


class Monitor(Callback):
    """Base of the callbacks that watch: ``keep`` what was found, and ``draw`` it.

    A subclass measures in hooks of its own, on all ranks alike; numbers of the centre stand beside the count
    of updates that it has seen, numbers of a population beside its generation's index.
    """

    picture = ""
    """File name of the picture in ``plots/``; empty for a monitor that draws none."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self._drawn = 0.0

    def keep(self, trainer: pl.Trainer, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Remember a row of numbers and send it to the loggers and to ``trainer.callback_metrics``.

        Args:
            trainer: of the run.
            metrics: numbers by the names they are logged under.
            step: where they belong; None takes the number of updates done.
        """
        step = trainer.global_step if step is None else step
        self.rows.append({"generation": float(step), **metrics})
        for logger in trainer.loggers:
            logger.log_metrics(dict(metrics), step=step)
        self.show(trainer, metrics)
        self.draw(trainer)

    def show(self, trainer: pl.Trainer, metrics: Mapping[str, float]) -> None:
        """Put numbers where other callbacks find them, ``EarlyStopping`` for one."""
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in metrics.items()})

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show again what was found before an interruption, which Lightning has forgotten."""
        for row in self.rows:
            self.show(trainer, {name: value for name, value in row.items() if name != "generation"})

    def column(self, name: str) -> tuple[list[float], list[float]]:
        """Generations and values of a metric, as far as it was measured."""
        rows = [row for row in self.rows if name in row]
        return [row["generation"] for row in rows], [row[name] for row in rows]

    @rank_zero_only
    def draw(self, trainer: pl.Trainer, now: bool = False) -> None:
        """Draw the picture anew, unless that was done in the last half minute, and put it into MLflow's run.

        Args:
            trainer: of the run.
            now: draw it whenever it was drawn last.
        """
        if not self.picture or not self.rows:
            return
        if not now and time.monotonic() - self._drawn < REDRAW_SECONDS:
            return
        path = Path(trainer.default_root_dir) / "plots" / self.picture
        with plots.style():
            plots.save(self.figure(trainer), path)
        keep_artifact(trainer.loggers, path, "plots")
        self._drawn = time.monotonic()

    @abstractmethod
    def figure(self, trainer: pl.Trainer) -> Figure:
        """The picture of all rows so far."""

    def title(self, trainer: pl.Trainer) -> str:
        """What a picture shows, with the settings that decide a run."""
        return title(evolved(trainer.lightning_module))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the whole run."""
        self.draw(trainer, now=True)

    def state_dict(self) -> dict[str, Any]:
        """The rows so far, for a resumed run."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.rows = [dict(row) for row in state_dict["rows"]]


def title(module: EvolutionStrategies) -> str:
    """Task, base model and the settings that decide a run, on one line of a picture."""
    settings = module.settings()
    named = ", ".join(f"{key} {settings[key]}" for key in ("population", "sigma", "lr", "seed"))
    return f"{module.data.task.name} on {module.base}: {named}"


def averages(callbacks: Iterable[pl.Callback]) -> bool:
    """Whether one of the callbacks puts the average of the centres in the centre's place."""
    return any(isinstance(callback, WeightAveraging) for callback in callbacks)


def evolved(module: pl.LightningModule) -> EvolutionStrategies:
    """The module as what it is; Lightning's hooks name its base class.

    Raises:
        TypeError: it is another one.
    """
    if not isinstance(module, EvolutionStrategies):
        raise TypeError(f"this callback watches EvolutionStrategies, not {type(module).__name__}.")
    return module
