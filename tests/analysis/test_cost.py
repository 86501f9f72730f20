"""The cost model's formulas against numbers by hand, and against the code that they describe."""

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from es_lightning.analysis import cost, devices
from es_lightning.analysis.cost import DEVICE_OPTIONS, Batch, Size
from es_lightning.errors import UsageError
from es_lightning.evaluation.gather import Shard, sums
from es_lightning.journal.entry import Entry
from es_lightning.records import Completion, Evaluation, Member, Prompt

SMALL = Size(494_032_768, 494_032_768, 151_936 * 896, 6_144, 14, 2)
QWEN_7B = Size(7_615_616_512, 7_615_616_512, 152_064 * 3584, 28_672, 28, 4)
QWEN_72B = Size(72_706_203_648, 72_706_203_648, 152_064 * 8192, 163_840, 64, 8)
H100 = devices.GPUS["h100"]
BATCH = Batch(128, 128, 256)
D, BANDWIDTH, FLOPS = 7.615616512e9, 3.35e12 * 0.6, 989e12 * 0.4


def test_bytes_by_hand() -> None:
    assert QWEN_7B.cache_bytes == 57_344  # 2 * 28 layers * 4 heads * 128 * 2 bytes
    assert cost.payload_bytes(64, 128, ranks=8) == 65_536 + 8 * 560
    # 8 ranks: 7/8 of 70,016 bytes, and 7 lengths of 8 bytes.
    assert cost.sent_bytes(64, 128, ranks=8) == pytest.approx(61_264 + 56)
    assert cost.sent_bytes(64, 128, ranks=1) == 0
    assert cost.reduced_bytes(QWEN_7B, 8) == pytest.approx(26.654657792e9)
    assert cost.journal_bytes(64) == 540 + 64 * 23
    assert cost.rewards_bytes(64, 128) == 163_840
    assert cost.centre_bytes(QWEN_7B) == 30_462_466_048
    assert [cost.checkpoint_bytes(QWEN_7B, s) for s in (0, 4, 8)] == [4 * D, 8 * D, 12 * D]
    assert cost.engine_bytes(QWEN_7B, 4) == D / 2
    assert cost.engine_bytes(QWEN_7B._replace(weight_bytes=4), 4) == D
    assert cost.passing_bytes(QWEN_7B) == 8 * 152_064 * 3584


def test_what_no_noise_reaches_has_no_state_and_no_update() -> None:
    half = QWEN_7B._replace(tuned=QWEN_7B.parameters // 2)
    assert cost.state_bytes(half, 8) == 4 * D
    assert cost.centre_bytes(half) == 4 * D
    assert cost.update_seconds(half, H100, 64) == pytest.approx(32 * D / 2e10)


@pytest.mark.parametrize(("k", "share"), [(1, 1), (2, 2), (4, 4), (8, 4)])
def test_a_cache_is_divided_among_key_value_heads_and_no_further(k: int, share: int) -> None:
    assert cost.cache_bytes(QWEN_7B, 128 * 384, k) == pytest.approx(2.818572288e9 / share)


@pytest.mark.parametrize(
    ("heads", "shared", "sizes"), [(14, 2, [1, 2]), (28, 4, [1, 2, 4]), (9, 3, [1]), (32, 1, [1, 2, 4, 8])]
)
def test_a_lane_cuts_no_head(heads: int, shared: int, sizes: list[int]) -> None:
    size = SMALL._replace(heads=heads, shared=shared)
    assert [k for k in (1, 2, 4, 8) if size.cuts_no_head(k)] == sizes


def test_seconds_by_hand() -> None:
    assert cost.perturb_seconds(QWEN_7B, H100, 1) == pytest.approx(D / 2e10 + 10 * D / BANDWIDTH)
    assert cost.perturb_seconds(QWEN_7B, H100, 4) == pytest.approx(D / 2e10 + 8.5 * D / BANDWIDTH)
    assert cost.load_seconds(QWEN_7B._replace(weight_bytes=4), H100, 1) == pytest.approx(16 * D / BANDWIDTH)
    assert cost.update_seconds(QWEN_7B, H100, 64) == pytest.approx(64 * D / 2e10)
    # 128 sequences of 256 tokens in cache on average; memory binds each of the 256 steps.
    step = (2 * D + 128 * 256 * 57_344) / BANDWIDTH
    prefill = 2 * D * 128 * 128 / FLOPS
    assert cost.generate_seconds(QWEN_7B, H100, 1, BATCH) == pytest.approx(prefill + 256 * step)
    # Arithmetic binds once the batch is large.
    large = Batch(8192, 1, 1)
    assert cost.generate_seconds(QWEN_7B, H100, 1, large) == pytest.approx(2 * (2 * D * 8192 / FLOPS))
    # 8 ranks, 8 lanes: 14 messages of the barrier, 7 of the ring, 8 * 3 of the broadcasts.
    gather = (65_536 + 8 * 560 + 64) / 1.25e9 + (14 + 7 + 24) * 50e-6
    assert cost.gather_seconds(H100, 64, 128, 8) == pytest.approx(gather)
    assert cost.gather_seconds(H100, 64, 128, 1) == 0


def test_an_update_that_is_shared_is_divided_and_sent() -> None:
    shared = cost.shared_update_seconds(QWEN_7B, H100, 64, 8)
    assert shared == pytest.approx(8 * D / 2e10 + 3.5 * D / 1.25e9)
    assert cost.shared_update_seconds(QWEN_7B, H100, 64, 1) == cost.update_seconds(QWEN_7B, H100, 64)


def test_scored_texts_are_read_and_not_continued() -> None:
    assert cost.generate_seconds(QWEN_7B, H100, 1, Batch(128, 100, 0)) == pytest.approx(
        2 * D * 12_800 / FLOPS
    )


def test_float32_computes_half_as_fast() -> None:
    read = Batch(128, 100, 0)
    twice = cost.generate_seconds(QWEN_7B._replace(weight_bytes=4), H100, 1, read)
    assert twice == pytest.approx(2 * cost.generate_seconds(QWEN_7B, H100, 1, read))


def test_more_sequences_than_there_is_room_for_wait_for_their_turn() -> None:
    seconds = [cost.generate_seconds(QWEN_7B, H100, 1, Batch(n, 128, 256)) for n in (20, 50)]
    assert cost.generate_seconds(QWEN_7B, H100, 1, Batch(120, 128, 256), at_once=50) == pytest.approx(
        2 * seconds[1] + seconds[0]
    )
    exact = cost.generate_seconds(QWEN_7B, H100, 1, Batch(100, 128, 256), at_once=50)
    assert exact == pytest.approx(2 * seconds[1])
    assert cost.generate_seconds(QWEN_7B, H100, 1, Batch(0, 128, 256)) == 0


def test_weights_that_are_packed_take_longer() -> None:
    packing = replace(H100, packing_rate=2.0)
    longer = cost.load_seconds(QWEN_7B, packing, 2) - cost.load_seconds(QWEN_7B, H100, 2)
    assert longer == pytest.approx(D / 2 / 2e9)


@pytest.mark.parametrize(("members", "lanes", "most"), [(64, 8, 8), (30, 8, 4), (30, 64, 1), (65, 64, 2)])
def test_the_fullest_lane_decides(members: int, lanes: int, most: int) -> None:
    assert cost.members_per_lane(members, lanes) == most


def test_larger_models_cost_more() -> None:
    growing: tuple[Callable[[Size], float], ...] = (
        lambda size: cost.checkpoint_bytes(size, 8),
        lambda size: cost.cache_bytes(size, 1000, 1),
        lambda size: cost.generate_seconds(size, H100, 1, BATCH),
        lambda size: cost.perturb_seconds(size, H100, 1),
        lambda size: cost.update_seconds(size, H100, 64),
    )
    for each in growing:
        costs = [each(size) for size in (SMALL, QWEN_7B, QWEN_72B)]
        assert costs == sorted(set(costs))


def test_a_shard_has_the_size_that_is_assumed() -> None:
    rewards = torch.linspace(0, 0.7, 4 * 128, dtype=torch.float64).view(4, 128)
    prompts = tuple(Prompt(str(i), "") for i in range(128))
    done = (Completion("four words of text", tuple(range(200)), "length"),) * 128
    scores = [tuple({"reward": r, "accuracy": 1.0, "format": r / 3} for r in row) for row in rewards.tolist()]
    total = sums(Evaluation(prompts, done, row) for row in scores)
    seconds = dict.fromkeys(("perturb", "load", "generate", "reward"), math.pi)
    packed = Shard(7, "0" * 16, "0" * 16, rewards, total, 10**6, seconds).pack()
    assert len(packed) - 8 * 4 * 128 == pytest.approx(cost.HEAD_BYTES, rel=0.15)


@pytest.mark.parametrize("size", [30, 64, 256])
def test_a_journals_line_has_the_size_that_is_assumed(size: int) -> None:
    third, names = 1 / 3, ("reward", "accuracy", "format", "completion_tokens", "completion_chars")
    line = Entry(
        generation=123,
        members=tuple(Member(n, 2**63 + n) for n in range(size)),
        weights=torch.linspace(-1.7, 1.7, size, dtype=torch.float64),
        sigma=0.001,
        hyper={"lr": 0.0005},
        reward=dict.fromkeys(("mean", "std", "min", "max"), third),
        scores=dict.fromkeys(names, third),
        tokens=1234567,
        seconds=dict.fromkeys(("perturb", "load", "generate", "reward", "gather", "update"), 12.345),
        skipped=False,
        drift=80 + third,
        checksum="0" * 16,
        rollouts=15360,
        prompt_tokens=2345678,
    ).line()
    assert len(line) == pytest.approx(cost.journal_bytes(size), rel=0.1)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("noise_rate", math.nan, "--noise_rate is nan: give a finite number above 0"),
        ("bandwidth", 0, "--bandwidth is 0: give a finite number above 0"),
        ("memory_gb", math.inf, "--memory_gb is inf: give a finite number above 0"),
        ("bandwidth_share", 1.5, "--bandwidth_share is 1.5: give a share"),
    ],
)
def test_a_device_that_no_formula_can_be_given_is_refused(name: str, value: float, words: str) -> None:
    with pytest.raises(UsageError, match=re.escape(words)):
        replace(H100, **{name: value})


# Devices ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "gigabytes", "expected"),
    [
        ("NVIDIA H100 80GB HBM3", 85.0, "h100"),
        ("NVIDIA H100 PCIe", 85.0, "h100-pcie"),
        ("NVIDIA H200", 150.1, "h200"),
        ("NVIDIA A100-SXM4-80GB", 85.1, "a100-80"),
        ("NVIDIA A100-SXM4-40GB", 42.4, "a100-40"),
        ("NVIDIA L40S", 47.7, "l40s"),
        ("NVIDIA L4", 23.6, "l4"),
        ("NVIDIA GeForce RTX 4090", 25.4, "rtx4090"),
        ("Tesla T4", 15.8, None),
    ],
)
def test_a_drivers_name_leads_to_the_device(name: str, gigabytes: float, expected: str | None) -> None:
    found = devices.like(name, int(gigabytes * 1e9))
    assert (found and found.name) == expected
    assert found is None or found.memory_gb == pytest.approx(gigabytes)


def test_every_device_has_a_source_and_the_page_lists_it() -> None:
    page = (Path(__file__).parents[2] / "docs" / "plan.md").read_text(encoding="utf-8")
    for name, device in devices.GPUS.items():
        numbers = f"{device.memory_gb:g} | {device.bandwidth:g} | {device.tflops:g}"
        assert device.name == name
        assert f"| `{name}` | {numbers} | {device.source} |" in page
    assert all(f"--{option}" in page for option in DEVICE_OPTIONS)


def test_ranks_share_a_cpu() -> None:
    one, two = devices.named("cpu"), devices.named("cpu", ranks=2)
    assert two.memory == pytest.approx(one.memory / 2)
    assert two.noise_rate == pytest.approx(one.noise_rate / 2)
    assert two.flop_per_second == pytest.approx(one.flop_per_second / 2)


def test_an_unknown_device_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(UsageError, match=r"--device is h1000: give one of h100, .*, cpu"):
        devices.named("h1000")
