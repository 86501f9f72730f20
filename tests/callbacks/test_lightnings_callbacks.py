"""Lightning's own callbacks do with a population what their names say."""

import math
from pathlib import Path
from signal import SIGTERM
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import (
    Callback,
    EarlyStopping,
    LearningRateMonitor,
    ModelCheckpoint,
    ModelSummary,
    OnExceptionCheckpoint,
    RichProgressBar,
    Timer,
    WeightAveraging,
)
from torch.optim.swa_utils import get_ema_avg_fn

from es_lightning.callbacks import GenerationBar, GracefulStop, Monitor
from es_lightning.datamodule import TaskDataModule
from es_lightning.grading.scorer import Grading
from es_lightning.module import EvolutionStrategies
from es_lightning.system import checkpoint
from es_lightning.system.checkpoint import newest
from es_lightning.system.signals import Interrupted
from tests.contracts.test_callbacks import Kept
from tests.helpers.fits import Letters, module, trainer

pytestmark = [pytest.mark.slow, pytest.mark.callbacks]  # many fits


class Centres(Callback):
    """Keeps a copy of one tensor after every update, and what the module held while validating."""

    def __init__(self) -> None:
        self.after: list[torch.Tensor] = []
        self.validated: list[torch.Tensor] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """After an update."""
        self.after.append(_tensor(pl_module))

    def on_validation_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """While validating."""
        self.validated.append(_tensor(pl_module))


def _tensor(tuned: EvolutionStrategies) -> torch.Tensor:
    return next(tuned.centre.parameters()).detach().clone()


def fit(folder: Path, callbacks: Any, steps: int = 4, ckpt: str | None = None, **options: Any) -> Any:
    """A fit that validates after every generation; returns the trainer and the module."""
    of_module = options.pop("of_module", {})
    tuned = module(**of_module)
    run = trainer(folder, steps, callbacks, val_check_interval=1, log_every_n_steps=1, **options)
    run.fit(tuned, TaskDataModule(Letters(), grading=Grading(workers=0)), ckpt_path=ckpt)
    return run, tuned


def half(optimizer: Any) -> Any:
    return torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)


def test_learning_rate_monitor_logs_the_schedule(tmp_path: Path) -> None:
    logger = Kept()
    fit(tmp_path, [LearningRateMonitor("step")], logger=logger, of_module={"lr_scheduler": half})
    rates = [(step, value) for key, value, step in logger.metrics if key.startswith("lr-")]
    assert [step for step, _ in rates] == [0, 1, 2, 3]
    assert [value for _, value in rates] == pytest.approx([0.05 * 0.5**n for n in range(4)])


def test_a_resumed_run_goes_on_logging_where_it_was(tmp_path: Path) -> None:
    def callbacks() -> list[Callback]:
        kept = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
        return [LearningRateMonitor("step"), kept]

    options = {"enable_checkpointing": True, "of_module": {"lr_scheduler": half}}
    fit(tmp_path, callbacks(), steps=2, logger=Kept(), **options)
    logger = Kept()
    fit(tmp_path, callbacks(), logger=logger, ckpt=str(tmp_path / "step=2.ckpt"), **options)
    for name in ("lr-SGD", "reward/mean"):
        assert [step for key, _, step in logger.metrics if key == name] == [2, 3]
    assert [step for key, _, step in logger.metrics if key == "val/reward"] == [3, 4]


class Scripted(Callback):
    """Logs given values as a validation metric."""

    def __init__(self, values: list[float]) -> None:
        self.values = iter(values)

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Log the next one."""
        pl_module.log("scripted", next(self.values))


def test_early_stopping_stops_after_its_patience(tmp_path: Path) -> None:
    stopping = EarlyStopping("scripted", mode="max", patience=2)
    run, _ = fit(tmp_path, [Scripted([1.0, 3.0, 2.0, 2.5, 9.0, 9.0]), stopping], steps=6)
    assert run.global_step == 4
    assert stopping.best_score == 3.0


class Falling(Monitor):
    """A monitor of this library, whose metric falls."""

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        """Keep a number."""
        self.keep(trainer, {"prior/falling": -float(trainer.global_step)})

    def figure(self, trainer: Any) -> Any:
        """Never drawn."""
        raise NotImplementedError


def test_early_stopping_sees_what_a_monitor_measures(tmp_path: Path) -> None:
    stopping = EarlyStopping("prior/falling", mode="max", patience=2)
    run, _ = fit(tmp_path, [Falling(), stopping], steps=6)
    assert run.global_step == 3
    assert stopping.best_score == -1.0


def test_model_checkpoint_keeps_the_best_and_a_resumed_run_knows_it(tmp_path: Path) -> None:
    def best() -> ModelCheckpoint:
        return ModelCheckpoint(tmp_path, "{step}", monitor="scripted", mode="max", save_top_k=1)

    first = best()
    fit(tmp_path, [Scripted([1.0, 3.0, 2.0]), first], steps=3, enable_checkpointing=True)
    assert [path.name for path in tmp_path.glob("*.ckpt")] == ["step=2.ckpt"]
    second = best()
    ckpt = str(tmp_path / "step=2.ckpt")
    fit(tmp_path, [Scripted([2.0, 2.5]), second], steps=4, ckpt=ckpt, enable_checkpointing=True)
    assert second.best_model_score == 3.0


@pytest.mark.parametrize("decay", [None, 0.5])
def test_weight_averaging_validates_and_ends_with_the_average(tmp_path: Path, decay: float | None) -> None:
    centres = Centres()
    options = {} if decay is None else {"avg_fn": get_ema_avg_fn(decay)}
    averaging = WeightAveraging(device="cpu", **options)
    with pytest.warns(UserWarning, match="overrides the configure_model"):
        _, tuned = fit(tmp_path, [averaging, centres])
    average = centres.after[0].double()
    for number, centre in enumerate(centres.after):
        share = 1 / (number + 1) if decay is None else 1 - decay
        average = average + (centre.double() - average) * (share if number else 0)
        assert torch.allclose(centres.validated[number].double(), average, atol=1e-6)
    assert torch.allclose(_tensor(tuned).double(), average, atol=1e-6)
    assert not torch.allclose(centres.after[-1].double(), average, atol=1e-4)


def test_weight_averaging_leaves_the_run_itself_as_it_was(tmp_path: Path) -> None:
    with_, without = Centres(), Centres()
    with pytest.warns(UserWarning, match="overrides the configure_model"):
        fit(tmp_path / "with", [WeightAveraging(device="cpu"), with_])
    fit(tmp_path / "without", [without])
    assert all(torch.equal(a, b) for a, b in zip(with_.after, without.after, strict=True))


@pytest.mark.filterwarnings("ignore:.*overrides the configure_model")
def test_weight_averaging_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    def parts() -> list[Callback]:
        kept = ModelCheckpoint(tmp_path / "parts", "{step}", every_n_train_steps=1, save_top_k=-1)
        return [WeightAveraging(device="cpu"), kept]

    _, whole = fit(tmp_path / "whole", [WeightAveraging(device="cpu")])
    fit(tmp_path / "parts", parts(), steps=2, enable_checkpointing=True)
    ckpt = str(tmp_path / "parts" / "step=2.ckpt")
    _, resumed = fit(tmp_path / "parts", parts(), ckpt=ckpt, enable_checkpointing=True)
    assert torch.equal(_tensor(whole), _tensor(resumed))


class Strikes(Callback):
    """Does what SIGTERM does, in a validation."""

    def on_validation_batch_start(self, trainer: Any, *_: Any) -> None:
        """Stop the run."""
        if trainer.global_step == 3:
            raise Interrupted(SIGTERM)


@pytest.mark.filterwarnings("ignore:.*overrides the configure_model")
def test_an_average_survives_a_signal_while_it_is_validated(tmp_path: Path) -> None:
    def parts() -> list[Callback]:
        kept = ModelCheckpoint(tmp_path / "checkpoints", "{step}", every_n_train_steps=2, save_top_k=-1)
        return [WeightAveraging(device="cpu"), GracefulStop(str(tmp_path / "checkpoints")), kept]

    _, whole = fit(tmp_path / "whole", [WeightAveraging(device="cpu")])
    with pytest.raises(Interrupted):
        fit(tmp_path, [*parts(), Strikes()], enable_checkpointing=True)
    last = newest(tmp_path / "checkpoints")
    assert last is not None
    _, resumed = fit(tmp_path, parts(), ckpt=str(last), enable_checkpointing=True)
    assert torch.equal(_tensor(whole), _tensor(resumed))


class Fails(Callback):
    """Raises in a generation."""

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        """Raise."""
        if trainer.global_step == 2:
            raise RuntimeError("on purpose")


def test_on_exception_checkpoint_keeps_what_there_was(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="on purpose"):
        fit(tmp_path, [OnExceptionCheckpoint(tmp_path, "crashed"), Fails()], enable_checkpointing=True)
    kept = checkpoint.read_checkpoint(tmp_path / "crashed.ckpt")
    assert kept["global_step"] == 2
    assert len(kept["journal"]) == 3
    _, whole = fit(tmp_path / "whole", [])
    _, resumed = fit(tmp_path, [], ckpt=str(tmp_path / "crashed.ckpt"))
    assert resumed.checksum() == whole.checksum()


@pytest.mark.parametrize(
    "when", [{"every_n_train_steps": 1}, {"every_n_epochs": 1}], ids=["interrupted", "finished"]
)
def test_the_bar_of_a_resumed_run_counts_all_generations(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], when: dict[str, int]
) -> None:
    def callbacks() -> list[Callback]:
        return [ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, **when)]

    fit(tmp_path, callbacks(), steps=2, enable_checkpointing=True)
    run = trainer(tmp_path, 4, callbacks(), enable_checkpointing=True, val_check_interval=1)
    run.callbacks.append(GenerationBar(leave=True))
    data = TaskDataModule(Letters(), grading=Grading(workers=0))
    capsys.readouterr()
    run.fit(module(), data, ckpt_path=str(tmp_path / "step=2.ckpt"))
    assert "4/4" in capsys.readouterr().out


def test_rich_progress_bar_and_others_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    timer, bar = Timer("00:01:00:00"), RichProgressBar(leave=True)
    tuned = module()
    run = trainer(tmp_path, 3, [timer, ModelSummary()], val_check_interval=1)
    run.callbacks.append(bar)
    run.fit(tuned, TaskDataModule(Letters(), grading=Grading(workers=0)))
    shown = capsys.readouterr().out
    assert "3/3" in shown
    assert "reward/mean" in shown
    assert timer.time_elapsed("train") > 0
    assert math.isfinite(float(run.callback_metrics["reward/mean"]))
