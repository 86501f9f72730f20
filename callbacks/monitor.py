"""What callbacks share: what they need of a module, and the rows, tables and pictures of a monitor."""

from __future__ import annotations

import json
import time
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, WeightAveraging
from lightning.pytorch.utilities import rank_zero_only

from es_lightning.algorithm.noise import Noise
from es_lightning.algorithm.population import Population
from es_lightning.datamodule import TaskDataModule
from es_lightning.distributed.ranks import Ranks
from es_lightning.errors import UsageError
from es_lightning.evaluation import Evaluator, Rollouts
from es_lightning.journal.history import History
from es_lightning.models import BaseModel
from es_lightning.records import Evaluation, Generation, Prompt
from es_lightning.reports import plots
from es_lightning.reports.csv_file import write_csv
from es_lightning.system.files import replacing
from es_lightning.tracking.artifacts import log_artifact, log_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import nn

REDRAW_SECONDS = 30.0


class Tuning(Protocol):
    """What a callback may use of a module that tunes a centre, by whatever method.

    ``EvolutionStrategies`` documents each of these in full.
    """

    @property
    def centre(self) -> nn.Module:
        """The weights that are tuned: float32 parameters under Hugging Face names."""

    @property
    def base_model(self) -> BaseModel:
        """Where the run started from."""

    @property
    def rollouts(self) -> Rollouts:
        """The engine, and the weights in it."""

    @property
    def evaluator(self) -> Evaluator:
        """Turns weights and prompts into rewards."""

    @property
    def ranks(self) -> Ranks:
        """This process among the ranks."""

    @property
    def data(self) -> TaskDataModule:
        """Task and prompts."""

    @property
    def generation(self) -> int:
        """Updates that the centre has seen."""

    @property
    def centre_checksum(self) -> str:
        """Checksum of the centre, as it was after the last update."""

    def checksum(self) -> str:
        """Compute the checksum of the centre, as it is now."""

    def configure_model(self) -> None:
        """Load the centre, once."""

    def reserve(self, prompts: Sequence[Prompt], max_tokens: int | None = None) -> list[Prompt]:
        """Encode prompts, and reserve room for them in the engine."""

    def settings(self) -> Mapping[str, Any]:
        """Return the settings that decide a run, as plain values."""


class Evolving(Tuning, Protocol):
    """What a callback may use of a module that evolves a population, and what it may change."""

    @property
    def population(self) -> Population:
        """Which members there are."""

    @property
    def sigma(self) -> float:
        """Noise scale in units of the weights."""

    @property
    def lr(self) -> float:
        """Learning rate of the next update."""

    @property
    def noise(self) -> Noise:
        """Kind of noise."""

    @property
    def history(self) -> History:
        """Journal and lineage."""

    def record_evaluation(self, split: str, evaluation: Evaluation) -> None:
        """Add an evaluation of the centre to evaluations.jsonl."""

    def restore(self, generation: int) -> None:
        """Put back the centre from before a generation."""

    def adjust(
        self, sigma: float | None = None, population: int | None = None, lr_factor: float | None = None
    ) -> None:
        """Change settings from the next generation on."""


def tuning(module: pl.LightningModule) -> Tuning:
    """Return the module as one that tunes a centre.

    Raises:
        UsageError: it lacks something that a callback may use.
    """
    return cast(Tuning, _with(module, Tuning))


def evolving(module: pl.LightningModule) -> Evolving:
    """Return the module as one that evolves a population.

    Raises:
        UsageError: it lacks something that a callback may use.
    """
    return cast(Evolving, _with(module, Evolving))


def _with(module: pl.LightningModule, protocol: type) -> pl.LightningModule:
    asked = {name for each in protocol.__mro__ for name in vars(each) if not name.startswith("_")}
    lacking = sorted(asked - {"centre", *dir(module)})  # setup makes the centre
    if lacking:
        raise UsageError(
            f"a callback asks for {', '.join(lacking)}, which {type(module).__name__} has not: leave the "
            "callback out, or give the module what es_lightning.callbacks.monitor describes."
        )
    return module


def record_of(outputs: Any) -> Generation | None:
    """Take a generation's record from what a training step returned; None if there was no population."""
    return outputs.get("generation") if isinstance(outputs, Mapping) else None


def evaluation_of(outputs: Any) -> Evaluation | None:
    """Take the evaluation from what a validation step returned; None if the module returns none."""
    return outputs.get("evaluation") if isinstance(outputs, Mapping) else None


def history_of(module: Tuning) -> History | None:
    """Return a module's history, that is, its journal and lineage; None if it keeps none."""
    history: History | None = getattr(module, "history", None)
    return history


def put_back(module: Tuning) -> bool:
    """Whether a callback has put an earlier centre back, and no update has followed since."""
    history = history_of(module)
    return history is not None and history.parent is not None


class Monitor(Callback):
    """Base of the callbacks that watch a run: they ``keep`` rows of numbers, and ``draw`` them.

    A subclass measures in hooks of its own, on all ranks alike. Numbers of the centre are kept under the
    number of updates that it has seen, numbers of a population under its generation's index.
    """

    picture = ""
    """File name of the picture in ``plots/``; empty for a monitor that draws none."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self._drawn = 0.0

    def keep(self, trainer: pl.Trainer, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Remember a row of numbers and send it to the loggers and to ``trainer.callback_metrics``.

        Args:
            trainer: the run's trainer.
            metrics: numbers by the names they are logged under.
            step: number of updates, or generation, that they belong to; None takes the updates done so far.
        """
        step = trainer.global_step if step is None else step
        self.rows.append({"generation": float(step), **metrics})
        for logger in trainer.loggers:
            logger.log_metrics(dict(metrics), step=step)
        self.show(trainer, metrics)
        self.draw(trainer)

    def show(self, trainer: pl.Trainer, metrics: Mapping[str, float]) -> None:
        """Put numbers where other callbacks, such as ``EarlyStopping``, look for them."""
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in metrics.items()})

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the numbers from before an interruption again, since Lightning does not keep them."""
        for row in self.rows:
            self.show(trainer, {name: value for name, value in row.items() if name != "generation"})

    def has_row(self, step: int) -> bool:
        """Whether there is a row for this number of updates, or this generation."""
        return any(row["generation"] == step for row in self.rows)

    def column(self, name: str) -> tuple[list[float], list[float]]:
        """Return the generations at which a metric was measured, and its values."""
        rows = [row for row in self.rows if name in row]
        return [row["generation"] for row in rows], [row[name] for row in rows]

    @rank_zero_only
    def draw(self, trainer: pl.Trainer, now: bool = False) -> None:
        """Redraw the picture, unless that was done in the last half minute, and put it into MLflow's run.

        Args:
            trainer: the run's trainer.
            now: draw it even if it was drawn in the last half minute.
        """
        if not self.picture or not self.rows:
            return
        if not now and time.monotonic() - self._drawn < REDRAW_SECONDS:
            return
        for path in self.save(trainer, Path(trainer.default_root_dir) / "plots" / self.picture):
            log_artifact(trainer.loggers, path, "plots")
        self._drawn = time.monotonic()

    def save(self, trainer: pl.Trainer, path: Path) -> list[Path]:
        """Write the picture, and beside it as CSV the numbers that it can be drawn from again.

        Args:
            trainer: the run's trainer.
            path: PNG file; the tables have its name with another ending.

        Returns:
            The files.

        Raises:
            StorageError: the disk is full or the folder cannot be written.
        """
        with plots.style():
            plots.save(self.figure(trainer), path)
        written = [path]
        for ending, rows in self.numbers().items():
            if rows:
                written.append(path.with_name(f"{path.stem}{ending}.csv"))
                write_csv(written[-1], rows)
        return written

    def numbers(self) -> dict[str, Sequence[Mapping[str, Any]]]:
        """Return the tables beside the picture: rows by what follows the picture's name in that of the file.

        The first one, without an ending, has a row per measurement. A monitor that draws more than its rows
        adds to them.
        """
        return {"": self.rows}

    @abstractmethod
    def figure(self, trainer: pl.Trainer) -> Figure:
        """Make the picture of all rows so far."""

    def title(self, trainer: pl.Trainer) -> str:
        """Return the picture's title: what the run is, and the settings that decide it."""
        return title(tuning(trainer.lightning_module))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the whole run."""
        self.draw(trainer, now=True)

    def state_dict(self) -> dict[str, Any]:
        """The rows so far, for a resumed run."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.rows = [dict(row) for row in state_dict["rows"]]


def title(module: Tuning) -> str:
    """Name the task, the base model and the settings that decide a run, in one line for a picture."""
    settings = module.settings()
    told = [key for key in ("population", "sigma", "lr", "seed") if key in settings]
    starts = {key: " at first" if f"{key}_schedule" in settings else "" for key in told}
    named = ", ".join(f"{key} {settings[key]}{starts[key]}" for key in told)
    return f"{module.data.task.name} on {module.base_model.name}: {named}"


def write_table(
    trainer: pl.Trainer, name: str, content: str | bytes | Mapping[str, Any], shown: bool = False
) -> None:
    """Write a file into ``tables/`` of the run's folder, whole or not at all, and put it into MLflow's run.

    Args:
        trainer: the run's trainer; call this only on rank 0.
        name: name of the file.
        content: text, bytes, or values that JSON can hold.
        shown: whether MLflow's page of tables shows it; the content then has pandas' split form.

    Raises:
        StorageError: the disk is full or the folder cannot be written.
    """
    path = Path(trainer.default_root_dir) / "tables" / name
    if isinstance(content, Mapping):
        content = f"{json.dumps(content, indent=None if shown else 2)}\n"
    with replacing(path) as file:
        file.write(content if isinstance(content, bytes) else content.encode())
    if shown:
        log_table(trainer.loggers, path)
    else:
        log_artifact(trainer.loggers, path, "tables")


def exhaust(named: Iterable[tuple[str, Any]]) -> None:
    """Take part in what rank 0 measures, where ranks hold the centre together."""
    for _ in named:
        pass


def averages(callbacks: Iterable[pl.Callback]) -> bool:
    """Whether one of the callbacks puts the average of the centres in the centre's place."""
    return any(isinstance(callback, WeightAveraging) for callback in callbacks)
