"""Real processes that send one another what each has made."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed

from es_lightning.algorithm.shares import owners
from es_lightning.distributed.group import Group
from es_lightning.distributed.shards import LaneShards
from tests.helpers.ranks import CONTEXT, places

SIZES = {"embedding": 5000, "q": 400, "k": 300, "norm": 7, "head": 5000}
WHOLE = {name: torch.arange(size, dtype=torch.float32) for name, size in SIZES.items()}
OWNERS = owners(SIZES, 2)

Act = Callable[[LaneShards, dict[str, Tensor]], None]


def rank_of(act: Act, environment: dict[str, str], folder: Path) -> None:
    """Be one of two ranks."""
    os.environ.update(environment)
    rank = int(environment["LOCAL_RANK"])
    distributed.init_process_group("gloo", rank=rank, world_size=2)
    messages = distributed.new_group(backend="gloo")
    lane = Group(range(2), rank, messages, messages, torch.device("cpu"), seconds=20)
    mine = {
        name: tensor if OWNERS[name] == rank else torch.empty_like(tensor, device="meta")
        for name, tensor in WHOLE.items()
    }
    act(LaneShards(OWNERS, lane), mine)
    (folder / f"rank-{rank}").touch()
    distributed.barrier()


def together(act: Act, folder: Path) -> None:
    """Let two ranks act; those that come to the end leave a file."""
    ranks = [CONTEXT.Process(target=rank_of, args=(act, each, folder)) for each in places(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(40)
        process.kill()


def halved(shards: LaneShards, mine: dict[str, Tensor], most: int = 9) -> dict[str, Tensor]:
    stream = shards.stream(mine.items(), lambda _, tensor: (tensor / 2).half(), torch.float16)
    return {name: tensor.clone() for (name, tensor), _ in zip(stream, range(most), strict=False)}


def exchange(shards: LaneShards, mine: dict[str, Tensor]) -> None:
    """Streams, numbers, and a rank that leaves a stream before its end."""
    expected = {name: (tensor / 2).half() for name, tensor in WHOLE.items()}
    for most in (9, 2 if shards.lane.place else 9, 9):
        found = halved(shards, mine, most)
        assert list(found) == list(SIZES)[:most]
        assert all(torch.equal(found[name], expected[name]) for name in found)
    sums = {name: float(tensor.sum()) for name, tensor in shards.held(mine.items()).items()}
    assert sums
    assert shards.gathered(sums) == {name: float(tensor.sum()) for name, tensor in WHOLE.items()}
    assert list(shards.gathered(sums)) == list(SIZES), "in the order of the centre"


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.ddp
def test_what_ranks_make_comes_to_both_in_order(tmp_path: Path) -> None:
    together(exchange, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rank-0", "rank-1"]
