"""What a device has to hold, by hand, and the options that make a run fit."""

from dataclasses import replace

import pytest

from es_lightning.analysis import devices
from es_lightning.analysis.cost import Batch, Size
from es_lightning.analysis.plan import Plan, Run
from es_lightning.analysis.room import Case, Engine
from es_lightning.analysis.ways import ways_out
from es_lightning.errors import UsageError

D = 7_615_616_512
QWEN_7B = Size(D, D, 152_064 * 3584, 28_672, 28, 4)
H100 = devices.GPUS["h100"]
VLLM = Engine(1, fraction=0.5, most=1024)
CASE = Case(QWEN_7B, H100, VLLM, 0.0, sequences=200, tokens=1162.0, context=650.0, longest=1200.0)
RUN = Run(
    {30: 500},
    200,
    [Batch(200, 138, 1024)],
    20,
    [Batch(100, 138, 1024)],
    2,
    [Batch(50, 138, 1024)],
    1200,
    1024,
)
PLAN = Plan(RUN, QWEN_7B, H100, 8, 8, VLLM, start_seconds=120, dollars_per_hour=2.5)


def _sizes(case: Case) -> dict[str, float]:
    return {part.what: part.size for part in case.parts}


def test_parts_by_hand() -> None:
    assert _sizes(CASE) == {
        "centre, float32": 4 * D,
        "optimizer's state": 0,
        "two tensors like the largest": 8 * 152_064 * 3584,
        "engine's weights": 2 * D,
        "engine's key-value cache": 40e9 - 2 * D - 4e9,
        "context, graphs, activations": 4e9,
    }
    # vLLM's half of the device, and what stands beside it.
    assert CASE.total == pytest.approx(40e9 + 4 * D + 8 * 152_064 * 3584)
    assert not CASE.problems()
    fixed = replace(CASE, engine=replace(VLLM, cache_gib=10), state=8.0)
    assert _sizes(fixed)["engine's key-value cache"] == 10 * 2**30
    assert _sizes(fixed)["optimizer's state"] == 8 * D
    needed = replace(CASE, engine=Engine(2, batch_size=16, samples=2))
    assert _sizes(needed)["engine's key-value cache"] == 32 * 1162 * 57_344 / 2
    assert _sizes(needed)["engine's weights"] == D


def test_how_many_sequences_are_held_at_once() -> None:
    assert CASE.held == 200  # there are no more
    cache = 40e9 - 2 * D - 4e9
    assert replace(CASE, sequences=5000).held == int(cache / (650 * 57_344))
    assert replace(CASE, sequences=5000, engine=replace(VLLM, most=256)).held == 256
    assert replace(CASE, engine=Engine(batch_size=16, samples=2)).held == 32


def test_a_cpu_counts_the_centre_against_vllms_share() -> None:
    cpu = replace(devices.named("cpu"), memory_gb=100.0)
    case = replace(CASE, device=cpu)
    assert case.cache == pytest.approx(50e9 - 2 * D - 1.5e9 - 4 * D)
    assert case.total == pytest.approx(50e9 + 8 * 152_064 * 3584)


def test_vllms_share_has_to_be_free_at_its_start() -> None:
    # 10 GiB of cache would fit, but vLLM asks for its share all the same, except on a CPU.
    case = replace(CASE, engine=replace(VLLM, fraction=0.8, cache_gib=10))
    assert case.total < H100.memory
    [problem] = case.problems()
    assert problem.startswith("vLLM starts only if memory_fraction 0.8 of the device is free, 64 GB, ")
    assert problem.endswith("but beside the centre 49.5 GB are")
    assert ways_out(case, 1)[0] == "--model.engine.memory_fraction 0.6"
    assert not replace(case, device=replace(devices.named("cpu"), memory_gb=80.0)).problems()


def test_what_is_too_large_is_named() -> None:
    case = replace(CASE, engine=replace(VLLM, fraction=0.8))
    [problem] = case.problems()
    largest = "the engine's key-value cache 44.8 GB and the centre, float32 30.5 GB"
    assert problem == f"98.8 GB are needed, {largest}, and 80 GB are there"
    small = replace(CASE, engine=replace(VLLM, fraction=0.2))
    [problem] = small.problems()
    assert (
        problem == "the key-value cache of 0 GB does not hold the longest sequence, 1200 tokens (0.0688 GB)"
    )


SHARE = "--model.engine.memory_fraction"


@pytest.mark.parametrize(
    ("changes", "count", "expected"),
    [
        ({"engine": replace(VLLM, fraction=0.8)}, 1, [f"{SHARE} 0.55", f"--device h200 {SHARE} 0.75"]),
        ({"state": 8.0}, 1, ["--model.optimizer torch.optim.SGD", f"--device h200 {SHARE} 0.3"]),
        # Half of the weights on each of two devices leaves room for a cache.
        ({"device": replace(H100, memory_gb=52)}, 2, [f"--model.engine.tensor_parallel_size 2 {SHARE} 0.3"]),
        ({"device": replace(H100, memory_gb=56), "engine": Engine()}, 1, ["--model.engine.batch_size 16"]),
    ],
)
def test_ways_out_fit(changes: dict[str, object], count: int, expected: list[str]) -> None:
    case = replace(CASE, **changes)  # type: ignore[arg-type]
    assert case.problems()
    assert [way for way in ways_out(case, count) if way in expected] == expected


def test_a_smaller_model_is_the_last_way_out() -> None:
    huge = QWEN_7B._replace(parameters=10 * D, tuned=10 * D)
    [way] = ways_out(replace(CASE, size=huge), 1)
    assert way.startswith("a smaller model: ")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"fraction": 1.5}, "engine.memory_fraction is 1.5: give a number above 0 and at most 1"),
        ({"cache_gib": 0.0}, "engine.kv_cache_gib is 0.0: give a number above 0"),
        ({"ranks": 0}, "engine.tensor_parallel_size is 0: give at least 1"),
        ({"batch_size": 0}, "engine.batch_size is 0: give at least 1"),
    ],
)
def test_an_engine_that_cannot_be_is_refused(options: dict[str, float], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Engine(**options)  # type: ignore[arg-type]


# The whole run ----------------------------------------------------------------------------------------


def test_a_run_is_the_sum_of_its_parts() -> None:
    phases = {line.what: line.value for line in PLAN.generation(30)}
    assert phases["update"] == pytest.approx(30 * D / 2e10)
    assert phases["perturb and load"] == pytest.approx(
        4 * (D / 2e10 + 10 * D / 2.01e12)
    )  # 30 members, 8 lanes
    seconds = {line.what: line.value for line in PLAN.time}
    assert seconds["generations"] == pytest.approx(500 * sum(phases.values()))
    assert PLAN.seconds == pytest.approx(sum(seconds.values()))
    assert PLAN.device_hours == pytest.approx(8 * PLAN.seconds / 3600)
    assert PLAN.dollars == pytest.approx(2.5 * PLAN.device_hours)
    assert replace(PLAN, dollars_per_hour=None).dollars is None


def test_populations_that_grow_are_added_up() -> None:
    grown = replace(PLAN, run=replace(RUN, populations={30: 10, 60: 5}))
    each = {size: sum(line.value for line in PLAN.generation(size)) for size in (30, 60)}
    assert grown.time[1].value == pytest.approx(10 * each[30] + 5 * each[60])
    assert grown.run.generations == 15
    assert grown.run.members == 60


def test_disk_and_host_by_hand() -> None:
    disk = {part.what: part.size for part in replace(PLAN, run=replace(RUN, checkpoints=3, state=8.0)).disk}
    assert disk["a checkpoint"] == 12 * D
    assert disk["checkpoints, at the most"] == 4 * 12 * D
    assert disk["exported model"] == 2 * D
    assert disk["journal"] == 500 * (540 + 23 * 30)
    assert disk["rewards, at the most"] == 500 * 20 * 30 * 200
    assert [part.size for part in PLAN.host] == [8 * 4 * D, 8 * 2.5e9]
    none = replace(PLAN, run=replace(RUN, checkpoints=0, exports=False))
    assert [part.size for part in none.disk][1:3] == [0, 0]


NEEDED = "8 ranks of a machine need 264 GB of its memory, and"


@pytest.mark.parametrize(
    ("changes", "words", "way"),
    [
        ({"engine": replace(VLLM, ranks=3), "count": 9}, "size 3 cuts a head in two", "1 or 2 or 4"),
        ({"engine": replace(VLLM, ranks=4), "count": 6}, "6 devices cannot be divided", "--count 8"),
        ({"count": 64}, "there are more lanes, 64, than members, 30", "--model.population 64"),
        ({"host_gb": 100.0}, f"{NEEDED} 100 GB are there", "--per_machine 3"),
        ({"host_gb": 20.0}, f"{NEEDED} 20 GB are there", "more memory"),
    ],
)
def test_what_cannot_work_is_said_with_a_way_out(changes: dict[str, object], words: str, way: str) -> None:
    assert not PLAN.problems()
    problems = replace(PLAN, **changes).problems()  # type: ignore[arg-type]
    assert words in problems[0][0]
    assert way in problems[0][1][0]
