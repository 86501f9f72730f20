"""Building blocks of tests that run whole fits in this process."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback

from es_lightning.datamodule import TaskDataModule
from es_lightning.grading.scorer import Grading
from es_lightning.module import EvolutionStrategies
from es_lightning.records import Generation
from es_lightning.rollout import HFEngine, Sampling
from es_lightning.task import Task
from tests.helpers.letters import Letters

__all__ = ["Letters", "Records", "fit", "module", "trainer"]


class Records(Callback):
    """Keeps every generation's record, and the centre's checksum around it."""

    def __init__(self) -> None:
        self.generations: list[Generation] = []
        self.checksums: list[str] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Before the members are evaluated."""
        self.checksums.append(pl_module.checksum())

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """After the update."""
        self.generations.append(outputs["generation"])
        self.checksums.append(pl_module.checksum())


def module(**options: Any) -> EvolutionStrategies:
    """A module on the tiny model with steps large enough to change what it says."""
    defaults: dict[str, Any] = {
        "base": "tiny",
        "population": 4,
        "sigma": 0.05,
        "optimizer": lambda parameters: torch.optim.SGD(parameters, lr=0.05),
        "sampling": Sampling(max_tokens=6),
        "engine": HFEngine(dtype="float32", device="cpu"),
    }
    return EvolutionStrategies(**(defaults | options))


def fit(
    task: Task,
    folder: Path,
    steps: int = 3,
    data: dict[str, Any] | None = None,
    callbacks: Any = (),
    **options: Any,
) -> tuple[EvolutionStrategies, Records]:
    """Fit the tiny model, grading in this process, and return it with its records."""
    tuned, records = module(**options), Records()
    data = {"grading": Grading(workers=0)} | (data or {})
    trainer(folder, steps, [records, *callbacks]).fit(tuned, TaskDataModule(task, **data))
    return tuned, records


def trainer(folder: Path, steps: int = 3, callbacks: Any = (), **options: Any) -> pl.Trainer:
    """A trainer that writes into a test's own folder."""
    defaults: dict[str, Any] = {"val_check_interval": steps, "check_val_every_n_epoch": None}
    defaults |= {"logger": False, "enable_checkpointing": False}
    defaults |= {"accelerator": "cpu", "devices": 1, "num_sanity_val_steps": 0}
    return pl.Trainer(
        max_steps=steps,
        max_epochs=-1,
        default_root_dir=folder,
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        inference_mode=False,
        **(defaults | options),
    )
