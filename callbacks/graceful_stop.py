"""End a run on SIGTERM and Ctrl-C, between two steps and with a checkpoint."""

import logging
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from es_lightning.callbacks.monitor import averages
from es_lightning.distributed.strategy import PopulationStrategy
from es_lightning.errors import StorageError
from es_lightning.system.checkpoint import newest_step
from es_lightning.system.signals import Interrupted, listen, stop_listening

log = logging.getLogger(__name__)


class GracefulStop(Callback):
    """Abandons the generation in progress and saves the centre it started from; exit code 128 + signal.

    A centre that the ranks hold together (``strategy.shard_centre``) is not saved then: a resumed run repeats
    the updates since the newest checkpoint from the journal.

    Args:
        dirpath: folder for the checkpoint; None takes ``checkpoints`` in the run's folder.
    """

    def __init__(self, dirpath: str | None = None) -> None:
        self.dirpath = dirpath
        self._began = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the signals over from Lightning, whose handler waits for the generation to end."""
        strategy = trainer.strategy
        if trainer.is_global_zero:
            for torn in self._folder(trainer).glob("*.ckpt.part"):  # what a killed process was writing
                torn.unlink()
        self._began = True
        listen(strategy.stop if isinstance(strategy, PopulationStrategy) else None)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Write the checkpoint, unless this generation has one already, or none has begun."""
        if not isinstance(exception, Interrupted) or not trainer.is_global_zero or not self._began:
            return
        folder = self._folder(trainer)
        if newest_step(folder) == trainer.global_step:
            return
        strategy = trainer.strategy
        if isinstance(strategy, PopulationStrategy) and strategy.shard_centre:
            # Each rank has a part of the centre, and may be anywhere by now. The journal leads back here.
            log.info("Stopped; --ckpt_path last goes on from the newest checkpoint and the journal.")
            return
        if trainer.validating and averages(trainer.callbacks):  # type: ignore[attr-defined]
            # A checkpoint would hold the average in the centre's place. The journal alone leads back here.
            log.info("Stopped while the average was validated; resume with --ckpt_path last.")
            return
        if trainer.training:
            # Lightning has counted the batch as begun, but a resumed run has to begin it again.
            trainer.fit_loop.epoch_loop.batch_progress.total.reset_on_restart()
        path = folder / f"stopped-step={trainer.global_step}.ckpt"
        try:
            trainer.save_checkpoint(path)
        except StorageError as error:
            log.error("%s", error)
            return
        for old in folder.glob("stopped-step=*.ckpt"):
            if old != path:
                old.unlink()
        log.info("Stopped before generation %d; resume with --ckpt_path last.", trainer.global_step)

    def _folder(self, trainer: pl.Trainer) -> Path:
        return Path(self.dirpath or Path(trainer.default_root_dir) / "checkpoints")

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Give the signals back."""
        self._began = False
        stop_listening()
