"""What a run will take: every shipped config has a plan, which fits and says how it was computed."""

import json
import math
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from es_lightning.analysis.placement import place
from es_lightning.analysis.plan import Plan
from es_lightning.cli import commands, entry
from es_lightning.cli.plan import made_plan
from es_lightning.cli.planned import FitSettings, optimizer_state
from es_lightning.cli.short_names import read_short_names
from es_lightning.evaluation import Rollouts
from es_lightning.evaluation.centre_place import case_of
from es_lightning.module import EvolutionStrategies
from es_lightning.reports.plan_table import Facts
from es_lightning.rollout import HFEngine, VLLMEngine
from tests.cli.test_configs import BEHIND, CONFIGS, ROOT

SMOKE = str(ROOT / "configs" / "smoke_cpu.yaml")
COUNTDOWN = str(ROOT / "configs" / "countdown.yaml")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's own folder, with this process in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(sys.path))
    monkeypatch.setattr("sys.argv", ["es-lightning"])
    read_short_names()
    return tmp_path


def settings_of(*arguments: str) -> tuple[FitSettings, Any]:
    """The fit's settings and the plan's options, from the words after ``es-lightning plan``."""
    parser = commands.plan_parser()
    own, rest = parser.divide(list(arguments))
    return FitSettings(rest), parser.read(own)


def made(*arguments: str) -> tuple[Plan, Facts]:
    """A plan, from the words after ``es-lightning plan``."""
    return made_plan(*settings_of(*arguments))


def said(capsys: pytest.CaptureFixture[str], *arguments: str, exit_code: int = 0) -> str:
    """What the command writes to the standard output."""
    capsys.readouterr()
    if exit_code:
        with pytest.raises(SystemExit) as caught:
            entry.main(["plan", *arguments])
        assert caught.value.code == exit_code
    else:
        entry.main(["plan", *arguments])
    return capsys.readouterr().out


QUICK = ("countdown", "cluster", "demo", "openai_es", "smoke_cpu")


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.name, marks=[] if path.stem in QUICK else pytest.mark.slow)
        for path in CONFIGS
    ],
)
def test_every_config_can_be_planned_and_fits(path: Path) -> None:
    first = [str(ROOT / "configs" / f"{BEHIND[path.stem]}.yaml")] if path.stem in BEHIND else []
    files = [part for file in (*first, str(path)) for part in ("-c", file)]
    is_on_cpu = "accelerator: cpu" in "".join(Path(file).read_text() for file in files[1::2])
    device = ["--device", "cpu", "--memory_gb", "16"] if is_on_cpu else ["--device", "h100"]
    settings, options = settings_of(*files, *device)
    plan, facts = made_plan(settings, options)
    assert not plan.problems()
    assert plan.run.generations == settings.asked.trainer.max_steps
    assert plan.run.populations[settings.asked.model.population] > 0
    assert all(math.isfinite(line.value) and line.value >= 0 for line in (*plan.time, *plan.generation(2)))
    assert plan.case.total <= plan.device.memory  # vLLM takes what is left
    if path.stem != "gsm8k":  # which leaves the number of test problems to the data set
        assert not [line for line in facts.left_out if "problems are not" in line]


def test_a_recipe_that_does_not_fit_says_what_would_help() -> None:
    recipe = str(ROOT / "configs" / "recipes" / "openai_es.yaml")
    device = ["--device", "a100-40", "--model.centre_device", "device"]
    [(problem, ways)] = made("-c", COUNTDOWN, "-c", recipe, *device)[0].problems()
    assert "the optimizer's state 24.7 GB" in problem
    assert ways[:2] == ["--model.centre_device cpu", "--model.optimizer torch.optim.SGD"]
    assert not made("-c", COUNTDOWN, "-c", recipe, *device[:2])[0].problems(), "auto takes the first"


def test_the_demo_takes_what_it_took(monkeypatch: pytest.MonkeyPatch) -> None:
    # Measured on 2 cores with AVX-512 BF16, and nothing else running: files of a finished run, and means of
    # the seconds in the six lines of its journal.
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1}, raising=False)
    demo = str(ROOT / "configs" / "demo.yaml")
    plan, _ = made("-c", demo, "--device", "cpu", "--prompt_tokens", "39", "--model.engine.dtype", "bfloat16")
    disk = {part.what: part.size for part in plan.disk}
    assert disk["a checkpoint"] == pytest.approx(538_189_463, rel=0.001)
    assert disk["exported model"] == pytest.approx(269_060_552, rel=0.001)
    seconds = {line.what: line.value for line in plan.generation(16)}
    measured = {"perturb and load": 12.5, "generate": 25.6, "update": 8.0}
    assert {name: seconds[name] for name in measured} == pytest.approx(measured, rel=0.2)
    # Beyond the loaded engine: the centre and two of its largest tensors, 729 MiB.
    beside = sum(part.size for part in plan.case.parts[:3])
    assert 718 < beside / 2**20 < 733
    # The journal's lines tell of 262 to 291 s of training, validations included.
    assert plan.time[1].value + plan.time[2].value == pytest.approx(291, rel=0.2)


def test_what_the_config_and_the_options_say_is_what_is_planned() -> None:
    files = ["-c", COUNTDOWN, "-c", str(ROOT / "configs" / "recipes" / "annealed.yaml")]
    options = [
        "--model.sampling.temperature",
        "1",
        "--model.sampling.n",
        "4",
        "--count",
        "16",
        "--tokens=300",
    ]
    plan, _ = made(*files, *options, "--device", "h200", "--params", "6.2B", "--dollars-per-hour", "3")
    populations = plan.run.populations
    assert (min(populations), max(populations), sum(populations.values())) == (30, 60, 500)
    assert (plan.run.train[0].sequences, plan.run.train[0].written, plan.run.new_tokens) == (800, 300, 1024)
    assert (plan.run.validations, plan.run.evaluations, plan.count, plan.per_machine) == (20, 2, 16, 8)
    assert plan.size.parameters == 6_200_000_000
    assert plan.size.cache_values == pytest.approx(
        28_672 * 6.2e9 / 7_615_616_512, rel=1e-3
    )  # as in Qwen2.5-7B
    assert plan.dollars == pytest.approx(16 * plan.seconds / 3600 * 3)
    along, _ = made(*files, *options, "--device", "h200", "--params", "6.2B", "--data.test_with_val", "true")
    assert (along.run.validations, along.run.evaluations) == (20, 22)


def test_an_update_that_is_shared_is_shorter_on_a_fast_network() -> None:
    shared = ["--trainer.strategy", "PopulationStrategy", "--trainer.strategy.share_update", "true"]
    plan, _ = made("-c", COUNTDOWN, "--device", "h100", "--count", "8", "--network", "100", *shared)
    updates = [replace(plan, shares_update=each).generation(30)[2] for each in (True, False)]
    assert plan.shares_update
    assert updates[0].what == "update, shared"
    assert updates[0].value < updates[1].value / 5


LLAMA = ["--model.base", "meta-llama/Llama-3.1-8B-Instruct"]


def test_8b_fits_24_gb_with_its_centre_in_host_memory(capsys: pytest.CaptureFixture[str]) -> None:
    out = json.loads(said(capsys, "-c", COUNTDOWN, *LLAMA, "--device", "l4", "--json"))
    assert out["fits"]
    assert out["centre"]["on_host"]
    assert "need 5" in out["centre"]["why"]
    sizes = {line["what"]: line["value"] for line in out["bytes"]["device"]}
    held = sizes["engine's weights"] + sizes["a tensor like the largest"]
    assert held == 2 * 8_030_261_248 + 6 * 128_256 * 4096  # 19.2 GB
    assert {line["what"] for line in out["bytes"]["host"]} > {"centres, float32", "optimizer's states"}
    assert [line["what"] for line in out["seconds_per_generation"]][2:4] == ["update", "the same on the host"]
    text = said(capsys, "-c", COUNTDOWN, *LLAMA, "--device", "l4")
    assert re.search(
        r"^centre +host memory  --model\.centre_device; centre, engine and a", text, re.MULTILINE
    )


ADAPTERS = ["--model.engine", "VLLMAdapterEngine", "--model.noise", "LowRankNoise"]


def test_members_as_adapters_are_planned_in_one_batch() -> None:
    plan, facts = made("-c", COUNTDOWN, *LLAMA, *ADAPTERS, "--model.noise.rank", "4", "--device", "h100")
    assert (plan.engine.adapters, plan.engine.rank) == (30, 8)
    # Of each of 32 layers: q and o of 4096 x 4096, k and v of 1024 x 4096, three of 14336 x 4096.
    assert plan.size.thin == 32 * (2 * 8192 + 2 * 5120 + 3 * 18_432)
    assert plan.size.tuned == 32 * (2 * 4096**2 + 2 * 1024 * 4096 + 3 * 14_336 * 4096)
    adapters = {part.what: part.size for part in plan.case.parts}["adapters"]
    assert adapters == 2 * 30 * 8 * plan.size.thin
    assert plan.case.sequences == 30 * plan.run.train[0].sequences
    assert not any("kl_penalty" in line for line in facts.left_out)
    two = ["--count", "2", "--model.engine.max_loras", "10"]
    assert made("-c", COUNTDOWN, *LLAMA, *ADAPTERS, "--device", "h100", *two)[0].engine.adapters == 10


def test_72b_fits_eight_devices_of_80_gb_if_a_lane_divides_its_centre() -> None:
    lane = ["--count", "8", "--model.engine.tensor_parallel_size", "8", "--model.centre_device", "device"]
    options = ["-c", COUNTDOWN, "--model.base", "Qwen/Qwen2.5-72B-Instruct", "--device", "h100", *lane]
    [(_, ways)] = made(*options)[0].problems()
    divided = "--trainer.strategy PopulationStrategy --trainer.strategy.shard_centre true"
    assert ways[0] == divided
    plan, _ = made(*options, *divided.split())
    assert not plan.problems()
    assert plan.case.shards == 8
    assert plan.case.centre == 4 * 72_706_203_648 / 8


def test_a_kl_penalty_is_a_phase_of_its_own() -> None:
    plan, _ = made("-c", COUNTDOWN, "--model.kl_penalty.weight", "0.1", "--device", "h100")
    phases = [line.what for line in plan.generation(30)]
    assert phases == ["perturb and load", "generate", "KL penalty, at the most", "update", "gather"]


def test_a_fit_puts_the_centre_where_the_plan_says(monkeypatch: pytest.MonkeyPatch) -> None:
    options = [
        "--model.base",
        "tiny",
        "--model.engine",
        "VLLMEngine",
        "--model.optimizer",
        "torch.optim.Adam",
    ]
    plan, _ = made("-c", SMOKE, *options, "--device", "h100")
    settings, _ = settings_of("-c", SMOKE, *options)
    rollouts = Rollouts(VLLMEngine("float32"), settings.model.rollouts.sampling)  # as the config has it
    for split in ("train", "val", "test"):
        rollouts.reserve(settings.model.base_model, settings.data.prompts(split))
    places = set()
    for memory in (4.0005, 4.002, 4.003, 4.004, 4.008, 80.0):  # the reserve is 4 GB, and the model is small
        free = int(memory * 1e9)
        monkeypatch.setattr(torch.accelerator, "get_memory_info", lambda *_, free=free: (free, free))
        parts = (settings.model.base_model, settings.model.noise, 8.0, plan.run.prompts, 4)
        case = case_of(rollouts, *parts, torch.device("cuda"))
        planned = replace(plan, device=replace(plan.device, memory_gb=memory))
        assert (case.size, case.longest, case.state) == (planned.size, plan.case.longest, plan.run.state)
        assert place(case, "auto").on_host == planned.case.on_host
        places.add(planned.case.on_host)
    assert places == {True, False}


def test_a_saved_config_and_a_cache_without_tokenizer_are_enough(folder: Path) -> None:
    model, rest = "model: {base: base, engine: null}", "trainer: {max_steps: 5}\nckpt_path: null"
    Path("saved.yaml").write_text(f"{model}\ndata: {{task: Countdown}}\n{rest}\n")
    Path("base").mkdir()
    config = {"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4}
    Path("base/config.json").write_text(json.dumps({**config, "intermediate_size": 96, "vocab_size": 300}))
    plan, facts = made("-c", "saved.yaml", "--device", "h100")
    assert plan.size.parameters == 2 * (4 * 64 * 64 + 3 * 64 * 96 + 2 * 64) + 64 + 2 * 300 * 64
    assert plan.engine.takes_rest  # vLLM does, as in a run without an engine
    assert "there is no tokenizer here" in facts.prompts


def test_scored_texts_are_counted_with_their_choices() -> None:
    mixture = str(ROOT / "configs" / "mixture.yaml")  # with texts that are scored, and others
    plan, _ = made("-c", mixture, "--device", "cpu", "--model.base", "tiny")
    written, scored = plan.run.train
    assert written.written == 64
    assert scored.written == 0
    assert 16 < written.sequences + scored.sequences < 16 * 5
    assert plan.run.longest >= scored.read


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda p: torch.optim.SGD(p, lr=0.1), 0),
        (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), 4),
        (lambda p: torch.optim.AdamW(p, lr=0.1), 8),
        (lambda p: torch.optim.Adam(p, lr=0.1, amsgrad=True), 12),
    ],
)
def test_an_optimizers_state_is_measured(
    make: Callable[[Any], torch.optim.Optimizer], expected: float
) -> None:
    module = EvolutionStrategies("tiny", optimizer=make, engine=HFEngine(device="cpu"))
    assert optimizer_state(module) == expected


def test_a_pipe_gets_plain_lines_and_no_folder_is_touched(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = said(capsys, "-c", COUNTDOWN, "--device", "h100", "--count", "8", "--dollars_per_hour", "2")
    lines = out.splitlines()
    assert lines[0] == "Plan for countdown.yaml: computed, not measured."
    assert lines[-1] == "It fits."
    assert "\x1b" not in out
    assert not [line for line in lines if line != line.rstrip() or len(line) > 130]
    assert re.search(r"^centre, float32 +12\.3 GB  4 d$", out, re.MULTILINE)
    assert re.search(r"^price +\d+\.\d\d dollars  device-hours \* 2$", out, re.MULTILINE)
    assert not list(folder.iterdir())


def test_a_terminal_gets_colours(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[" in said(capsys, "-c", SMOKE, "--device", "cpu")


def test_a_script_gets_json_and_the_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    fitting = json.loads(said(capsys, "-c", SMOKE, "--json", "--device", "cpu"))
    assert fitting["fits"]
    assert fitting["note"] == "computed, not measured"
    assert fitting["model"]["parameters"] == 115_264
    assert fitting["total_seconds"] == pytest.approx(sum(line["value"] for line in fitting["seconds"]))
    parts = fitting["bytes"]["device"]
    assert fitting["device_bytes"] == pytest.approx(sum(part["value"] for part in parts))
    assert all(line["formula"] for line in (*parts, *fitting["seconds"], *fitting["seconds_per_generation"]))
    share = ["--model.engine.memory_fraction", "0.9", "--model.centre_device", "device"]
    other = said(capsys, "-c", COUNTDOWN, "--json", "--device", "h100", *share, exit_code=1)
    [problem] = json.loads(other)["problems"]
    assert "80 GB are there" in problem["what"]
    assert problem["try"][0] == "--model.engine.memory_fraction 0.8"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("-c {countdown} --device h1000", "--device is h1000: give one of h100"),
        ("-c {countdown} --devise h100", "there is no option --devise. Did you mean device?"),
        ("-c {countdown} --device h100 --model.base other/model", "its size as in --params 7.6e9"),
        ("-c {countdown} --device h100 --params 7x", "7x is no number of parameters such as 7.6e9"),
        ("-c {countdown} --device h100 --noise-rate 0", "--noise_rate is 0.0: give a finite number above 0"),
        ("-c {countdown} --device h100 --count 0", "--count is 0: give a finite number above 0"),
        ("-c {countdown} --count many", "argument --count: invalid int value: 'many'"),
        ("-c {countdown} --device", "argument --device: expected one argument"),
        ("-c {countdown} --device h100 --model.populaton 3", "Did you mean model.population?"),
        ("-c {countdown} --device h100 --model.engine.memory_fraction 2", "above 0 and at most 1"),
        ("-c {countdown} --device h100 --model.centre_device gpu", "model.centre_device"),
        ("-c {countdown} --device h100 --model.engine VLLMAdapterEngine", "is not of low rank: take"),
        ("-c {countdown} --trainer.accelerator gpu", "this machine has none: give --device, one of h100"),
        ("-c {countdown} --device h100 --trainer.max_steps -1 --data.prompts_per_generation 500", "give"),
        ("-c {gsm8k} --device h100 --data.task.n_train null", "give --data.prompts_per_generation"),
        ("-c nowhere.yaml", "there is no config file nowhere.yaml"),
        ("--device h100", "give the config of a fit with -c FILE"),
    ],
)  # fmt: skip
def test_bad_input_ends_in_one_clear_line(
    arguments: str, words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    named = {"countdown": COUNTDOWN, "gsm8k": ROOT / "configs" / "gsm8k.yaml"}
    with pytest.raises(SystemExit) as caught:
        entry.main(["plan", *arguments.format(**named).split()])
    assert caught.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("es-lightning: ")]
    assert len(lines) == 1
    assert words in lines[0]


def test_a_val_split_that_is_not_here_is_said_to_be_left_out() -> None:
    gsm8k = ["-c", str(ROOT / "configs" / "gsm8k.yaml"), "--data.task.n_val", "null"]
    plan, facts = made(*gsm8k, "--device", "h100")
    assert plan.run.validations == 0
    assert any(line.startswith("validation: its problems are not on this machine") for line in facts.left_out)
