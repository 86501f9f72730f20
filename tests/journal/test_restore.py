"""A run whose settings change under way, and whose centre is put back; its journal tells of both."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, OnExceptionCheckpoint, WeightAveraging
from torch.optim import lr_scheduler as schedules

from es_lightning.algorithm.tensors import checksum
from es_lightning.datamodule import TaskDataModule
from es_lightning.errors import StorageError, UsageError
from es_lightning.grading.scorer import Grading
from es_lightning.journal import restore
from es_lightning.journal.entry import lineage, read_journal
from es_lightning.journal.replay import replay
from es_lightning.journal.run import RunJournal
from es_lightning.module import EvolutionStrategies
from tests.helpers.fits import Letters, Records, fit, module, trainer

SGD = {"lr": 0.05, "momentum": 0.9}


class Back(Callback):
    """Goes back to an earlier centre after some generations."""

    def __init__(self, turns: dict[int, int], **changes: Any) -> None:
        self.turns, self.changes = turns, changes
        self.checksums: list[str] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *_: Any) -> None:
        """Go back, if this is the moment."""
        self.checksums.append(pl_module.centre_checksum)
        if pl_module.generation in self.turns:
            pl_module.restore(self.turns[pl_module.generation])
            pl_module.adjust(**self.changes)


def turned(folder: Path, back: Back, steps: int = 6, **options: Any) -> tuple[EvolutionStrategies, Records]:
    options = {"optimizer": lambda parameters: torch.optim.SGD(parameters, **SGD)} | options
    return fit(Letters(), folder, steps=steps, callbacks=[back], **options)


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> tuple[Back, EvolutionStrategies, Records]:
    """A run of four generations."""
    back = Back({})
    return back, *turned(tmp_path_factory.mktemp("four"), back, steps=4)


@pytest.mark.parametrize(
    "generation", [0, 3, *(pytest.param(each, marks=pytest.mark.slow) for each in (1, 4))]
)
def test_restoring_gives_the_centre_of_then(
    four: tuple[Back, EvolutionStrategies, Records], generation: int
) -> None:
    back, tuned, records = four
    tuned.restore(generation)
    before = [records.checksums[0], *back.checksums]
    assert tuned.checksum() == tuned.centre_checksum == before[generation]
    assert float(tuned.drift) == pytest.approx(
        0.0 if generation == 0 else records.generations[generation - 1].drift, rel=1e-12
    )


def test_a_generation_to_come_is_refused(tmp_path: Path) -> None:
    tuned, _ = fit(Letters(), tmp_path, steps=2)
    with pytest.raises(UsageError, match="centre of generation 3 cannot be restored"):
        tuned.restore(3)


@pytest.mark.slow
@pytest.mark.callbacks
@pytest.mark.parametrize("wanted", range(6))
def test_a_journal_with_turns_replays_every_generation(tmp_path: Path, wanted: int) -> None:
    back = Back({3: 1, 5: 4})
    turned(tmp_path, back)
    _, entries = read_journal(tmp_path / "journal.jsonl")
    assert [entry.parent for entry in entries] == [None, None, None, 0, None, 3]
    assert [e.generation for e in lineage(entries, 5)] == [0, 3, 5]
    entry = replay(tmp_path / "journal.jsonl", tmp_path / "m", wanted)
    assert entry.checksum == back.checksums[wanted]


def test_what_follows_a_turn_starts_from_the_restored_centre_and_optimizer(tmp_path: Path) -> None:
    back = Back({2: 1})
    tuned, records = turned(tmp_path, back, steps=3)
    centre = tuned.base_model.load()
    optimizer = torch.optim.SGD(centre.parameters(), **SGD)
    _, entries = read_journal(tmp_path / "journal.jsonl")
    for entry in (entries[0], entries[2]):
        for name, parameter in centre.named_parameters():
            total = torch.zeros_like(parameter)
            for member, weight in zip(entry.members, entry.weights.tolist(), strict=True):
                tuned.noise.accumulate_(member.seed, name, total, -weight / len(entry.members))
            parameter.grad = total
        optimizer.step()
    assert checksum(centre.named_parameters()) == entries[2].checksum == tuned.checksum()


def test_settings_change_from_the_next_generation_on(tmp_path: Path) -> None:
    back = Back({2: 2}, sigma=0.01, population=6, lr_factor=0.5)
    _, records = turned(tmp_path, back, steps=4)
    assert [record.sigma for record in records.generations] == [0.05, 0.05, 0.01, 0.01]
    assert [len(record.members) for record in records.generations] == [4, 4, 6, 6]
    assert [record.lr for record in records.generations] == pytest.approx([0.05, 0.05, 0.025, 0.025])


def test_a_schedule_goes_on_from_the_changed_learning_rate(tmp_path: Path) -> None:
    def halve_at_three(optimizer: Any) -> Any:
        return torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[3], gamma=0.5)

    back = Back({1: 1}, lr_factor=0.1)
    _, records = turned(tmp_path, back, steps=5, lr_scheduler=halve_at_three)
    found = [record.lr for record in records.generations]
    assert found == pytest.approx([0.05, 0.005, 0.005, 0.0025, 0.0025])


def cosine_after_warm_up(optimizer: Any) -> Any:
    parts = [schedules.LinearLR(optimizer, 0.5, 1, 2), schedules.CosineAnnealingLR(optimizer, 10)]
    return schedules.SequentialLR(optimizer, parts, [3])


@pytest.mark.slow
@pytest.mark.callbacks
@pytest.mark.parametrize(
    "schedule",
    [
        cosine_after_warm_up,
        lambda optimizer: schedules.OneCycleLR(optimizer, max_lr=0.05, total_steps=10),
        lambda optimizer: schedules.CyclicLR(optimizer, 0.01, 0.05, step_size_up=3),
        lambda optimizer: schedules.LambdaLR(optimizer, lambda step: 1 / (1 + step)),
    ],
)
@pytest.mark.parametrize("changes", [{1: 1}, {2: 1}])  # the second goes back to a checkpoint
def test_every_schedule_keeps_the_factor(tmp_path: Path, schedule: Any, changes: dict[int, int]) -> None:
    alone = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], **SGD)
    steps, plain = schedule(alone), []
    for _ in range(6):
        plain.append(steps.get_last_lr()[0])
        alone.step()
        steps.step()
    tuned, records = module(optimizer=lambda p: torch.optim.SGD(p, **SGD), lr_scheduler=schedule), Records()
    keep = ModelCheckpoint(tmp_path / "kept", "{step}", every_n_train_steps=1, save_top_k=-1)
    callbacks = [records, Back(changes, lr_factor=0.1), keep]
    run = trainer(tmp_path, 6, callbacks, enable_checkpointing=True)
    run.fit(tuned, TaskDataModule(Letters(), grading=Grading(workers=0)))
    [turn] = changes
    expected = [lr if step < turn else 0.1 * lr for step, lr in enumerate(plain)]
    assert [record.lr for record in records.generations] == pytest.approx(expected)


def saved(
    folder: Path, steps: int, turns: dict[int, int], lr_factor: float | None = None, **fit_options: Any
) -> EvolutionStrategies:
    tuned = module(optimizer=lambda parameters: torch.optim.SGD(parameters, **SGD))
    checkpoints = ModelCheckpoint(folder / "checkpoints", "{step}", save_top_k=-1, every_n_train_steps=2)
    back = Back(turns, sigma=0.02, population=6, lr_factor=lr_factor)
    run = trainer(folder, steps, [back, checkpoints], enable_checkpointing=True)
    if not fit_options:
        tuned.history.saved = None
    run.fit(tuned, TaskDataModule(Letters(), grading=Grading(workers=0)), **fit_options)
    return tuned


@pytest.mark.slow
@pytest.mark.callbacks
@pytest.mark.parametrize("checkpoint", [2, 4])
def test_a_resumed_run_with_turns_ends_like_an_uninterrupted_one(tmp_path: Path, checkpoint: int) -> None:
    turns = {3: 1, 4: 2}
    whole = saved(tmp_path / "whole", 6, turns)
    saved(tmp_path / "parts", 5, turns)
    path = tmp_path / "parts" / "checkpoints" / f"step={checkpoint}.ckpt"
    resumed = saved(tmp_path / "parts", 6, turns, ckpt_path=str(path))
    assert resumed.checksum() == whole.checksum()
    lines = [(tmp_path / each / "journal.jsonl").read_text().splitlines() for each in ("whole", "parts")]
    plain = [[line.split('"seconds"')[0] for line in part[1:]] for part in lines]
    assert plain[0] == plain[1]


def test_a_checkpoint_on_the_way_shortens_the_replay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tuned, repeated = saved(tmp_path, 5, {}), []
    actual = restore.repeat
    monkeypatch.setattr(
        restore,
        "repeat",
        lambda entry, *rest: (repeated.append(entry.generation), actual(entry, *rest)),
    )
    tuned.restore(3)
    assert repeated == [2]
    (tmp_path / "checkpoints" / "step=2.ckpt").write_bytes(b"torn")
    tuned.restore(3)
    assert repeated == [2, 0, 1, 2]


@pytest.mark.parametrize("kind", ["weights", "other names", "other shapes"])
def test_a_checkpoint_that_cannot_help_is_passed_over(tmp_path: Path, kind: str) -> None:
    keep = ModelCheckpoint(tmp_path / "kept", "{step}", every_n_train_steps=1, save_weights_only=True)
    tuned, before = module(), Back({})
    run = trainer(tmp_path, 1, [before, keep], enable_checkpointing=True)
    run.fit(tuned, TaskDataModule(Letters(), grading=Grading(workers=0)))
    path = tmp_path / "kept" / "step=1.ckpt"
    if kind != "weights":
        other = {} if kind == "other names" else {n: torch.zeros(3) for n, _ in tuned.named_parameters()}
        torch.save({"global_step": 1, "state_dict": other, "optimizer_states": [{}]}, path)
    tuned.restore(0)
    tuned.restore(1)
    assert [tuned.checksum()] == before.checksums


# What a checkpoint or a callback's absence cannot change ----------------------------------------------


@pytest.mark.slow
@pytest.mark.callbacks
def test_a_resumed_run_follows_its_journal_without_the_callback_that_turned_it(tmp_path: Path) -> None:
    saved(tmp_path, 5, {3: 1}, lr_factor=0.5)
    wanted = read_journal(tmp_path / "journal.jsonl")[1]
    checkpoint = str(tmp_path / "checkpoints" / "step=2.ckpt")
    resumed = saved(tmp_path, 5, {}, ckpt_path=checkpoint)
    assert wanted[3].parent == 0
    assert wanted[4].hyper["lr"] == 0.025
    assert resumed.checksum() == wanted[4].checksum


class Breaks(Callback):
    """Raises in the validation of a generation."""

    def on_validation_batch_start(self, trainer: Any, *_: Any) -> None:
        """Raise."""
        if trainer.global_step == 2:
            raise RuntimeError("on purpose")


def averaged(folder: Path, others: list[Callback], **options: Any) -> EvolutionStrategies:
    tuned = module(optimizer=lambda parameters: torch.optim.SGD(parameters, **SGD))
    settings: dict[str, Any] = {"enable_checkpointing": True, "val_check_interval": 1}
    run = trainer(folder, 4, others, **settings)
    run.fit(tuned, TaskDataModule(Letters(), grading=Grading(workers=0)), **options)
    return tuned


@pytest.mark.slow
@pytest.mark.callbacks
@pytest.mark.filterwarnings("ignore:.*overrides the configure_model")
def test_a_checkpoint_that_holds_an_average_for_the_centre_is_put_right(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = averaged(tmp_path / "whole", [])
    crash = [WeightAveraging(device="cpu"), Breaks(), OnExceptionCheckpoint(tmp_path, "crashed")]
    with pytest.raises(RuntimeError, match="on purpose"):
        averaged(tmp_path, crash)
    averaged(tmp_path, [WeightAveraging(device="cpu")], ckpt_path=str(tmp_path / "crashed.ckpt"))
    assert "is not the journal's" in caplog.text
    assert read_journal(tmp_path / "journal.jsonl")[1][-1].checksum == whole.checksum()


def test_a_checkpoint_ahead_of_its_journal_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise StorageError("no space left")

    data = TaskDataModule(Letters(), grading=Grading(workers=0))
    run = trainer(tmp_path, 1, [OnExceptionCheckpoint(tmp_path, "crashed")], enable_checkpointing=True)
    with monkeypatch.context() as patched:
        patched.setattr(RunJournal, "append", full)
        with pytest.raises(StorageError):
            run.fit(module(), data)
    with pytest.raises(UsageError, match="has seen 1 generations and its journal 0.*an earlier --ckpt_path"):
        trainer(tmp_path, 2).fit(module(), data, ckpt_path=str(tmp_path / "crashed.ckpt"))
