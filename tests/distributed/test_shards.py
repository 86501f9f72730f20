"""A centre that the ranks of a lane hold together: the bits of one rank, in journal, files and exports."""

import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from es_lightning.algorithm.regularisers import AnchoredDecay, SparseUpdate
from es_lightning.callbacks import BestModel, ExportHF, RunReport, UpdateGeometry
from es_lightning.models import BaseModel
from es_lightning.system.checkpoint import newest, read_checkpoint
from tests.distributed.test_faults import journal_lines, wait_until
from tests.helpers.families import Family, make
from tests.helpers.faults import Fault
from tests.helpers.ranks import Run, fit, start, wait

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


def holds_the_checkpoint(run: Run, other: Run) -> None:
    """The newest checkpoint is the same."""
    mine, theirs = (read_checkpoint(newest(each.folder / "checkpoints") or Path()) for each in (run, other))
    for state in (mine["state_dict"], theirs["state_dict"]):
        for name in [name for name in state if name.startswith("tokens_per_second")]:
            del state[name]  # of a clock
    for part in ("state_dict", "optimizer_states"):
        assert same(mine[part], theirs[part]), part


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run that every resumed one must end like."""
    run = Run(tmp_path_factory.mktemp("undisturbed"), **STATEFUL)
    assert fit(run) == [0], run.log()
    return run


@pytest.mark.ddp
@pytest.mark.slow
def test_two_ranks_hold_a_centre_together_with_the_bits_of_one(tmp_path: Path, undisturbed: Run) -> None:
    run = Run(tmp_path, **DIVIDED, **STATEFUL)
    assert fit(run, 2) == [0, 0], run.log()
    agree(run, undisturbed, 2)
    holds_the_checkpoint(run, undisturbed)
    held = [run.report(rank)["held"] for rank in (0, 1)]
    assert sorted(name for each in held for name in each) == sorted(undisturbed.report()["held"])
    assert all(held)


@pytest.mark.ddp
@pytest.mark.slow
@pytest.mark.parametrize(
    ("world", "lane_size", "share_update"),
    [(2, 2, False), *(pytest.param(4, 2, each, marks=pytest.mark.long) for each in (False, True))],
)
def test_a_centre_in_parts_is_whole_in_every_file(
    tmp_path: Path, alone: Run, world: int, lane_size: int, share_update: bool
) -> None:
    options = DIVIDED | STATEFUL | {"tensor_parallel_size": lane_size, "share_update": share_update}
    run = Run(tmp_path, callbacks=watched(), **options)
    assert fit(run, world) == [0] * world, run.log()
    agree(run, alone, world)
    holds_the_checkpoint(run, alone)
    files = [*alone.folder.glob("*/step=*/model.safetensors"), alone.folder / "model" / "model.safetensors"]
    files += [*alone.folder.glob("best/*.safetensors"), alone.folder / "tables" / "update_geometry.json"]
    assert len(files) == 6
    for path in files:
        assert (run.folder / path.relative_to(alone.folder)).read_bytes() == path.read_bytes(), path


@pytest.mark.ddp
@pytest.mark.slow
@pytest.mark.long
def test_a_generation_sends_a_set_of_weights_per_member_and_little_else(tmp_path: Path) -> None:
    whole = Run(tmp_path / "whole", count_bytes=True, steps=3, tensor_parallel_size=2)
    divided = Run(tmp_path / "divided", count_bytes=True, steps=3, **DIVIDED)
    for run in (whole, divided):
        assert fit(run, 2) == [0, 0], run.log()
    parameters = sum(parameter.numel() for parameter in BaseModel("tiny").load().parameters())
    pairs = zip(divided.report()["bytes"][:-1], whole.report()["bytes"][:-1], strict=True)
    for sent, by_the_engine_alone in pairs:
        # Five members in float32, each tensor once: every rank receives half of them, and sends the others.
        assert 0 < sent - by_the_engine_alone - 5 * 4 * parameters < 10_000


@pytest.mark.ddp
@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.parametrize(
    ("moment", "rank"),
    [
        ("update", 0),
        *(
            pytest.param(*each, marks=pytest.mark.long)
            for each in (
                *(("gather", 1), ("update", 1), ("perturb", 1), ("perturb", 0)),
                *(("checkpoint", 1), ("checkpoint", 0)),
            )
        ),
    ],
)
def test_a_rank_that_is_killed_ends_the_others_and_any_number_of_ranks_goes_on(
    tmp_path: Path, undisturbed: Run, moment: str, rank: int
) -> None:
    """In the middle of an update, too, when the ranks have made different parts of it."""
    started = time.monotonic()
    fault = Fault(moment, generation=4 if moment == "checkpoint" else 3, rank=rank)
    run = Run(tmp_path / "run", fault=fault, **DIVIDED, **STATEFUL)
    codes = fit(run, 2)
    assert codes[rank] == -9
    assert codes[1 - rank] == 1, run.log(1 - rank)
    assert time.monotonic() - started < 20
    if moment != "checkpoint":  # in a barrier of Lightning's
        assert f"RankError: rank {rank} died" in run.log(1 - rank)
    for world, options in ((2, DIVIDED), (1, {})):
        folder = tmp_path / f"on-{world}"
        shutil.copytree(tmp_path / "run", folder)
        resumed = Run(folder, resume=True, **options, **STATEFUL)
        assert fit(resumed, world) == [0] * world, resumed.log()
        assert resumed.lines() == undisturbed.lines()
        for each in range(world):
            assert resumed.report(each)["checksum"] == undisturbed.report()["checksum"]


@pytest.mark.ddp
@pytest.mark.slow
@pytest.mark.faults
def test_a_rank_that_hangs_in_a_load_is_named_within_the_time_out(tmp_path: Path) -> None:
    run = Run(tmp_path, timeout_seconds=4, fault=Fault("perturb", action="hang", rank=1), **DIVIDED)
    ranks = start(run, 2)
    ranks[0].join(30)
    assert ranks[0].exitcode == 1
    assert wait(ranks, 0)[1] is None
    assert "rank 1 died, or did not come within 4 s" in run.log(0)


@pytest.mark.ddp
@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.long
@pytest.mark.parametrize("moment", ["perturb", "update"])
def test_a_signal_stops_all_ranks_and_the_journal_leads_on(
    tmp_path: Path, undisturbed: Run, moment: str
) -> None:
    """No checkpoint is written then, since no rank has all of the centre."""
    run = Run(tmp_path, fault=Fault(moment, action="SIGSTOP", generation=3, rank=1), **DIVIDED, **STATEFUL)
    ranks = start(run, 2)
    wait_until(lambda: len(journal_lines(tmp_path)) == 4)
    time.sleep(1)  # rank 0 waits for rank 1, which stands still
    for process in ranks:
        os.kill(process.pid or 0, signal.SIGTERM)
    os.kill(ranks[1].pid or 0, signal.SIGCONT)
    assert wait(ranks) == [143, 143], run.log()
    assert not list(tmp_path.glob("checkpoints/stopped*"))
    resumed = Run(tmp_path, resume=True, **DIVIDED, **STATEFUL)
    assert fit(resumed, 2) == [0, 0], resumed.log()
    agree(resumed, undisturbed, 2)


@pytest.mark.ddp
@pytest.mark.slow
@pytest.mark.long
def test_a_lane_of_four_ranks_gives_the_bits_of_one(tmp_path: Path) -> None:
    base = tmp_path / "base"
    make(Family("llama", {"num_key_value_heads": 4}), base)
    options = STATEFUL["options"] | {"base": str(base)}
    alone, divided = (
        Run(tmp_path / "alone", optimizer="momentum", options=options),
        Run(
            tmp_path / "divided",
            optimizer="momentum",
            options=options,
            tensor_parallel_size=4,
            shard_centre=True,
        ),
    )
    assert fit(alone) == [0], alone.log()
    assert fit(divided, 4) == [0] * 4, divided.log()
    agree(divided, alone, 4)
