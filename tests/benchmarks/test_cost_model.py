"""The cost model against numbers worked out by hand, against the code it describes, and against its page."""

import importlib.util
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from es_lightning.algorithm.noise.threefry import PIECE
from es_lightning.evaluation.gather import Shard, sums
from es_lightning.journal.entry import Entry
from es_lightning.records import Completion, Evaluation, Member, Prompt

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "distributed.md").read_text(encoding="utf-8")


def load() -> ModuleType:
    """The script as a module; benchmarks are no package."""
    spec = importlib.util.spec_from_file_location("cost_model", ROOT / "benchmarks" / "cost_model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for their own module
    spec.loader.exec_module(module)
    return module


cost_model: Any = load()
MODELS = {model.name: model for model in cost_model.MODELS}
SETTING = cost_model.Setting()


def test_parameters_are_those_of_the_published_models() -> None:
    # As the model cards and files of Qwen2.5 have them, tied heads counted once.
    published = {
        "0.5B": 494_032_768,
        "1.5B": 1_543_714_304,
        "3B": 3_085_938_688,
        "7B": 7_615_616_512,
        "14B": 14_770_033_664,
        "32B": 32_763_876_352,
        "72B": 72_706_203_648,
    }
    assert {name: model.parameters for name, model in MODELS.items()} == published
    assert MODELS["7B"].cache_bytes == 57_344  # 2 * 28 layers * 4 heads * 128 * 2 bytes


def test_bytes_by_hand() -> None:
    assert 8 * SETTING.members * SETTING.prompts == 65_536
    assert cost_model.payload_bytes(SETTING, ranks=8) == 65_536 + 8 * 470
    # 8 ranks: 7/8 of 69,296 bytes, and 7 lengths of 8 bytes.
    assert cost_model.sent_bytes(SETTING, ranks=8) == pytest.approx(60_634 + 56)
    assert cost_model.sent_bytes(SETTING, ranks=1) == 0
    assert cost_model.reduced_bytes(MODELS["7B"], 8) == pytest.approx(26.654657792e9)
    assert cost_model.journal_bytes(SETTING) == 500 + 64 * 23
    checkpoints = {name: cost_model.checkpoint_bytes(MODELS["3B"], optimizer(name)) for name in STATE}
    assert checkpoints == {name: (4 + bytes_) * 3_085_938_688 for name, bytes_ in STATE.items()}


STATE = {"sgd": 0, "momentum": 4, "adam": 8}


def optimizer(name: str) -> Any:
    return replace(SETTING, optimizer=name)


def test_seconds_by_hand() -> None:
    d, bandwidth, flops = 7.615616512e9, 3.35e12 * 0.6, 989e12 * 0.4
    assert cost_model.perturb_seconds(MODELS["7B"], SETTING, 1) == pytest.approx(
        d / 2e10 + 10 * d / bandwidth
    )
    assert cost_model.update_seconds(MODELS["7B"], SETTING) == pytest.approx(64 * d / 2e10)
    # 128 sequences of 256 tokens in cache on average; memory binds each of the 256 steps.
    step = (2 * d + 128 * 256 * 57_344) / bandwidth
    prefill = 2 * d * 128 * 128 / flops
    assert cost_model.generate_seconds(MODELS["7B"], SETTING, 1) == pytest.approx(prefill + 256 * step)
    # Arithmetic binds once the batch is large.
    large = replace(SETTING, prompts=8192, prompt_tokens=1, tokens=1)
    assert cost_model.generate_seconds(MODELS["7B"], large, 1) == pytest.approx(2 * (2 * d * 8192 / flops))
    # 8 ranks, 8 lanes: 14 messages of the barrier, 7 of the ring, 8 * 3 of the broadcasts.
    gather = (65_536 + 8 * 470 + 64) / 1.25e9 + (14 + 7 + 24) * 50e-6
    assert cost_model.gather_seconds(SETTING, 8) == pytest.approx(gather)
    assert cost_model.gather_seconds(SETTING, 1) == 0


def test_memory_by_hand() -> None:
    # engine 15.23, cache 128 * 384 * 57,344, centre 30.46, gradient of the embedding, reserve
    by_hand = 15.231233024e9 + 2.818572288e9 + 30.462466048e9 + 4 * 152_064 * 3584 + 4e9
    assert cost_model.memory_bytes(MODELS["7B"], SETTING, 1) == pytest.approx(by_hand)
    halved = by_hand - 15.231233024e9 / 2 - 2.818572288e9 / 2
    assert cost_model.memory_bytes(MODELS["7B"], SETTING, 2) == pytest.approx(halved)


def test_the_largest_models_do_not_fit_and_say_why() -> None:
    verdicts = {name: cost_model.verdict(model, SETTING, 64) for name, model in MODELS.items()}
    fitting = dict.fromkeys(("0.5B", "1.5B", "3B", "7B", "14B"), "yes")
    assert verdicts == fitting | dict.fromkeys(("32B", "72B"), "no: the centre")
    assert cost_model.verdict(MODELS["14B"], SETTING, 1) == "no: a lane is 4 GPUs"
    assert 4 * MODELS["72B"].parameters > 3 * 80e9


@pytest.mark.parametrize("name", MODELS)
def test_a_lane_cuts_no_head(name: str) -> None:
    model = MODELS[name]
    k = cost_model.lane_size(model, SETTING)
    assert model.heads % k == 0
    assert model.shared % k == 0 or k % model.shared == 0


@pytest.mark.parametrize(("members", "lanes", "most"), [(64, 8, 8), (30, 8, 4), (30, 64, 1), (65, 64, 2)])
def test_the_fullest_lane_decides(members: int, lanes: int, most: int) -> None:
    setting, model = replace(SETTING, members=members), MODELS["0.5B"]
    assert cost_model.members_per_lane(setting, lanes) == most
    parts = cost_model.seconds(model, setting, lanes)
    assert parts["generate"] == pytest.approx(most * cost_model.generate_seconds(model, setting, 1))
    assert parts["perturb"] == pytest.approx(most * cost_model.perturb_seconds(model, setting, 1))


def test_more_ranks_are_faster_but_never_in_the_update() -> None:
    parts = [cost_model.seconds(MODELS["7B"], SETTING, lanes) for lanes in (1, 2, 4, 8, 16, 32, 64)]
    totals = [sum(part.values()) for part in parts]
    assert totals == sorted(totals, reverse=True)
    assert len({part["update"] for part in parts}) == 1
    assert totals[0] / totals[-1] < 64
    sent = [cost_model.sent_bytes(SETTING, ranks) for ranks in (1, 2, 8, 64)]
    assert sent == sorted(sent)


def test_larger_models_cost_more() -> None:
    growing: tuple[Callable[[Any], float], ...] = (
        lambda model: model.parameters,
        lambda model: model.cache_bytes,
        lambda model: cost_model.checkpoint_bytes(model, SETTING),
        lambda model: cost_model.memory_bytes(model, SETTING, 1),
        lambda model: cost_model.generate_seconds(model, SETTING, 1),
        lambda model: cost_model.perturb_seconds(model, SETTING, 1),
        lambda model: cost_model.update_seconds(model, SETTING),
    )
    for cost in growing:
        costs = [cost(model) for model in cost_model.MODELS]
        assert costs == sorted(set(costs))


def test_a_shard_has_the_size_that_is_assumed() -> None:
    rewards = torch.linspace(0, 0.7, 4 * 128, dtype=torch.float64).view(4, 128)
    prompts = tuple(Prompt(str(i), "") for i in range(128))
    done = (Completion("four words of text", tuple(range(200)), "length"),) * 128
    scores = [tuple({"reward": r, "accuracy": 1.0, "format": r / 3} for r in row) for row in rewards.tolist()]
    total = sums(Evaluation(prompts, done, row) for row in scores)
    seconds = dict.fromkeys(("perturb", "generate", "reward"), math.pi)
    packed = Shard(7, "0" * 16, "0" * 16, rewards, total, 10**6, seconds).pack()
    assert len(packed) - 8 * 4 * 128 == pytest.approx(cost_model.HEAD_BYTES, rel=0.15)


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
        seconds=dict.fromkeys(("perturb", "generate", "reward", "gather", "update"), 12.345),
        skipped=False,
        drift=80 + third,
        checksum="0" * 16,
    ).line()
    assert len(line) == pytest.approx(cost_model.journal_bytes(replace(SETTING, members=size)), rel=0.1)


def test_the_page_holds_what_the_script_prints(capsys: pytest.CaptureFixture[str]) -> None:
    cost_model.main([])
    begin, end = "<!-- cost model: begin -->\n", "<!-- cost model: end -->"
    table = PAGE.split(begin)[1].split(end)[0]
    assert table == capsys.readouterr().out, "run python benchmarks/cost_model.py and paste what it prints"


def test_the_pages_other_numbers_are_the_scripts() -> None:
    h200 = replace(SETTING, members=30, prompts=200, tokens=1024, gpu_gb=141.0, bandwidth=4.8)
    totals = [sum(cost_model.seconds(MODELS[name], h200, 8).values()) for name in ("1.5B", "3B", "7B")]
    assert "gives {:.0f}, {:.0f} and {:.0f} s".format(*totals) in " ".join(PAGE.split())
    assert f"2^{math.log2(PIECE):.0f} elements" in PAGE
    assert "## Measured here" in PAGE


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--members", "1", "--members is 1: give at least 2"),
        ("--prompts", "0", "--prompts is 0: give a finite number above 0"),
        ("--noise-rate", "nan", "--noise-rate is nan: give a finite number above 0"),
        ("--bandwidth-share", "1.5", "--bandwidth-share is 1.5: give a share"),
        ("--optimizer", "lion", "give one of sgd, momentum, adam"),
        ("--gpus", "8,many", "give whole numbers above 0, as in 1,8,64"),
        ("--tokens", "many", "--tokens: invalid int value"),
        ("--cores", "3", "unrecognized arguments: --cores"),
    ],
)
def test_bad_options_end_in_one_sentence(
    option: str, value: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        cost_model.main([option, value])
    assert caught.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert words in lines[0]


def test_other_settings_are_printed_as_well(capsys: pytest.CaptureFixture[str]) -> None:
    cost_model.main(["--members", "5", "--gpus", "2,3", "--optimizer", "adam", "--gpu-gb", "1"])
    out = capsys.readouterr().out
    assert "5 members" in out
    assert "| 0.5B | 3 | 2 | 1 | 5 | (" in out  # nothing fits into 1 GB; of three GPUs a lane of two works
    assert out.count("| no |") == 14
