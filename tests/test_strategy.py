"""The population spread over real processes: the same bits for any number of ranks, and little to send."""

import os
import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.fabric.plugins.environments import LightningEnvironment
from transformers import LlamaConfig

from es_lightning.datamodule import TaskDataModule
from es_lightning.distributed.ranks import Ranks, compare_centres, lane_of
from es_lightning.distributed.strategy import PopulationStrategy
from es_lightning.errors import RankError, UsageError
from es_lightning.evaluation.gather import (
    Shard,
    join,
    join_evaluations,
    pack_evaluation,
    sums,
)
from es_lightning.models import BaseModel
from es_lightning.records import Completion, Evaluation, Prompt
from es_lightning.rollout import HFEngine
from es_lightning.system.checkpoint import AtomicCheckpoint
from es_lightning.system.cores import share_of
from tests.faults import Fault
from tests.helpers import Letters, module, trainer
from tests.ranks import Run, fit


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One rank, which all others must agree with."""
    run = Run(tmp_path_factory.mktemp("alone"))
    assert fit(run) == [0], run.log()
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
    ("world", "lane_size"), [(2, 1), (3, 1), (2, 2), pytest.param(4, 2, marks=pytest.mark.slow)]
)
def test_any_number_of_ranks_gives_the_bits_of_one(
    tmp_path: Path, alone: Run, world: int, lane_size: int
) -> None:
    run = Run(tmp_path, tensor_parallel_size=lane_size)
    assert fit(run, world) == [0] * world, run.log()
    agree(run, alone, world)
    mine = [run.report(rank)["mine"][0] for rank in range(world)]
    lanes = world // lane_size
    # Population 5: every member once, by the ranks of one lane.
    assert mine == [list(range(5))[rank // lane_size :: lanes] for rank in range(world)]
    assert run.report()["tensor_parallel_size"] == lane_size


@pytest.mark.ddp
@pytest.mark.parametrize(("nodes", "slurm"), [(2, False), (1, True), (2, True)])
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
@pytest.mark.parametrize(("world", "lane_size"), [(2, 1), pytest.param(3, 1, marks=pytest.mark.long), (2, 2)])
def test_vllm_on_any_number_of_ranks_gives_the_bits_of_one(
    tmp_path: Path, alone_on_vllm: Run, world: int, lane_size: int
) -> None:
    Path("/dev/shm/-tp:0-[0-1]-cpushm_0").touch()  # what a killed rank leaves behind
    run = Run(tmp_path, engine="vllm", tensor_parallel_size=lane_size)
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
def test_n_times_p_floats_and_a_constant_cross_per_generation(tmp_path: Path) -> None:
    sent = {}
    for prompts in (1, 3):
        run = Run(tmp_path / str(prompts), count_bytes=True, prompts=prompts)
        assert fit(run, world=2) == [0, 0], run.log()
        sent[prompts] = run.report()["bytes"]
    # Population 5, float64: two prompts more are 5 * 2 * 8 bytes more, and a digit of a sum here and there.
    for few, many in zip(sent[1], sent[3], strict=True):
        assert many - few == pytest.approx(5 * 2 * 8, abs=100)
        assert few - 5 * 8 < 2000


@pytest.mark.ddp
def test_a_rank_with_another_centre_stops_the_run_with_both_checksums(tmp_path: Path) -> None:
    run = Run(tmp_path, fault=Fault("drift", generation=2, rank=1))
    assert fit(run, world=2) == [1, 1]
    found = re.search(
        r"rank 1 has another centre than rank 0 before generation 3: (\w{16}) and (\w{16})", run.log()
    )
    assert found
    assert found[1] != found[2]
    assert found[2] in (tmp_path / "journal.jsonl").read_text()


def test_the_last_centres_are_compared_too() -> None:
    compare_centres([b"a", b"a"], 3)
    with pytest.raises(RankError, match="rank 1 has another centre than rank 0 before generation 3: b and a"):
        compare_centres([b"a", b"b"], 3)


@pytest.mark.ddp
def test_ranks_get_cores_of_their_own(tmp_path: Path) -> None:
    run = Run(tmp_path, steps=2)
    assert fit(run, world=2) == [0, 0], run.log()
    cores = [run.report(rank)["cores"] for rank in (0, 1)]
    assert all(run.report(rank)["threads"] == 1 for rank in (0, 1))
    if len(os.sched_getaffinity(0)) > 1:
        assert not set(cores[0]) & set(cores[1])


@given(st.integers(1, 64), st.integers(1, 64), st.none() | st.integers(1, 8))
def test_cores_are_shared_out_evenly(count: int, ranks: int, threads: int | None) -> None:
    cores = list(range(10, 10 + count))
    shares = [share_of(cores, rank, ranks, threads) for rank in range(ranks)]
    assert all(share and set(share) <= set(cores) for share in shares)
    assert max(map(len, shares)) <= min(threads or count, count)
    if ranks <= count:
        assert len({core for share in shares for core in share}) == sum(map(len, shares))
        assert threads or max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize(("world", "size"), [(3, 2), (4, 3), (1, 2)])
def test_ranks_that_do_not_divide_into_lanes_are_refused(world: int, size: int) -> None:
    with pytest.raises(
        UsageError, match=f"{world} ranks do not divide into lanes of tensor_parallel_size {size}"
    ):
        lane_of(0, world, size)


def test_lanes_are_consecutive_ranks() -> None:
    lanes = [lane_of(rank, 6, 2) for rank in range(6)]
    assert [lane.index for lane in lanes] == [0, 0, 1, 1, 2, 2]
    assert [lane.leads for lane in lanes] == [True, False] * 3


@pytest.mark.parametrize(
    ("heads", "shared", "size", "fine"), [(4, 2, 2, True), (4, 2, 4, True), (4, 2, 3, False)]
)
def test_heads_must_divide(heads: int, shared: int, size: int, fine: bool) -> None:
    base = BaseModel("tiny")
    base.config = LlamaConfig(num_attention_heads=heads, num_key_value_heads=shared, hidden_size=64)
    if fine:
        base.check_heads(size)
    else:
        with pytest.raises(
            UsageError, match="tensor_parallel_size is 3, but the model has 4 attention heads"
        ):
            base.check_heads(size)


def test_several_ranks_need_the_population_strategy(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    tuned = module(engine=HFEngine("float32", tensor_parallel_size=2))
    with pytest.raises(UsageError, match="needs trainer.strategy population"):
        run.fit(tuned, TaskDataModule(Letters()))
    with pytest.raises(UsageError, match="1 ranks do not divide into lanes"):
        trainer(tmp_path, strategy="population").fit(
            module(engine=HFEngine("float32", tensor_parallel_size=2)), TaskDataModule(Letters())
        )


def test_more_ranks_than_members_are_refused() -> None:
    strategy = PopulationStrategy(cluster_environment=LightningEnvironment())
    strategy.cluster_environment.set_world_size(3)
    with pytest.raises(UsageError, match="population is 2, but there are 3 lanes"):
        Ranks(strategy).check(population=2)


def test_checkpoints_are_atomic_however_the_strategy_is_built() -> None:
    for strategy in (PopulationStrategy(), PopulationStrategy(checkpoint_io=None)):
        assert isinstance(strategy.checkpoint_io, AtomicCheckpoint)


@pytest.mark.parametrize("options", [{"timeout_seconds": 0}, {"threads_per_rank": 0}])
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        PopulationStrategy(**options)


def shard(rank: int, rewards: Any, **options: Any) -> Shard:
    defaults: dict[str, Any] = {
        "centre": "c",
        "prompts": "p",
        "sums": {},
        "tokens": 1,
        "seconds": {"generate": 1.0},
    }
    return Shard(rank=rank, rewards=torch.as_tensor(rewards).double(), **(defaults | options))


def test_failures_are_a_share_of_all_completions_wherever_they_happened() -> None:
    one = shard(0, [[1.0, 2.0]], sums={"reward": ("3", 2)})
    other = shard(1, [[0.0, 4.0]], sums={"reward": ("4", 2), "failed_timeout": ("1", 2), "length": ("6", 1)})
    for shards in ([one, other], [replace(other, rank=0), replace(one, rank=1)]):
        scores = join(shards, 2, 0).scores
        assert scores["failed_timeout"] == 1 / 4
        assert scores["length"] == 6


def test_a_lane_without_members_has_no_share_in_failures() -> None:
    busy = shard(0, [[1.0, 2.0]], sums={"reward": ("3", 2), "failed_timeout": ("1", 2)})
    idle = shard(1, torch.empty(0, 2), sums={}, seconds={}, tokens=0)
    outcome = join([busy, idle], 1, 0)
    assert outcome.scores == {"reward": 1.5, "failed_timeout": 0.5}
    assert outcome.rewards.tolist() == [[1.0, 2.0]]


@given(st.integers(1, 9), st.integers(1, 4), st.integers(1, 5))
def test_rewards_come_back_in_member_order(size: int, prompts: int, lanes: int) -> None:
    whole = torch.arange(size * prompts, dtype=torch.float64).view(size, prompts)
    parts = [shard(lane, whole[lane::lanes]) for lane in range(lanes)]
    parts = [Shard.unpack(part.pack()) for part in parts]
    assert torch.equal(join(parts, size, 0).rewards, whole)


def test_means_do_not_depend_on_how_members_were_shared_out() -> None:
    values = [0.1, 1e16, -1e16, 0.2, 0.3, 1e-9]
    means = set()
    for lanes in (1, 2, 3):
        parts = [
            shard(lane, [[0.0]] * 2, sums=sums([evaluation(values[lane::lanes])])) for lane in range(lanes)
        ]
        means.add(join(parts, 2 * lanes, 0).scores["reward"])
    assert means == {float(sum(map(Fraction, values)) / 6)}


def evaluation(rewards: list[float]) -> Evaluation:
    prompts = tuple(Prompt(str(i), "") for i in range(len(rewards)))
    completions = tuple(Completion(f"{reward}", (1, 2), "stop") for reward in rewards)
    return Evaluation(prompts, completions, tuple({"reward": reward} for reward in rewards))


@pytest.mark.parametrize("lane_size", [1, 2])
@pytest.mark.parametrize("field", ["centre", "prompts"])
def test_a_rank_that_differs_is_named_whatever_its_place_in_a_lane(field: str, lane_size: int) -> None:
    parts = [shard(0, [[1.0]]), shard(1, [[1.0]][: 2 - lane_size], **{field: "other"})]
    with pytest.raises(RankError, match=r"rank 1 has another .* before generation 7: other and [cp]\."):
        join(parts, 2 // lane_size, 7, lane_size)


@given(st.integers(1, 9), st.integers(1, 4), st.integers(1, 3))
def test_validation_counts_every_sample_once(problems: int, lanes: int, samples: int) -> None:
    prompts = [Prompt(f"{i}", "") for i in range(problems)]
    packed = []
    for lane in range(lanes):
        texts = [f"{prompt.id}.{s}" for prompt in prompts[lane::lanes] for s in range(samples)]
        completions = tuple(Completion(text, (ord(text[0]),), "length") for text in texts)
        packed.append(
            pack_evaluation(Evaluation((), completions, tuple({"reward": float(t)} for t in texts)))
        )
    whole = join_evaluations(packed, prompts)
    assert [c.text for c in whole.completions] == [
        f"{i}.{s}" for i in range(problems) for s in range(samples)
    ]
    assert [score["reward"] for score in whole.scores] == [float(c.text) for c in whole.completions]
    assert whole.completions[0].token_ids == (ord("0"),)
