"""What ranks report of a generation, and what becomes of it on every rank."""

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from es_lightning.errors import RankError
from es_lightning.evaluation.gather import (
    Shard,
    join,
    join_evaluations,
    pack_evaluation,
    sums,
)
from es_lightning.records import Completion, Evaluation, Prompt


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
