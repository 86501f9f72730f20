"""The population spread over real processes: the same bits for any number of ranks, and little to send."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from es_lightning.cores import share_of
from es_lightning.errors import RankError, UsageError
from es_lightning.generation import Completion, Evaluation, Prompt
from es_lightning.model_io import check_heads
from es_lightning.population import lane_of
from es_lightning.shards import Shard, compare_centres, join, join_evaluations, pack_evaluation
from es_lightning.strategy import PopulationStrategy
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
@pytest.mark.parametrize(("world", "lane_size"), [(2, 1), (3, 1), (2, 2), (4, 2)])
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
@pytest.mark.vllm
@pytest.mark.parametrize(("world", "lane_size"), [(2, 1), (2, 2), pytest.param(3, 1, marks=pytest.mark.slow)])
def test_vllm_on_any_number_of_ranks_gives_the_bits_of_one(
    tmp_path: Path, alone_on_vllm: Run, world: int, lane_size: int
) -> None:
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
