"""A run that notices its peak, goes back to it, and stops or goes on with less noise."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, WeightAveraging

from es_lightning.callbacks import RunReport
from es_lightning.callbacks.early_peak import EarlyPeak
from es_lightning.datamodule import TaskDataModule
from es_lightning.errors import UsageError
from es_lightning.grading.scorer import Grading
from es_lightning.journal.entry import read_journal
from es_lightning.module import EvolutionStrategies
from es_lightning.records import Prompt
from es_lightning.task import Reward
from tests.helpers.fits import Letters, Records, module, trainer

pytestmark = [pytest.mark.slow, pytest.mark.callbacks]  # many fits

RISE = [0.1, 0.2, 0.3, 0.41, 0.5, 0.59, 0.7, 0.69]
CURVE = [*RISE, *(0.5 - 0.05 * i + 0.002 * (i % 3) for i in range(12))]
BEST = 7  # the centre that has seen 7 updates earns most, and so do its neighbours on average
QUICK: dict[str, Any] = {"min_points": 6, "predict": False, "correlation": 0.0}


class Scripted(Letters):
    """Earns on its validation problems what the script says, and the share of vowels elsewhere."""

    level = 0.0

    def reward(self, prompt: Prompt, completion: str) -> Reward:
        return self.level if prompt.id.startswith("val") else super().reward(prompt, completion)


class Script(Callback):
    """Tells the task how many updates the centre has seen; may put population rewards of its own in place."""

    def __init__(self, task: Scripted, values: list[float], population: bool) -> None:
        self.task, self.values, self.population = task, values, population

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        self.task.level = self.values[trainer.global_step - 1]

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *_: Any) -> None:
        self.task.level = self.values[trainer.global_step - 1]
        if self.population:
            record = outputs["generation"]
            scripted = torch.full_like(record.rewards, self.values[record.index])
            outputs["generation"] = replace(record, rewards=scripted)


def run(
    folder: Path,
    watch: EarlyPeak,
    steps: int = 16,
    others: Any = (),
    first: Any = (),
    values: list[float] = CURVE,
    scripted_population: bool = False,
    ckpt: str | None = None,
    options: dict[str, Any] | None = None,
    task: Scripted | None = None,
    **module_options: Any,
) -> tuple[EvolutionStrategies, Records]:
    """Fit the tiny model with a scripted reward, validating after every generation."""
    momentum = {"optimizer": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9)}
    tuned, records = module(**momentum | {"population": 2} | module_options), Records()
    task = task or Scripted()
    callbacks = [*first, Script(task, values, scripted_population), watch, records, *others]
    fit = trainer(folder, steps, callbacks, **{"val_check_interval": 1} | (options or {}))
    fit.fit(tuned, TaskDataModule(task, grading=Grading(workers=0)), ckpt_path=ckpt)
    return tuned, records


def generations(folder: Path) -> list[dict[str, Any]]:
    """The journal without what differs between any two runs."""
    lines = (folder / "journal.jsonl").read_text().splitlines()[1:]
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def test_a_stopped_run_exports_the_centre_of_its_peak(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    watch, report = EarlyPeak(**QUICK), RunReport(held_out=False)
    with caplog.at_level(logging.INFO, "es_lightning.callbacks.early_peak"):
        tuned, _ = run(tmp_path, watch, first=[report])  # it reports before the others end
    _, entries = read_journal(tmp_path / "journal.jsonl")
    assert len(entries) == watch.watch.alarms[0]["generation"] < 16
    assert watch.watch.alarms[0]["peak"] == BEST
    assert tuned.checksum() == entries[BEST - 1].checksum
    assert report.summary is not None
    assert report.summary["centre_checksum"] == entries[BEST - 1].checksum
    assert f"val/reward was best at generation {BEST} with 0.6567" in caplog.text
    assert "goes back to the peak and stops" in caplog.text
    assert (tmp_path / "plots" / "early_peak.png").stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.tasks
def test_without_going_back_the_last_centre_stays(tmp_path: Path) -> None:
    tuned, _ = run(tmp_path, EarlyPeak(restore_best=False, **QUICK))
    _, entries = read_journal(tmp_path / "journal.jsonl")
    assert len(entries) < 16
    assert tuned.checksum() == entries[-1].checksum


def test_a_mark_changes_nothing(tmp_path: Path) -> None:
    watch = EarlyPeak(action="mark", **QUICK)
    run(tmp_path / "with", watch)
    run(tmp_path / "without", EarlyPeak(monitor="reward/mean", action="mark", predict=False))
    assert [alarm["action"] for alarm in watch.watch.alarms] == ["mark"]
    assert len(watch.watch.points) == 16
    assert generations(tmp_path / "with") == generations(tmp_path / "without")


ANNEAL: dict[str, Any] = {
    "action": "anneal",
    "lr_factor": 0.25,
    "sigma_factor": 0.5,
    "population_factor": 1.3,
}


def annealed(folder: Path, steps: int = 15, **options: Any) -> tuple[EvolutionStrategies, EarlyPeak, Records]:
    watch = EarlyPeak(**QUICK, **ANNEAL)
    keep = ModelCheckpoint(folder / "checkpoints", "{step}", save_top_k=-1, every_n_train_steps=1)
    options = {"antithetic": True, "population": 4, "options": {"enable_checkpointing": True}} | options
    tuned, records = run(folder, watch, steps, [keep], **options)
    return tuned, watch, records


def test_an_annealed_run_goes_on_from_the_peak_with_its_new_settings_and_resumes(tmp_path: Path) -> None:
    whole, watch, records = annealed(tmp_path / "whole")
    turn, found = int(watch.watch.alarms[0]["generation"]), records.generations
    before, after = found[:turn], found[turn:]
    assert [alarm["action"] for alarm in watch.watch.alarms] == ["anneal"]
    assert {(g.sigma, g.lr, len(g.members)) for g in before} == {(0.05, 0.05, 4)}
    assert {(g.sigma, g.lr, len(g.members)) for g in after} == {(0.025, 0.0125, 6)}  # 5.2 makes three pairs
    assert records.checksums[2 * turn] == records.checksums[2 * BEST]
    annealed(tmp_path / "parts", turn + 2)
    for step in (turn, turn + 1):  # written before the validation that followed
        checkpoint = str(tmp_path / "parts" / "checkpoints" / f"step={step}.ckpt")
        resumed, again, _ = annealed(tmp_path / "parts", ckpt=checkpoint)
        assert resumed.checksum() == whole.checksum()
        assert again.state_dict() == watch.state_dict()
        assert generations(tmp_path / "parts") == generations(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.tasks
def test_a_stopped_run_stops_again_when_it_is_resumed_from_before_the_decision(tmp_path: Path) -> None:
    checkpoints = {"enable_checkpointing": True}
    keep = ModelCheckpoint(tmp_path / "checkpoints", "{step}", save_top_k=-1, every_n_train_steps=1)
    watch = EarlyPeak(**QUICK)
    run(tmp_path, watch, others=[keep], options=checkpoints)
    turn = int(watch.watch.alarms[0]["generation"])
    again, checkpoint = EarlyPeak(**QUICK), str(tmp_path / "checkpoints" / f"step={turn}.ckpt")
    keep = ModelCheckpoint(tmp_path / "checkpoints", "{step}", save_top_k=-1, every_n_train_steps=1)
    tuned, _ = run(tmp_path, again, others=[keep], options=checkpoints, ckpt=checkpoint)
    _, entries = read_journal(tmp_path / "journal.jsonl")
    assert again.watch.alarms == watch.watch.alarms
    assert tuned.checksum() == entries[BEST - 1].checksum
    assert len(entries) == turn + 1


@pytest.mark.slow
@pytest.mark.tasks
def test_after_enough_anneals_the_run_stops(tmp_path: Path) -> None:
    watch = EarlyPeak(action="anneal", max_anneals=1, **QUICK)
    values = [*CURVE[:12], *CURVE]
    tuned, records = run(tmp_path, watch, steps=28, values=values)
    _, entries = read_journal(tmp_path / "journal.jsonl")
    assert [alarm["action"] for alarm in watch.watch.alarms] == ["anneal", "stop"]
    assert watch.watch.alarms[1]["peak"] == 12 + BEST
    assert tuned.checksum() == entries[12 + BEST - 1].checksum
    assert len(entries) < 28


@pytest.mark.slow
@pytest.mark.tasks
def test_the_populations_reward_can_be_watched(tmp_path: Path) -> None:
    watch = EarlyPeak(monitor="reward/mean", **QUICK)
    tuned, _ = run(tmp_path, watch, scripted_population=True)
    _, entries = read_journal(tmp_path / "journal.jsonl")
    assert watch.watch.alarms[0]["peak"] == BEST - 1  # generation 6 earned the seventh value
    assert tuned.checksum() == entries[BEST - 2].checksum  # and perturbed the centre of six updates
    assert [point[0] for point in watch.watch.points] == list(range(len(entries)))


@pytest.mark.slow
@pytest.mark.tasks
def test_low_values_can_be_the_good_ones(tmp_path: Path) -> None:
    watch = EarlyPeak(mode="min", restore_best=False, **QUICK)
    run(tmp_path, watch, values=[1 - value for value in CURVE])
    assert watch.watch.alarms[0]["peak"] == BEST
    assert watch.watch.alarms[0]["level"] == pytest.approx(1 - (0.59 + 0.69 + 0.69) / 3)  # running medians
    assert watch.watch.alarms[0]["latest"] > watch.watch.alarms[0]["level"]


@pytest.mark.slow
@pytest.mark.tasks
def test_an_alarm_waits_for_patience_and_for_the_steps_that_a_run_must_have(tmp_path: Path) -> None:
    patient, bound = EarlyPeak(patience=7, **QUICK), EarlyPeak(**QUICK)
    run(tmp_path / "patient", patient)
    tuned, _ = run(tmp_path / "bound", bound, options={"min_steps": 15, "min_epochs": 0})
    assert [row["health/peak_statistic"] > row["health/peak_critical"] for row in bound.rows[11:14]] == [
        True
    ] * 3
    assert patient.watch.alarms[0]["generation"] == BEST + 7
    _, entries = read_journal(tmp_path / "bound" / "journal.jsonl")
    assert len(entries) == 15
    assert tuned.checksum() == entries[BEST - 1].checksum


class Many(Scripted):
    """Enough problems to compare centres prompt by prompt; they differ in how easy they are."""

    count = 16

    def reward(self, prompt: Prompt, completion: str) -> Reward:
        if not prompt.id.startswith("val"):
            return super().reward(prompt, completion)
        return {"reward": self.level + 0.01 * int(prompt.id.split("/")[1]), "other": 1.0}


def test_centres_are_compared_prompt_by_prompt_and_a_resumed_run_goes_on_alike(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings, checkpoints = QUICK | {"action": "mark"}, {"enable_checkpointing": True}
    found = []
    for ckpt in (None, "step=7.ckpt"):
        watch = EarlyPeak(**settings)
        keep = ModelCheckpoint(tmp_path / "checkpoints", "{step}", save_top_k=-1, every_n_train_steps=1)
        path = None if ckpt is None else str(tmp_path / "checkpoints" / ckpt)
        with caplog.at_level(logging.INFO, "es_lightning.callbacks.early_peak"):
            run(tmp_path, watch, 12, others=[keep], options=checkpoints, ckpt=path, task=Many())
        found.append(watch.state_dict())
    assert watch.watch.paired
    assert found[0] == found[1]
    # All prompts fall by the same. The stretches of three points before the latest one are at 5, 6, 7 at best
    # after ten generations, and 0.597 on average; the latest is (0.69 + 0.5 + 0.452) / 3 = 0.547.
    [alarm] = watch.watch.alarms
    assert (alarm["generation"], alarm["peak"], alarm["action"]) == (10, 6, "mark")
    assert alarm["level"] == pytest.approx((0.5 + 0.59 + 0.7) / 3 + 0.075)
    assert (
        "worse on this task than those around generation 6 (16 prompts, false-alarm rate 0.05)" in caplog.text
    )
    table = json.loads((tmp_path / "tables" / "early_peak.json").read_text())
    assert table["prompts"] == [f"val/{i}" for i in range(16)]
    assert [point["generation"] for point in table["points"]] == list(range(1, 13))
    assert table["points"][3]["prompts"] == pytest.approx([0.41 + 0.01 * i for i in range(16)])


@pytest.mark.parametrize(
    ("settings", "paired"),
    [
        ({}, True),
        ({"paired": False}, False),
        ({"monitor": "val/other"}, True),
        ({"monitor": "elsewhere"}, False),
    ],
)
def test_only_what_a_validation_measures_by_prompt_is_compared_by_prompt(
    tmp_path: Path, settings: dict[str, Any], paired: bool
) -> None:
    watch = EarlyPeak(**QUICK | settings)
    first = [Elsewhere()] if settings.get("monitor") == "elsewhere" else []
    run(tmp_path, watch, 2, first=first, task=Many())
    assert len(watch.watch.points) == 2
    assert watch.watch.paired == paired


class Elsewhere(Callback):
    """Measures something after every update."""

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        trainer.callback_metrics["elsewhere"] = torch.tensor(0.5)


class Seldom(Callback):
    """Measures something at the start and after every fourth update; wants to stop where the run begins."""

    def on_train_start(self, trainer: Any, *_: Any) -> None:
        trainer.callback_metrics["other"] = torch.tensor(0.0)
        trainer.should_stop = True

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step % 4 == 0:
            trainer.callback_metrics["other"] = torch.tensor(0.5)


def test_a_metric_counts_once_however_many_validations_see_it(tmp_path: Path) -> None:
    watch = EarlyPeak(monitor="other", **QUICK)
    run(tmp_path, watch, 10, first=[Seldom()], options={"min_steps": 10})
    assert watch.watch.points == [[4.0, 0.5], [8.0, 0.5]]


def test_a_stop_that_another_callback_wants_is_not_taken_for_this_ones(tmp_path: Path) -> None:
    checkpoints = {"enable_checkpointing": True, "min_steps": 4}
    for ckpt in (None, str(tmp_path / "checkpoints" / "step=2.ckpt")):  # written before the validation
        keep = ModelCheckpoint(tmp_path / "checkpoints", "{step}", save_top_k=-1, every_n_train_steps=1)
        watch = EarlyPeak(**QUICK)
        run(tmp_path, watch, 4, others=[keep], first=[Seldom()], options=checkpoints, ckpt=ckpt)
    assert [point[0] for point in watch.watch.points] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("options", "expected"),
    [({"check_val_every_n_epoch": 2}, [8, 16]), ({"val_check_interval": 0.75}, [3, 7, 11, 15])],
)
def test_only_lightning_decides_when_to_validate(
    tmp_path: Path, options: dict[str, Any], expected: list[int]
) -> None:
    watch = EarlyPeak(**QUICK)
    fit = pl.Trainer(
        max_epochs=4,
        default_root_dir=tmp_path,
        callbacks=[watch],
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        **options,
    )
    fit.fit(
        module(population=2), TaskDataModule(Letters(), prompts_per_generation=1, grading=Grading(workers=0))
    )
    assert [point[0] for point in watch.watch.points] == expected


def test_an_average_would_take_the_place_of_the_peak(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="set restore_best to false"):
        run(tmp_path / "back", EarlyPeak(**QUICK), 1, others=[WeightAveraging()])
    run(tmp_path / "on", EarlyPeak(restore_best=False, **QUICK), 1, others=[WeightAveraging()])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "up"}, "give max or min"),
        ({"action": "wait"}, "give stop, anneal or mark"),
        ({"patience": -1}, "patience is -1"),
        ({"max_anneals": 0}, "give at least 1"),
        ({"horizon": 0}, "horizon is 0"),
        ({"sigma_factor": 0.0}, "numbers above 0"),
        ({"action": "anneal", "lr_factor": 1.0}, "would change nothing"),
        ({"false_alarm_rate": 0.0}, "false_alarm_rate is 0.0: give 0.001 to 0.5"),
        ({"smoothing": 4}, "smoothing is 4: give an odd number"),
        ({"min_points": 5}, "min_points is 5"),
        ({"min_drop": -0.1}, "min_drop is -0.1"),
        ({"correlation": 1.0}, "correlation is 1.0"),
    ],
)
def test_bad_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        EarlyPeak(**options)


@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        ({"monitor": "val/wit"}, {}, "finds no metric val/wit after a validation, but .*val/reward"),
        ({}, {"limit_val_batches": 0}, "this run has no validation"),
        ({}, {"max_time": "00:01:00:00"}, "give early_peak a horizon"),
    ],
)
def test_a_run_that_cannot_be_watched_is_refused(
    tmp_path: Path, settings: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    steps = -1 if "max_time" in options else 2
    with pytest.raises(UsageError, match=message):
        run(tmp_path, EarlyPeak(**settings), steps, options={"val_check_interval": 1} | options)
