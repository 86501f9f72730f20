"""Every recipe and adaptive schedule in fits of the tiny model: every way to go on gives the same bits."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint

from es_lightning.algorithm.noise import GaussianNoise
from es_lightning.algorithm.schedules import LinearSchedule, SignalRule, SuccessRule
from es_lightning.datamodule import TaskDataModule
from es_lightning.grading.scorer import Grading
from es_lightning.journal.entry import JOURNAL, REWARDS, Entry, read_journal
from es_lightning.journal.replay import replay
from es_lightning.module import EvolutionStrategies
from tests.helpers.fits import Records, module, trainer
from tests.helpers.letters import Answered
from tests.helpers.ranks import Run, fit
from tests.helpers.recipes import NAMES, read, short_run

pytestmark = pytest.mark.filterwarnings("ignore:The dirpath has changed")  # a run resumed in another folder
GENERATIONS = 4


def scheduled(**options: Any) -> EvolutionStrategies:
    return module(noise=GaussianNoise(compile=False), **options)


# No recipe has these: they learn from rewards, or keep pairs whole while the population changes.
SCHEDULES: dict[str, Callable[[], EvolutionStrategies]] = {
    "success_rule": lambda: scheduled(sigma_schedule=SuccessRule()),
    "signal_rule": lambda: scheduled(sigma_schedule=SignalRule()),
    "signal_rule_of_pairs": lambda: scheduled(sigma_schedule=SignalRule(), antithetic=True),
    "more_pairs": lambda: scheduled(population_schedule=LinearSchedule(4, 3.0), antithetic=True),
}
MAKERS = {name: partial(short_run, name) for name in NAMES} | SCHEDULES
QUICK = ("annealed", "success_rule")
ALL = [pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK)) for name in MAKERS]
ADAPTIVE = [each for each in ALL if each.values[0] in [*SCHEDULES, "annealed"]]
OBJECTIVES = {name: read(name).get("data", {}).get("objective", "reward") for name in NAMES}


class Done(NamedTuple):
    """A run of four generations, a checkpoint after each."""

    folder: Path
    tuned: EvolutionStrategies
    records: Records

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The journal's generations, without what a clock decides."""
        return timeless(self.folder)

    @property
    def entries(self) -> list[Entry]:
        """The journal's generations."""
        return read_journal(self.folder / JOURNAL)[1]

    def checkpoint(self, generations: int) -> Path:
        """The checkpoint after some generations."""
        return self.folder / "checkpoints" / f"step={generations}.ckpt"


def timeless(folder: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, (folder / JOURNAL).read_text(encoding="utf-8").splitlines()[1:])
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def run(name: str, folder: Path, checkpoint: Path | None = None, repeats: bool = False) -> Done:
    """Run to the last generation, from the start, a checkpoint, or what the folder holds."""
    tuned, records = MAKERS[name](), Records()
    tuned.history.saved = [] if repeats else None
    data = TaskDataModule(Answered(), grading=Grading(workers=0), objective=OBJECTIVES.get(name, "reward"))
    saving = ModelCheckpoint(folder / "checkpoints", "{step}", every_n_train_steps=1, save_top_k=-1)
    fitting = trainer(folder, GENERATIONS, [records, saving], enable_checkpointing=True)
    fitting.fit(tuned, data, ckpt_path=checkpoint)
    return Done(folder, tuned, records)


@pytest.fixture(scope="module", params=ALL)
def done(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Done]:
    """An uninterrupted run of each."""
    name = str(request.param)
    return name, run(name, tmp_path_factory.mktemp(name))


def interrupted(folder: Path, whole: Done, generations: int) -> None:
    """Leave in a folder what a run has written when it dies after some generations."""
    for file, header in ((JOURNAL, 1), (REWARDS, 0)):
        lines = (whole.folder / file).read_text(encoding="utf-8").splitlines(keepends=True)
        (folder / file).write_text("".join(lines[: header + generations]), encoding="utf-8")


def rolled_out(found: Done) -> list[int]:
    return [record.index for record in found.records.generations if record.evaluations]


def test_every_generation_changes_the_centre_unless_that_is_best(done: tuple[str, Done]) -> None:
    name, whole = done
    moves = [
        any(m.sign * w for m, w in zip(record.members, record.weights.tolist(), strict=True))
        for record in whole.records.generations
    ]
    assert all(moves) or name == "random_search", "whose centre may be its own best member"
    assert len(set(whole.records.checksums)) == sum(moves) + 1 > 1
    assert not any(record.skipped for record in whole.records.generations)
    sigmas = {record.sigma for record in whole.records.generations}
    sizes = [len(record.members) for record in whole.records.generations]
    assert (len(sigmas) > 1) == (name == "annealed" or "rule" in name)
    assert sizes == {"annealed": [4, 5, 6, 7], "more_pairs": [4, 6, 8, 10]}.get(name, sizes[:1] * 4)


def test_a_run_resumed_from_its_checkpoint_ends_alike(done: tuple[str, Done], tmp_path: Path) -> None:
    name, whole = done
    resumed = run(name, tmp_path, whole.checkpoint(2))
    assert rolled_out(resumed) == [2, 3]
    assert resumed.lines == whole.lines
    assert resumed.tuned.checksum() == whole.records.checksums[-1]


def test_a_run_resumed_from_its_journal_ends_alike(done: tuple[str, Done], tmp_path: Path) -> None:
    name, whole = done
    interrupted(tmp_path, whole, 3)
    resumed = run(name, tmp_path, repeats=True)
    assert rolled_out(resumed) == [3]
    assert resumed.lines == whole.lines
    assert resumed.tuned.checksum() == whole.records.checksums[-1]


@pytest.mark.parametrize("done", ADAPTIVE, indirect=True)
def test_a_checkpoint_that_its_journal_has_overtaken_leads_on_alike(
    done: tuple[str, Done], tmp_path: Path
) -> None:
    """Generation 1 is repeated from the journal, and shown to the schedule that the checkpoint holds."""
    name, whole = done
    interrupted(tmp_path, whole, 2)
    resumed = run(name, tmp_path, whole.checkpoint(1))
    assert rolled_out(resumed) == [2, 3]
    assert resumed.lines == whole.lines


@pytest.mark.parametrize("generation", [1, 3])
def test_a_replay_gives_the_centre_of_then(done: tuple[str, Done], tmp_path: Path, generation: int) -> None:
    _, whole = done
    found = replay(whole.folder / JOURNAL, tmp_path / "model", generation)
    assert found.checksum == whole.entries[generation].checksum


@pytest.mark.parametrize("generation", [3, 1, 0])
def test_an_earlier_centre_comes_back(done: tuple[str, Done], generation: int) -> None:
    _, whole = done
    centres = [whole.records.checksums[0], *(entry.checksum for entry in whole.entries)]
    whole.tuned.restore(generation)
    assert whole.tuned.checksum() == centres[generation]


def two_ranks_agree_with_one(folder: Path, name: str) -> None:
    runs = []
    for world in (1, 2):
        ranks = Run(folder / str(world), GENERATIONS, recipe=name)
        assert fit(ranks, world) == [0] * world, ranks.log()
        runs.append(ranks)
    one, two = runs
    assert one.lines() == two.lines()
    assert one.report()["checksum"] == two.report()["checksum"] == two.report(1)["checksum"]


@pytest.mark.ddp
@pytest.mark.slow
def test_two_ranks_give_the_bits_of_one(tmp_path: Path) -> None:
    two_ranks_agree_with_one(tmp_path, "annealed")


@pytest.mark.ddp
@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_two_ranks_give_the_bits_of_one_with_every_recipe(tmp_path: Path, name: str) -> None:
    two_ranks_agree_with_one(tmp_path, name)
