"""A run whose settings change under way, and whose centre is put back; its journal tells of both."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from es_lightning.centre import checksum
from es_lightning.data import TaskDataModule
from es_lightning.errors import UsageError
from es_lightning.journal import lineage, read
from es_lightning.model_io import load_centre
from es_lightning.module import EvolutionStrategies
from es_lightning.replay import replay
from es_lightning.scoring import Grading
from tests.helpers import Letters, Records, fit, module, trainer

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


@pytest.mark.parametrize("generation", [0, 1, 3, 4])
def test_restoring_gives_the_centre_of_then(tmp_path: Path, generation: int) -> None:
    back = Back({})
    tuned, records = turned(tmp_path, back, steps=4)
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
    _, entries = read(tmp_path / "journal.jsonl")
    assert [entry.after for entry in entries] == [None, None, None, 0, None, 3]
    assert [e.generation for e in lineage(entries, 5)] == [0, 3, 5]
    entry = replay(tmp_path / "journal.jsonl", tmp_path / "m", wanted)
    assert entry.checksum == back.checksums[wanted]


def test_what_follows_a_turn_starts_from_the_restored_centre_and_optimizer(tmp_path: Path) -> None:
    back = Back({2: 1})
    tuned, records = turned(tmp_path, back, steps=3)
    centre = load_centre(tuned.folder)
    optimizer = torch.optim.SGD(centre.parameters(), **SGD)
    _, entries = read(tmp_path / "journal.jsonl")
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


def saved(folder: Path, steps: int, turns: dict[int, int], **fit_options: Any) -> EvolutionStrategies:
    tuned = module(optimizer=lambda parameters: torch.optim.SGD(parameters, **SGD))
    checkpoints = ModelCheckpoint(folder / "checkpoints", "{step}", save_top_k=-1, every_n_train_steps=2)
    run = trainer(
        folder, steps, [Back(turns, sigma=0.02, population=6), checkpoints], enable_checkpointing=True
    )
    if not fit_options:
        tuned.saved_journal = None
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
    from es_lightning import steered_module

    tuned, repeated = saved(tmp_path, 5, {}), []
    actual = steered_module.repeat
    monkeypatch.setattr(
        steered_module,
        "repeat",
        lambda entry, *rest: (repeated.append(entry.generation), actual(entry, *rest)),
    )
    tuned.restore(3)
    assert repeated == [2]
    (tmp_path / "checkpoints" / "step=2.ckpt").write_bytes(b"torn")
    tuned.restore(3)
    assert repeated == [2, 0, 1, 2]
