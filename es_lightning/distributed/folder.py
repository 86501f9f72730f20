"""The run's folder, held by the run's first rank while a fit lasts."""

import os
from collections.abc import Callable
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from es_lightning.system.folders import check_writable
from es_lightning.system.lock import hold

# Where torchrun, Lightning, SLURM, LSF and MPI say which rank a process is, before it joins the others.
PLACES = (
    "RANK",
    "NODE_RANK",
    "GROUP_RANK",
    "LOCAL_RANK",
    "SLURM_PROCID",
    "JSM_NAMESPACE_RANK",
    "OMPI_COMM_WORLD_RANK",
    "PMI_RANK",
)


def is_first_rank() -> bool:
    """Whether this process is the first rank of its run, or launches the others, as the environment says."""
    return all(os.environ.get(name, "0") == "0" for name in PLACES)


class FolderHold(Callback):
    """Refuses a fit in a folder in which another process is fitting, and holds the folder until the end."""

    def __init__(self) -> None:
        self._release: Callable[[], None] | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Take the folder; a trial run (``fast_dev_run``) leaves no files and takes none.

        Raises:
            UsageError: another process holds it, or it cannot be written.
        """
        trial = trainer.fast_dev_run  # type: ignore[attr-defined]
        if stage == "fit" and trainer.is_global_zero and not trial:
            check_writable(trainer.default_root_dir, "trainer.default_root_dir")
            self._release = hold(Path(trainer.default_root_dir))

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Let go of the folder."""
        self._let_go()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Let go of the folder."""
        self._let_go()

    def _let_go(self) -> None:
        if self._release is not None:
            self._release()
            self._release = None
