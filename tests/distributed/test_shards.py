"""A centre that the ranks of a lane hold together: the bits of one rank, in journal, files and exports."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from es_lightning.algorithm.regularisers import AnchoredDecay, SparseUpdate
from es_lightning.callbacks import BestModel, ExportHF, RunReport, UpdateGeometry
from es_lightning.system.checkpoint import newest, read_checkpoint
from tests.helpers.faults import Fault
from tests.helpers.ranks import Run, fit

DIVIDED: dict[str, Any] = {"tensor_parallel_size": 2, "shard_centre": True}
PARTS = [SparseUpdate(0.3, "model"), AnchoredDecay(l2=1.0)]
STATEFUL: dict[str, Any] = {"optimizer": "Adam", "options": {"regularisers": PARTS}}
"""Two passes over the noise, an optimizer with two states and a count, a part that reads the base model."""


class GoBack(Callback):
    """Puts the centre of an earlier generation back, once."""

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 3:
            module.restore(1)


def watched() -> tuple[Callback, ...]:
    """What reads or writes the whole centre."""
    geometry = UpdateGeometry(every=2, steps=True)
    report = RunReport(log_model=False)
    return ExportHF(every=2, keep=3), BestModel(), geometry, report, GoBack()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One rank, which all others must agree with."""
    run = Run(tmp_path_factory.mktemp("alone"), callbacks=watched(), **STATEFUL)
    assert fit(run) == [0], run.log()
    return run


def agree(run: Run, other: Run, world: int) -> None:
    """Same journal, rewards, centre and validation."""
    assert run.lines() == other.lines()
    assert (run.folder / "rewards.jsonl").read_text() == (other.folder / "rewards.jsonl").read_text()
    for rank in range(world):
        assert run.report(rank)["checksum"] == other.report()["checksum"]
        assert run.report(rank)["val"] == other.report()["val"] != {}


def same(one: Any, other: Any) -> bool:
    """Whether two contents of checkpoints are the same bits."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def holds_the_files(run: Run, other: Run) -> None:
    """Checkpoint, exports and tables are the same."""
    mine, theirs = (read_checkpoint(newest(each.folder / "checkpoints") or Path()) for each in (run, other))
    for state in (mine["state_dict"], theirs["state_dict"]):
        for name in [name for name in state if name.startswith("tokens_per_second")]:
            del state[name]  # of a clock
    for part in ("state_dict", "optimizer_states"):
        assert same(mine[part], theirs[part]), part
    files = [*other.folder.glob("*/step=*/model.safetensors"), other.folder / "model" / "model.safetensors"]
    files += [*other.folder.glob("best/*.safetensors"), other.folder / "tables" / "update_geometry.json"]
    assert len(files) == 6
    for path in files:
        assert (run.folder / path.relative_to(other.folder)).read_bytes() == path.read_bytes(), path


@pytest.mark.ddp
@pytest.mark.parametrize(
    ("world", "lane_size", "share_update"),
    [
        (2, 2, False),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in ((4, 2, False), (4, 2, True), (4, 4, False))),
    ],
)
def test_a_centre_in_parts_gives_the_bits_of_one_rank(
    tmp_path: Path, alone: Run, world: int, lane_size: int, share_update: bool
) -> None:
    options = DIVIDED | STATEFUL | {"tensor_parallel_size": lane_size, "share_update": share_update}
    run = Run(tmp_path, callbacks=watched(), **options)
    assert fit(run, world) == [0] * world, run.log()
    agree(run, alone, world)
    holds_the_files(run, alone)
    held = [run.report(rank)["held"] for rank in range(lane_size)]
    assert sorted(name for each in held for name in each) == sorted(alone.report()["held"])
    assert all(held)
