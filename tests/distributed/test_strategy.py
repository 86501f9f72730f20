"""The population spread over real processes: the same bits for any number of ranks, and little to send."""

import os
import re
from pathlib import Path
from typing import Any

import pytest

from es_lightning.algorithm.regularisers import AnchoredDecay, SparseUpdate
from es_lightning.distributed.strategy import PopulationStrategy
from es_lightning.errors import UsageError
from es_lightning.models import BaseModel
from es_lightning.system.checkpoint import AtomicCheckpoint
from tests.helpers.faults import Fault
from tests.helpers.ranks import Run, fit

SELDOM = [pytest.mark.slow, pytest.mark.long]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One rank, which all others must agree with."""
    run = Run(tmp_path_factory.mktemp("alone"))
    assert fit(run) == [0], run.log()
    return run


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two ranks with a lane each, and the bytes that they sent each other."""
    run = Run(tmp_path_factory.mktemp("two"), count_bytes=True)
    assert fit(run, world=2) == [0, 0], run.log()
    return run


def agree(run: Run, other: Run, world: int) -> None:
    """Same journal, rewards, centre and validation."""
    assert run.lines() == other.lines()
    rewards = [(each.folder / "rewards.jsonl").read_text() for each in (run, other)]
    assert rewards[0] == rewards[1]
    for rank in range(world):
        assert run.report(rank)["checksum"] == other.report()["checksum"]
        assert run.report(rank)["val"] == other.report()["val"] != {}


@pytest.mark.ddp
@pytest.mark.parametrize(
    ("world", "lane_size"),
    [
        pytest.param(2, 2, marks=pytest.mark.slow),
        *(pytest.param(*each, marks=SELDOM) for each in ((3, 1), (4, 2))),
    ],
)
def test_any_number_of_ranks_gives_the_bits_of_one(
    tmp_path: Path, alone: Run, world: int, lane_size: int
) -> None:
    run = Run(tmp_path, tensor_parallel_size=lane_size)
    assert fit(run, world) == [0] * world, run.log()
    holds_the_bits(run, alone, world, lane_size)


@pytest.mark.ddp
def test_two_ranks_give_the_bits_of_one(two: Run, alone: Run) -> None:
    holds_the_bits(two, alone, world=2, lane_size=1)


def holds_the_bits(run: Run, alone: Run, world: int, lane_size: int) -> None:
    """Every member was evaluated once, and all came to the same as on one rank."""
    agree(run, alone, world)
    mine = [run.report(rank)["mine"][0] for rank in range(world)]
    lanes = world // lane_size
    # Population 5: every member once, by the ranks of one lane.
    assert mine == [list(range(5))[rank // lane_size :: lanes] for rank in range(world)]
    assert run.report()["tensor_parallel_size"] == lane_size


@pytest.mark.ddp
@pytest.mark.parametrize("world", [2, pytest.param(3, marks=SELDOM)])
def test_a_shared_update_gives_the_bits_of_one_rank(tmp_path: Path, world: int) -> None:
    """Two passes over the noise, an optimizer with state, and a part that needs the base model."""
    parts = [SparseUpdate(0.3, "model"), AnchoredDecay(l2=1.0)]
    options: dict[str, Any] = {"optimizer": "momentum", "options": {"regularisers": parts}, "steps": 3}
    alone, shared = (
        Run(tmp_path / "alone", **options),
        Run(tmp_path / "shared", share_update=True, count_bytes=True, **options),
    )
    assert fit(alone) == [0], alone.log()
    assert fit(shared, world) == [0] * world, shared.log()
    agree(shared, alone, world)
    parameters = sum(parameter.numel() for parameter in BaseModel("tiny").load().parameters())
    for sent in shared.report()["bytes"][:-1]:
        assert 0 < sent - 2 * 4 * parameters < 5000  # each tensor once per pass


@pytest.mark.ddp
@pytest.mark.parametrize(
    ("nodes", "slurm"),
    [(2, True), *(pytest.param(*each, marks=pytest.mark.slow) for each in ((2, False), (1, True)))],
)
def test_several_nodes_and_slurm_give_the_bits_of_one(
    tmp_path: Path, alone: Run, nodes: int, slurm: bool
) -> None:
    run = Run(tmp_path, nodes=nodes)
    assert fit(run, 2, slurm=slurm) == [0, 0], run.log()
    agree(run, alone, 2)
    assert [run.report(rank)["mine"][0] for rank in (0, 1)] == [[0, 2, 4], [1, 3]]


@pytest.mark.ddp
@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(
    ("world", "lane_size", "divided"), [(2, 1, False), (3, 1, False), (2, 2, False), (2, 2, True)]
)
def test_vllm_on_any_number_of_ranks_gives_the_bits_of_one(
    tmp_path: Path, alone_on_vllm: Run, world: int, lane_size: int, divided: bool
) -> None:
    Path("/dev/shm/-tp:0-[0-1]-cpushm_0").touch()  # what a killed rank leaves behind
    run = Run(tmp_path, engine="vllm", tensor_parallel_size=lane_size, shard_centre=divided)
    assert fit(run, world, seconds=150) == [0] * world, run.log()
    agree(run, alone_on_vllm, world)
    assert run.report()["tensor_parallel_size"] == lane_size


@pytest.fixture(scope="module")
def alone_on_vllm(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One rank on one thread with vLLM."""
    run = Run(tmp_path_factory.mktemp("alone_on_vllm"), engine="vllm")
    assert fit(run, seconds=150) == [0], run.log()
    return run


@pytest.mark.ddp
@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("lane_size", [1, 2])
def test_ranks_write_their_shares_in_place(tmp_path: Path, lane_size: int) -> None:
    """Two ranks, of a lane each or of one that splits the model: the same bits as by reloads."""
    runs = [
        Run(tmp_path / engine, engine=engine, tensor_parallel_size=lane_size)
        for engine in ("unpacked", "reloaded")
    ]
    for run in runs:
        run.folder.mkdir()
        assert fit(run, 2, seconds=150) == [0, 0], run.log()
    assert runs[0].lines() == runs[1].lines()
    assert [run.report(rank)["in_place"] for run in runs for rank in (0, 1)] == [True, True, False, False]


@pytest.mark.ddp
@pytest.mark.slow
def test_n_times_p_floats_and_a_constant_cross_per_generation(tmp_path: Path, two: Run) -> None:
    one = Run(tmp_path, count_bytes=True, prompts=1)
    assert fit(one, world=2) == [0, 0], one.log()
    # Population 5, float64: two prompts more are 5 * 2 * 8 bytes more, and a digit of a sum here and there.
    assert two.prompts == 3
    for few, many in zip(one.report()["bytes"], two.report()["bytes"], strict=True):
        assert many - few == pytest.approx(5 * 2 * 8, abs=100)
        assert few - 5 * 8 < 2000


@pytest.mark.ddp
@pytest.mark.slow
def test_a_rank_with_another_centre_stops_the_run_with_both_checksums(tmp_path: Path) -> None:
    run = Run(tmp_path, fault=Fault("drift", generation=2, rank=1))
    assert fit(run, world=2) == [1, 1]
    found = re.search(
        r"rank 1 has another centre than rank 0 before generation 3: (\w{16}) and (\w{16})", run.log()
    )
    assert found
    assert found[1] != found[2]
    assert found[2] in (tmp_path / "journal.jsonl").read_text()


@pytest.mark.ddp
def test_ranks_get_cores_of_their_own(two: Run) -> None:
    cores = [two.report(rank)["cores"] for rank in (0, 1)]
    assert all(two.report(rank)["threads"] == 1 for rank in (0, 1))
    if len(os.sched_getaffinity(0)) > 1:
        assert not set(cores[0]) & set(cores[1])


def test_checkpoints_are_atomic_however_the_strategy_is_built() -> None:
    for strategy in (PopulationStrategy(), PopulationStrategy(checkpoint_io=None)):
        assert isinstance(strategy.checkpoint_io, AtomicCheckpoint)


@pytest.mark.parametrize("options", [{"timeout_seconds": 0}, {"threads_per_rank": 0}])
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        PopulationStrategy(**options)
