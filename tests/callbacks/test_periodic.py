"""Callbacks that act every few generations, in runs that a signal ends in the middle of an action."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.callbacks import Callback

from es_lightning.callbacks import (
    ExportHF,
    GracefulStop,
    KLDrift,
    PopulationHealth,
    RolloutTable,
    UpdateGeometry,
)
from es_lightning.datamodule import TaskDataModule
from es_lightning.grading.scorer import Grading
from es_lightning.records import Prompt
from es_lightning.system.checkpoint import newest
from es_lightning.system.signals import Interrupted, interruptible_start
from es_lightning.task import Reward
from tests.helpers.fits import Letters, module, trainer

pytestmark = [pytest.mark.slow, pytest.mark.callbacks]  # many fits

ASKED = 2
"""Validation problems that the table of rollouts asks, each time."""


class Struck(Letters):
    """Gets SIGTERM while the table's problems are graded for the third time: after the second generation."""

    def __init__(self, strikes: bool = True) -> None:
        super().__init__()
        self.left = 2 * ASKED + 1 if strikes else 0

    def reward(self, prompt: Prompt, completion: str) -> Reward:
        if prompt.id.startswith("val/"):
            self.left -= 1
            if not self.left:
                os.kill(os.getpid(), signal.SIGTERM)
        return super().reward(prompt, completion)


def watching(folder: Path) -> list[Callback]:
    """The callback that is struck, and those whose turn comes after it."""
    every = {"every": 1}
    table = RolloutTable(prompts=ASKED, **every)
    after = [UpdateGeometry(**every), KLDrift(prompts=2, **every), ExportHF(keep=9, **every)]
    return [GracefulStop(str(folder / "checkpoints")), table, *after, PopulationHealth()]


def run(folder: Path, task: Letters, steps: int, ckpt: str | None = None) -> dict[str, Any]:
    """Fit without validations, and return what each callback has kept."""
    callbacks = watching(folder)
    fitted = trainer(folder, steps, callbacks, limit_val_batches=0)
    with interruptible_start():  # as the command line has it
        fitted.fit(module(), TaskDataModule(task, grading=Grading(workers=0)), ckpt_path=ckpt)
    return {type(each).__name__: each.state_dict() for each in callbacks}


def test_a_signal_in_an_action_loses_nothing_of_any_callback(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", Struck(strikes=False), steps=4)
    stopped = tmp_path / "stopped"
    with pytest.raises(Interrupted):
        run(stopped, Struck(), steps=4)
    ckpt = newest(stopped / "checkpoints")
    assert ckpt is not None
    assert ckpt.stem == "stopped-step=2"
    assert run(stopped, Struck(strikes=False), 4, str(ckpt)) == whole
    exported = [sorted(path.name for path in (each / "exported").iterdir()) for each in tmp_path.iterdir()]
    assert exported == [["step=1", "step=2", "step=3", "step=4"]] * 2
