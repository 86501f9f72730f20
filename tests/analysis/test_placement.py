"""Where the centre is, and what adapters, a KL penalty and a centre on the host cost: numbers by hand."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from es_lightning.algorithm.noise import GaussianNoise, LowRankNoise
from es_lightning.analysis import devices
from es_lightning.analysis.cost import Batch, Size
from es_lightning.analysis.measured import size_for, slot_rank, state_per_parameter
from es_lightning.analysis.placement import place, placed
from es_lightning.analysis.plan import Plan, Run
from es_lightning.analysis.room import Case, Engine
from es_lightning.analysis.ways import ways_out
from es_lightning.errors import UsageError
from es_lightning.models.size import ModelSize, published_size

D, M = 8_030_261_248, 128_256 * 4096  # of Llama-3.1-8B; its largest tensor is the embedding
LLAMA_8B = Size(D, D, M, 2 * 32 * 8 * 128, 32, 8)
H100, L4 = devices.GPUS["h100"], devices.GPUS["l4"]
REST = Engine(takes_rest=True, most=256)
CASE = Case(LLAMA_8B, L4, REST, 0.0, sequences=200, tokens=700.0, context=500.0, longest=500.0)


def _sizes(case: Case) -> dict[str, float]:
    return {part.what: part.size for part in case.parts}


def test_8b_on_24_gb_with_its_centre_on_the_host() -> None:
    case = placed(CASE, "auto")
    sizes = _sizes(case)
    assert sizes["engine's weights"] == 2 * D
    assert sizes["a tensor like the largest"] == 6 * M  # float32, and what becomes of it in bfloat16
    beside = sizes["engine's weights"] + sizes["a tensor like the largest"]
    assert beside == pytest.approx(19.2e9, rel=0.01)
    # What is left of 24 GB is the cache, and all of it together is the device.
    assert sizes["engine's key-value cache"] == pytest.approx(24e9 - 4e9 - 2 * D - 6 * M)
    assert case.total == pytest.approx(24e9)
    assert not case.problems()


@pytest.mark.parametrize(
    ("changes", "where", "on_host", "words"),
    [
        ({}, "auto", True, "need 56.9 GB of its 24 GB"),  # 4 D + 8 M + 2 D + 4 GB + 8 * 500 * 131 kB
        ({}, "device", False, "model.centre_device is device"),
        ({"device": H100}, "auto", False, "a cache for 8 sequences of 500 tokens need 56.9 GB of its 80 GB"),
        ({"device": H100}, "cpu", True, "model.centre_device is cpu"),
        ({"device": H100, "state": 8.0}, "auto", True, "need 121 GB of its 80 GB"),
        ({"device": H100, "longest": 32_000.0}, "auto", True, "8 sequences of 32000 tokens need 89.9 GB"),
        ({"device": H100, "engine": replace(REST, cache_gib=30.0)}, "auto", True, "80 GB are there"),
        ({"device": H100, "engine": Engine(fraction=0.8)}, "auto", True, "80 GB are there"),
        ({"device": H100, "engine": Engine(fraction=0.5)}, "auto", False, "of its 80 GB"),
        ({"device": devices.named("cpu")}, "cpu", False, "no other memory"),
    ],
)  # fmt: skip
def test_where_the_centre_is_and_why(changes: dict[str, Any], where: Any, on_host: bool, words: str) -> None:
    placement = place(replace(CASE, **changes), where)
    assert placement.on_host == on_host
    assert words in placement.why


def test_a_centre_on_the_host_is_a_way_out() -> None:
    assert ways_out(replace(CASE, device=replace(H100, memory_gb=50)), 1)[0] == "--model.centre_device cpu"


# A run ------------------------------------------------------------------------------------------------

BATCH = Batch(200, 256, 200)
RUN = Run({30: 10}, 200, [BATCH], 0, [], 0, [], 456, 256)
PLAN = Plan(RUN, LLAMA_8B, H100, 2, 2, REST, start_seconds=120, centre_device="cpu")
READ, WRITTEN = 256, 200
BYTES, FLOP, NOISE = 3.35e12 * 0.6, 989e12 * 0.4, 2e10


def _phases(plan: Plan) -> dict[str, float]:
    return {line.what: line.value for line in plan.generation(30)}


def _completing(sequences: int) -> float:
    """Seconds by hand; memory binds every step, since the batch is small."""
    step = (2 * D + sequences * (READ + WRITTEN / 2) * 131_072) / BYTES
    return 2 * D * sequences * READ / FLOP + WRITTEN * max(step, 2 * D * sequences / FLOP)


def test_a_centre_on_the_host_crosses_once_per_member_and_three_times_per_update() -> None:
    near, far = _phases(replace(PLAN, centre_device="device")), _phases(PLAN)
    # 15 members of each of two lanes; a link of 50 GB/s.
    assert far["perturb and load"] - near["perturb and load"] == pytest.approx(15 * 4 * D / 50e9)
    assert far["update"] == near["update"]
    assert far["the same on the host"] == pytest.approx(3 * 4 * D / 50e9 + 12 * D / 20e9)
    adam = replace(PLAN, run=replace(RUN, state=8.0))
    assert _phases(adam)["the same on the host"] == pytest.approx(3 * 4 * D / 50e9 + 28 * D / 20e9)
    assert [part.size for part in adam.host] == [2 * 4 * D, 2 * 8 * D, 2 * 4 * M, 2 * 2.5e9]


def test_a_machine_without_room_for_its_centres_is_refused() -> None:
    [(problem, _)] = replace(PLAN, host_gb=64).problems()
    assert problem.startswith("2 ranks of a machine need 73.4 GB of its memory")


def test_members_as_adapters_are_one_batch_beside_one_load() -> None:
    thin = 1_000_000  # rows and columns of all matrices
    engine = replace(REST, adapters=10, rank=8, most=10**6)
    device = replace(H100, memory_gb=1000)
    plan = replace(PLAN, size=LLAMA_8B._replace(thin=thin), engine=engine, device=device)
    assert _sizes(plan.case)["adapters"] == 2 * 10 * 8 * thin
    assert plan.case.sequences == 2000
    phases = _phases(plan)
    loaded = 4 * D / 50e9 + 10 * D / BYTES
    assert phases["load and adapters"] == pytest.approx(loaded + 15 * 8 * thin / NOISE)
    # 15 members of a lane: a batch of 10, and one of 5.
    assert phases["generate"] == pytest.approx((_completing(2000) + _completing(1000)) / 0.9)


def test_a_kl_penalty_reads_all_completions_twice_and_loads_the_base() -> None:
    plan = replace(PLAN, run=replace(RUN, penalised=True), centre_device="device")
    read = 2 * D * 200 * (READ + WRITTEN) / FLOP
    loaded = 10 * D / BYTES + 2 * D / 50e9  # its files have 2 bytes per parameter
    assert _phases(plan)["KL penalty, at the most"] == pytest.approx(15 * 2 * read + loaded)
    assert "KL penalty, at the most" not in _phases(PLAN)


# A lane that divides its centre -----------------------------------------------------------------------

D72, M72 = 72_706_203_648, 152_064 * 8192
QWEN_72B = Size(D72, D72, M72, 163_840, 64, 8)
LANE = replace(REST, ranks=8, most=1024)


def test_72b_on_eight_devices_of_80_gb_needs_a_centre_that_is_divided() -> None:
    whole = replace(CASE, size=QWEN_72B, device=H100, engine=LANE)
    assert whole.problems()
    divided = replace(whole, shards=8)
    sizes = _sizes(divided)
    assert sizes["centre, float32"] == 4 * D72 / 8  # 36.4 GB
    assert sizes["engine's weights"] == 2 * D72 / 8
    assert sizes["engine's key-value cache"] == pytest.approx(76e9 - 6 * D72 / 8 - 8 * M72)
    assert not divided.problems()
    assert divided.held == 200
    ways = ways_out(whole, 8)
    assert "--trainer.strategy PopulationStrategy --trainer.strategy.shard_centre true" in ways
    assert "--model.centre_device cpu" in ways


def test_a_divided_centre_crosses_the_lane_and_its_noise_is_divided() -> None:
    engine = replace(REST, ranks=2)
    plan = Plan(RUN, LLAMA_8B, H100, 4, 4, engine, 120, shards_centre=True, centre_device="device")
    phases = _phases(plan)
    # 15 members for each of two lanes, NVLink of 225 GB/s; half of the centre is read, and of the noise made.
    loaded = (4 / 2 + 2.5 * 2) * D / BYTES + 2 * D / 2 / 225e9
    assert phases["perturb and load"] == pytest.approx(15 * (D / 2 / NOISE + loaded))
    assert phases["update"] == pytest.approx(30 * D / 2 / NOISE)
    shared = _phases(replace(plan, shares_update=True))
    assert shared["update, shared"] == pytest.approx(15 * D / 2 / NOISE + 4 * D / 2 / 2 / 1.25e9)
    far = _phases(replace(plan, centre_device="cpu"))
    assert far["perturb and load"] - phases["perturb and load"] == pytest.approx(15 * 2 * D / 50e9)
    assert far["the same on the host"] == pytest.approx((12 * D / 50e9 + 12 * D / 20e9) / 2)
    # Four halves while they are loaded, and one checkpoint that is whole before it is written.
    assert plan.host[0].size == 4 * 4 * D / 2
    adam = replace(plan, run=replace(RUN, state=8))
    assert adam.host[0].size == 12 * D
    assert 12 * D in [part.size for part in replace(adam, centre_device="cpu").host]


# What is measured -------------------------------------------------------------------------------------


def test_adapters_reach_linear_layers_alone() -> None:
    measured = published_size("Llama-3.2-1B")
    size = size_for(measured, LowRankNoise(), torch.bfloat16, as_adapters=True)
    # Of each of 16 layers: q and o of 2048 x 2048, k and v of 512 x 2048, three of 8192 x 2048.
    assert size.tuned == 16 * (2 * 2048**2 + 2 * 512 * 2048 + 3 * 8192 * 2048)
    assert size.thin == 16 * (2 * 4096 + 2 * 2560 + 3 * 10_240)
    assert size.parameters == 1_235_814_400
    whole = size_for(measured, GaussianNoise(), torch.float32)
    assert (whole.tuned, whole.thin, whole.weight_bytes) == (1_235_814_400, 0, 4)


def test_ranks_are_those_that_vllm_has() -> None:
    assert [slot_rank(rank) for rank in (1, 2, 8, 9, 500)] == [1, 8, 8, 16, 512]
    with pytest.raises(UsageError, match="the noise has rank 513"):
        slot_rank(513)


def test_a_models_names_are_those_of_its_shapes() -> None:
    measured = published_size("SmolLM2-135M")
    assert isinstance(measured, ModelSize)
    assert measured.linear < measured.shapes.keys()
    assert len(measured.linear) == 30 * 7


def test_the_state_is_that_of_one_step() -> None:
    weight = nn.Parameter(torch.zeros(256, 256))
    assert state_per_parameter(torch.optim.SGD([weight], lr=0.1, momentum=0.9)) == 4
