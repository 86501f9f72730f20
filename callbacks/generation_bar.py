"""Lightning's rich progress bar, counting generations."""

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import ProcessingSpeedColumn
from rich.progress import ProgressColumn, Task
from rich.text import Text

SPEED = "time/tokens_per_s"


class GenerationBar(RichProgressBar):
    """Shows generations done, time left, and the metrics that the module logs with ``prog_bar``."""

    @property
    def total_train_batches(self) -> int | float:
        """Generations of the whole run; Lightning would count only those that a resumed run has left."""
        return self.trainer.num_training_batches

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Advance the bar; Lightning would start at 0 again when a finished run is extended."""
        before = int((trainer.global_step - 1) % self.total_train_batches)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, before)

    def configure_columns(self, trainer: pl.Trainer) -> list[Any]:
        """Take Lightning's columns, name what is counted in the first one, and drop iterations per second."""
        columns = super().configure_columns(trainer)[1:]
        return [_Counted(), *(column for column in columns if not isinstance(column, ProcessingSpeedColumn))]

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """Show the module's metrics, but not the logger's version, which is a random name in MLflow."""
        metrics: dict[str, Any] = super().get_metrics(trainer, pl_module)
        shown = {name: value for name, value in metrics.items() if name not in ("v_num", SPEED)}
        return shown | ({"tokens/s": metrics[SPEED]} if SPEED in metrics else {})


class _Counted(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Name what the bar counts: an epoch's batches are generations."""
        return Text("generation" if task.description.startswith("Epoch") else task.description)
