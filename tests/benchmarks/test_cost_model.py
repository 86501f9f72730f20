"""The cost model's tables against numbers worked out by hand, and against their page."""

import importlib.util
import math
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from es_lightning.algorithm.noise.threefry import COMPILED_PIECE, PIECE
from es_lightning.analysis import cost

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
SIZES = {name: model.size for name, model in MODELS.items()}
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
    assert SIZES["7B"].cache_bytes == 57_344  # 2 * 28 layers * 4 heads * 128 * 2 bytes


def test_memory_by_hand() -> None:
    # engine 15.23, cache 128 * 384 * 57,344, centre 30.46, two tensors like the embedding, reserve
    by_hand = 15.231233024e9 + 2.818572288e9 + 30.462466048e9 + 2 * 4 * 152_064 * 3584 + 4e9
    assert cost_model.memory_bytes(SIZES["7B"], SETTING, 1) == pytest.approx(by_hand)
    halved = by_hand - 15.231233024e9 / 2 - 2.818572288e9 / 2
    assert cost_model.memory_bytes(SIZES["7B"], SETTING, 2) == pytest.approx(halved)


def test_the_largest_models_do_not_fit_and_say_why() -> None:
    verdicts = {name: cost_model.verdict(size, SETTING, 64) for name, size in SIZES.items()}
    fitting = dict.fromkeys(("0.5B", "1.5B", "3B", "7B", "14B"), "yes")
    assert verdicts == fitting | dict.fromkeys(("32B", "72B"), "no: the centre")
    assert cost_model.verdict(SIZES["14B"], SETTING, 1) == "no: a lane is 4 GPUs"
    assert 4 * MODELS["72B"].parameters > 3 * 80e9


@pytest.mark.parametrize("name", MODELS)
def test_a_lane_cuts_no_head(name: str) -> None:
    model = MODELS[name]
    k = cost_model.lane_size(model.size, SETTING)
    assert model.heads % k == 0
    assert model.shared % k == 0 or k % model.shared == 0


@pytest.mark.parametrize(("members", "lanes", "most"), [(64, 8, 8), (30, 8, 4), (30, 64, 1), (65, 64, 2)])
def test_the_fullest_lane_decides(members: int, lanes: int, most: int) -> None:
    setting, size = replace(SETTING, members=members), SIZES["0.5B"]
    parts = cost_model.seconds(size, setting, lanes)
    generate = cost.generate_seconds(size, setting.device, 1, setting.batch)
    assert parts["generate"] == pytest.approx(most * generate)
    assert parts["perturb"] == pytest.approx(most * cost.perturb_seconds(size, setting.device, 1))


def test_more_ranks_are_faster_but_never_in_the_update() -> None:
    parts = [cost_model.seconds(SIZES["7B"], SETTING, lanes) for lanes in (1, 2, 4, 8, 16, 32, 64)]
    totals = [sum(part.values()) for part in parts]
    assert totals == sorted(totals, reverse=True)
    assert len({part["update"] for part in parts}) == 1
    assert totals[0] / totals[-1] < 64
    sent = [cost.sent_bytes(64, 128, ranks) for ranks in (1, 2, 8, 64)]
    assert sent == sorted(sent)


def test_larger_models_cost_more() -> None:
    memory = [cost_model.memory_bytes(size, SETTING, 1) for size in SIZES.values()]
    parameters = [size.parameters for size in SIZES.values()]
    assert memory == sorted(set(memory))
    assert parameters == sorted(set(parameters))


def test_the_page_holds_what_the_script_prints(capsys: pytest.CaptureFixture[str]) -> None:
    cost_model.main([])
    begin, end = "<!-- cost model: begin -->\n", "<!-- cost model: end -->"
    table = PAGE.split(begin)[1].split(end)[0]
    assert table == capsys.readouterr().out, "run python benchmarks/cost_model.py and paste what it prints"


def test_the_pages_other_numbers_are_the_scripts() -> None:
    options = "--members 30 --prompts 200 --tokens 1024 --gpus 8 --device h200"
    setting = cost_model.setting(options.split())
    totals = [sum(cost_model.seconds(SIZES[name], setting, 8).values()) for name in ("1.5B", "3B", "7B")]
    page = " ".join(PAGE.split())
    assert f"`{options}`" in page
    assert "gives {:.0f}, {:.0f} and {:.0f} s".format(*totals) in page
    assert f"2^{math.log2(PIECE):.0f} elements in 100 microseconds" in PAGE
    assert f"up to 2^{math.log2(COMPILED_PIECE):.0f} elements" in PAGE
    assert setting.device.noise_per_second == pytest.approx(PIECE / 100e-6, rel=0.05)
    assert "## Measured here" in PAGE


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--members", "1", "--members is 1: give at least 2"),
        ("--prompts", "0", "--prompts is 0: give a finite number above 0"),
        ("--noise_rate", "nan", "--noise_rate is nan: give a finite number above 0"),
        ("--bandwidth_share", "1.5", "--bandwidth_share is 1.5: give a share"),
        ("--optimizer", "lion", "give one of sgd, momentum, adam"),
        ("--gpus", "8,many", "give whole numbers above 0, as in 1,8,64"),
        ("--tokens", "many", "--tokens: invalid int value"),
        ("--cores", "3", "unrecognized arguments: --cores"),
        ("--device", "abacus", "--device is abacus: give one of h100"),
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
    cost_model.main(["--members", "5", "--gpus", "2,3", "--optimizer", "adam", "--memory_gb", "1"])
    out = capsys.readouterr().out
    assert "5 members" in out
    assert "| 0.5B | 3 | 2 | 1 | 5 | (" in out  # nothing fits into 1 GB; of three GPUs a lane of two works
    assert out.count("| no |") == 14
