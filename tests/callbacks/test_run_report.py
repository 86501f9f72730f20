"""What a run leaves behind."""

import json
import shlex
import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from es_lightning.callbacks import RolloutTable, RunReport
from es_lightning.callbacks.run_record import RunRecord
from es_lightning.callbacks.run_report import _printable_line
from es_lightning.cli.commands import replay
from es_lightning.datamodule import TaskDataModule
from es_lightning.errors import StorageError, UsageError
from es_lightning.grading.scorer import Grading
from es_lightning.journal.entry import read_journal
from es_lightning.models.weights import BaseWeights
from es_lightning.module import EvolutionStrategies
from es_lightning.records import Prompt
from es_lightning.reports.plots import reward_curve
from tests.helpers.fits import Letters, fit, module, trainer
from tests.helpers.letters import Bytes


class Finished(NamedTuple):
    """A run that has come to its end."""

    folder: Path
    report: RunReport
    tuned: EvolutionStrategies

    @property
    def summary(self) -> dict[str, Any]:
        """What it left of its numbers."""
        read: dict[str, Any] = json.loads((self.folder / "summary.json").read_text())
        return read


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A run with nothing set but its report."""
    run = Finished(tmp_path_factory.mktemp("finished"), RunReport(), module())
    trainer(run.folder, callbacks=[run.report]).fit(run.tuned, TaskDataModule(Bytes()))
    return run


def test_held_out_numbers_are_those_of_base_and_tuned_centre(finished: Finished) -> None:
    summary, tuned = finished.summary, finished.tuned
    after, centre = tuned.evaluate("val").reward, deepcopy(tuned.centre.state_dict())
    for name, parameter in tuned.centre.named_parameters():
        parameter.data.copy_(tuned.base_model.weights.read(name))
    before = tuned.evaluate("val").reward
    tuned.centre.load_state_dict(centre)
    assert summary["held_out_split"] == "val"
    assert (summary["held_out_before"], summary["held_out_after"]) == (before, after)
    assert summary["generations"] == 3


def test_seconds_of_training_are_those_of_the_journal_and_validations_are_beside_them(
    finished: Finished,
) -> None:
    entries = read_journal(finished.folder / "journal.jsonl")[1]
    training = sum(entry.seconds["total"] for entry in entries)
    assert finished.summary["training_seconds"] == pytest.approx(training, abs=0.001)
    assert finished.summary["seconds_with_validation"] > training > 0


def test_the_exported_model_is_the_centre_rounded_once(finished: Finished) -> None:
    exported = BaseWeights(finished.folder / "model")
    for name, parameter in finished.tuned.centre.named_parameters():
        assert torch.equal(exported.read(name), parameter.bfloat16())
    assert finished.summary["centre_checksum"] == finished.tuned.checksum()


def test_a_report_without_evaluation_and_export(tmp_path: Path) -> None:
    trainer(tmp_path, callbacks=[RunReport(held_out=False, export=False)]).fit(
        module(), TaskDataModule(Bytes())
    )
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["held_out_before"] is None
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("held_out", [(True, False), pytest.param((False, True), marks=pytest.mark.slow)])
def test_a_run_may_go_on_with_or_without_evaluation(tmp_path: Path, held_out: tuple[bool, bool]) -> None:
    first, then = (RunReport(held_out=each) for each in held_out)
    saved = ModelCheckpoint(tmp_path / "checkpoints", "{step}", every_n_train_steps=1)
    data = TaskDataModule(Letters(), grading=Grading(workers=0))
    trainer(tmp_path, 1, [first, saved], enable_checkpointing=True).fit(module(), data)
    trainer(tmp_path, 2, [then]).fit(module(), data, ckpt_path=tmp_path / "checkpoints" / "step=1.ckpt")
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["held_out_before"] is not None, summary["held_out_after"] is not None) == held_out
    assert summary["held_out_split"] == "test"
    assert (
        f"| {'after' if held_out[0] else 'before'} | not measured |"
        in (tmp_path / "model" / "README.md").read_text()
    ), "only the base model is what was before"


@pytest.mark.slow
@pytest.mark.callbacks
def test_a_full_disk_leaves_the_summary_and_a_command_that_makes_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(StorageError, match="No space left") as caught:
        fit(Letters(), tmp_path / "full", callbacks=[RunReport()])
    monkeypatch.undo()
    summary = json.loads((tmp_path / "full" / "summary.json").read_text())
    replay(shlex.split(str(caught.value).partition("es-lightning replay")[2]))
    tuned, _ = fit(Letters(), tmp_path / "whole")
    assert summary["centre_checksum"] == tuned.checksum()
    made = BaseWeights(tmp_path / "full" / "model")
    assert all(torch.equal(made.read(name), p.bfloat16()) for name, p in tuned.centre.named_parameters())


def test_what_a_model_wrote_cannot_steer_the_terminal() -> None:
    assert (
        _printable_line("a\x1b]0;title\x07\n\u202eb \x9b31m [bold]")
        == "a\ufffd]0;title\ufffd \ufffdb \ufffd31m \\[bold]"
    )


def test_state_goes_round_through_a_checkpoint(finished: Finished) -> None:
    report, loaded = finished.report, RunReport()
    loaded.load_state_dict(json.loads(json.dumps(report.state_dict())))
    assert loaded.history == report.history
    assert loaded.before == report.before
    assert loaded.curve == report.curve
    assert loaded.solved == report.solved


class Solvable(Letters):
    """Says what is right: an even number of letters."""

    def reward(self, prompt: Prompt, completion: str) -> dict[str, float]:
        return {"reward": -len(completion) / 10, "accuracy": float(len(completion) % 2 == 0)}


def test_a_task_that_says_what_is_right_has_its_accuracy_reported(tmp_path: Path) -> None:
    report, tuned = RunReport(), module()
    run = trainer(tmp_path, callbacks=[report], val_check_interval=1)
    run.fit(tuned, TaskDataModule(Solvable(), grading=Grading(workers=0)))
    summary = json.loads((tmp_path / "summary.json").read_text())
    after = summary["held_out_accuracy"]["after"]
    evaluation = tuned.evaluate("test")
    assert after["right"] == sum(score["accuracy"] for score in evaluation.scores)
    assert (after["of"], after["rate"]) == (len(evaluation.prompts), after["right"] / after["of"])
    assert (tmp_path / "plots" / "accuracy.png").is_file()
    assert [step for step, _, _ in report.solved] == [1, 2, 3]
    assert report.solved[-1][1] == sum(score["accuracy"] for score in tuned.evaluate("val").scores)
    assert all(0 <= row["accuracy"] <= 1 for row in report.history)
    card = (tmp_path / "model" / "README.md").read_text()
    assert f"{after['right']} of {after['of']}" in card
    assert all(f"| {row['kind']}: " in card for row in summary["examples"])


def test_without_a_word_on_what_is_right_there_is_no_picture_of_it(finished: Finished) -> None:
    assert finished.summary["held_out_accuracy"] == {"before": None, "after": None}
    assert len(finished.summary["examples"]) == 1
    assert (finished.folder / "plots" / "reward.png").exists()
    assert not (finished.folder / "plots" / "accuracy.png").exists()


def test_a_curve_is_drawn_from_one_generation_on(tmp_path: Path) -> None:
    rows = [{"generation": 0.0, "mean": -3.0, "min": -5.0, "max": -1.0}]
    reward_curve(tmp_path / "plots" / "curve.png", rows, {"centre": [(0.0, -4.0), (1.0, -3.0)]}, "a title")
    assert (tmp_path / "plots" / "curve.png").stat().st_size > 5000


class TooLong(Letters):
    """One of its problems is longer than the tiny model."""

    def problems(self, split: str) -> list[Prompt]:
        return [*super().problems(split), *[Prompt(f"{split}/long", "a" * 2000)] * (split == "train")]


def test_problems_that_are_too_long_are_refused_or_left_out_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match="prompt train/long has .* data.drop_long_prompts: true"):
        fit(TooLong(), tmp_path / "refused", 1)
    data, report = {"drop_long_prompts": True}, RunReport(export=False)
    tuned, records = fit(TooLong(), tmp_path / "run", 1, data, [report, RolloutTable(split="train")])
    assert [prompt.id for prompt in records.generations[0].prompts] == [f"train/{i}" for i in range(4)]
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["dropped_problems"] == {"train": 1}
    assert "1 of train" in capsys.readouterr().out
    assert RunRecord().tags(tuned.trainer, tuned)["dropped_problems"] == "train 1"


def test_journal_and_pictures_are_renewed_at_every_validation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[str, int]] = []
    drawn: list[int] = []

    def send(loggers: object, path: Path) -> None:
        sent.append((path.name, len(path.read_text().splitlines())))

    monkeypatch.setattr("es_lightning.callbacks.run_record.log_artifact", send)
    monkeypatch.setattr("es_lightning.callbacks.run_report.REDRAW_SECONDS", -1.0)
    report, record = RunReport(export=False), RunRecord()
    draw = report._draw
    monkeypatch.setattr(report, "_draw", lambda *whose: (drawn.append(len(report.history)), draw(*whose)))
    runner = trainer(tmp_path, steps=4, callbacks=[report, record], val_check_interval=2)
    runner.fit(module(), TaskDataModule(Bytes()))
    assert [lines for name, lines in sent if name == "journal.jsonl"] == [3, 5, 5]
    assert drawn == [2, 4, 4]
