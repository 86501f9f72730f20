"""The best centre by hand-made and by real validation metrics, and the weights that were measured."""

import logging
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging

from es_lightning.callbacks.best_model import BestModel
from es_lightning.datamodule import TaskDataModule
from es_lightning.errors import UsageError
from es_lightning.grading.scorer import Grading
from es_lightning.models.weights import BaseWeights
from tests.helpers.fits import Letters, module, trainer

pytestmark = [pytest.mark.slow, pytest.mark.callbacks]  # many fits


class Given(Callback):
    """Measures given numbers after validation; None measures nothing."""

    def __init__(self, *values: float | None) -> None:
        self.values = list(values)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Give the next one."""
        value = self.values.pop(0)
        if value is not None:
            trainer.callback_metrics["given"] = torch.tensor(value)


class Measured(Callback):
    """Notes which weights were validated, and what they earned."""

    def __init__(self) -> None:
        self.checksums: list[str] = []
        self.rewards: list[float] = []

    def on_validation_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """The weights."""
        self.checksums.append(pl_module.checksum())

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """The reward."""
        self.rewards.append(float(trainer.callback_metrics["val/reward"]))


class Back(Callback):
    """Goes back to the base model after every validation."""

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Go back."""
        pl_module.restore(0)


def run(folder: Path, callbacks: list[Callback], steps: int, **options: Any) -> Any:
    tuned = module()
    options = {"val_check_interval": 1} | options
    trainer(folder, steps, callbacks, **options).fit(
        tuned, TaskDataModule(Letters(), grading=Grading(workers=0))
    )
    return tuned


@pytest.mark.parametrize(
    ("values", "options", "step", "best"),
    [
        ((0.1, 0.3, 0.2), {}, 2, 0.3),
        ((0.5, 0.5, 0.5), {}, 1, 0.5),  # equals keep the earlier one
        ((0.1, 0.3, 0.2), {"mode": "min"}, 1, 0.1),
        ((0.3, 0.2, 0.25), {"mode": "min"}, 2, 0.2),
        ((0.1, 0.19, 0.21), {"min_delta": 0.1}, 3, 0.21),
        ((0.1, 0.19, 0.1), {"min_delta": 0.1}, 1, 0.1),
        ((-math.inf, -5.0, -math.inf), {}, 2, -5.0),
        ((0.4, None, 0.3), {}, 1, 0.4),  # not measured every time
    ],
)
def test_the_best_of_given_numbers_is_kept(
    tmp_path: Path, values: tuple[float, ...], options: dict[str, Any], step: int, best: float
) -> None:
    watched = BestModel("given", **options)
    run(tmp_path, [Given(*values), watched], 3)
    assert watched.state_dict() == {"best": pytest.approx(best), "step": step}
    card = (tmp_path / "best" / "README.md").read_text()
    assert f"| updates done | {step} |" in card
    assert f"--generation {step - 1} " in card


def test_the_exported_weights_are_those_of_the_best_validation(tmp_path: Path) -> None:
    watched, measured = BestModel(), Measured()
    tuned = run(tmp_path, [watched, measured], 4)
    best = max(range(4), key=measured.rewards.__getitem__)
    assert watched.state_dict() == {"best": measured.rewards[best], "step": best + 1}
    tuned.restore(best + 1)
    assert tuned.checksum() == measured.checksums[best]
    exported = BaseWeights(tmp_path / "best")
    for name, parameter in tuned.centre.named_parameters():
        assert torch.equal(exported.read(name), parameter.to(tuned.base_model.dtype))
    assert f"| val/reward | {measured.rewards[best]:.6g} |" in (tmp_path / "best" / "README.md").read_text()


def test_averaged_weights_are_exported_where_they_were_measured(tmp_path: Path) -> None:
    watched, measured = BestModel(), Measured()
    run(tmp_path, [watched, measured, EMAWeightAveraging(decay=0.5)], 3)
    best = max(range(3), key=measured.rewards.__getitem__)
    assert watched.step == best + 1
    card = (tmp_path / "best" / "README.md").read_text()
    assert re.findall(r"centre checksum \| (\w+)", card) == [measured.checksums[best]]


@pytest.mark.parametrize("order", [0, 1])
def test_what_goes_back_after_validation_does_not_change_the_export(tmp_path: Path, order: int) -> None:
    watched, measured = BestModel(), Measured()
    callbacks: list[Callback] = [watched, Back()] if order else [Back(), watched]
    run(tmp_path, [*callbacks, measured], 2)
    card = (tmp_path / "best" / "README.md").read_text()
    assert watched.step is not None
    assert re.findall(r"centre checksum \| (\w+)", card) == [measured.checksums[watched.step - 1]]


def test_an_order_that_loses_the_measured_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has to come before WeightAveraging"):
        run(tmp_path / "a", [EMAWeightAveraging(), BestModel()], 1)
    with pytest.raises(UsageError, match="cannot follow given beside WeightAveraging"):
        run(tmp_path / "b", [Given(1.0), BestModel("given"), EMAWeightAveraging()], 1)


class After(Callback):
    """Measures given numbers after an update, as Forgetting does; None measures nothing."""

    def __init__(self, *values: float | None) -> None:
        self.values = list(values)

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        """Give the next one."""
        value = self.values.pop(0)
        if value is not None:
            trainer.callback_metrics["given"] = torch.tensor(value)


def test_what_was_measured_after_the_update_is_judged_with_its_own_centre(tmp_path: Path) -> None:
    watched, measured = BestModel("given"), Measured()
    # The second number is not of a centre that is validated, and stale when the next one is.
    run(tmp_path, [After(0.1, 0.9, None, 0.3), watched, Back(), measured], 4, val_check_interval=2)
    assert watched.state_dict() == {"best": pytest.approx(0.9), "step": 2}
    watched = BestModel("given")
    run(tmp_path / "b", [After(0.1, 0.9, None, 0.3), watched, measured], 4, val_check_interval=3)
    assert watched.best is None
    watched = BestModel("given")
    run(tmp_path / "c", [After(0.5, 0.4), watched, Back(), measured], 2)
    card = (tmp_path / "c" / "best" / "README.md").read_text()
    assert re.findall(r"centre checksum \| (\w+)", card) == [measured.checksums[-2]]
    with pytest.raises(UsageError, match="cannot follow given beside WeightAveraging"):
        run(tmp_path / "d", [After(1.0), BestModel("given"), EMAWeightAveraging()], 1)


def test_a_run_in_which_nothing_was_judged_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(tmp_path, [After(0.1, None), BestModel("given")], 2, val_check_interval=2)
    assert "no validation came in a generation that measured given" in caplog.text
    assert not (tmp_path / "best").exists()


def test_files_of_others_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "journal.jsonl").write_text("a run's")
    with pytest.raises(UsageError, match="mine holds other files"):
        run(tmp_path, [BestModel(folder=str(tmp_path / "mine"))], 1)
    assert (tmp_path / "mine" / "journal.jsonl").read_text() == "a run's"
    for name in ("a", "b"):  # an earlier export is replaced
        run(tmp_path / name, [BestModel(folder=str(tmp_path / "new"))], 1)
    assert (tmp_path / "new" / "model.safetensors").is_file()


def test_a_metric_that_is_none_is_named_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'val/rewrad' is none.*reward/mean.*val/accuracy.*val/reward"):
        run(tmp_path, [BestModel("val/rewrad")], 2)


def test_what_is_not_a_number_is_passed_over_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    watched = BestModel("given")
    with caplog.at_level(logging.WARNING, "es_lightning.callbacks.best_model"):
        run(tmp_path, [Given(math.nan, 0.5, math.nan), watched], 3)
    assert watched.step == 2
    assert len([each for each in caplog.records if "is not a number" in each.getMessage()]) == 1


def test_sanity_checking_and_validating_alone_judge_nothing(tmp_path: Path) -> None:
    watched = BestModel()
    run(tmp_path, [watched], 1, num_sanity_val_steps=1, val_check_interval=1)
    assert watched.step == 1
    alone = BestModel()
    only = trainer(tmp_path / "alone", 1, [alone])
    only.validate(module(), TaskDataModule(Letters(), grading=Grading(workers=0)), verbose=False)
    assert alone.best is None
    assert not (tmp_path / "alone" / "best").exists()


def test_a_resumed_run_beats_what_was_best_before(tmp_path: Path) -> None:
    watched = BestModel("given")
    watched.load_state_dict({"best": 0.9, "step": 7})
    run(tmp_path, [Given(0.8), watched], 1)
    assert watched.state_dict() == {"best": 0.9, "step": 7}
    assert not (tmp_path / "best").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mode": "most"}, "give max or min"),
        ({"min_delta": -1.0}, "give 0 or more"),
        ({"monitor": "reward/mean"}, "a number of the population"),
    ],
)
def test_values_that_make_no_sense_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        BestModel(**options)
