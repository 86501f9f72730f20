"""What a command imports before it does its work, and what its help says."""

import importlib.metadata
import inspect
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from es_lightning.cli import command_line, commands, entry, usage
from es_lightning.journal.replay import replay
from es_lightning.system.version import __version__

ROOT = Path(__file__).parents[2]
SLOW = ("lightning", "torch", "torchmetrics", "transformers", "mlflow", "vllm", "jsonargparse", "matplotlib")
OLD = ROOT / "tests" / "data" / "run_of_0_1_0"
RUN = """
import os, sys
os.execv = lambda *arguments: None  # where ui becomes MLflow
from es_lightning.cli import main
try:
    main(sys.argv[2:])
except SystemExit as end:
    assert end.code in (0, None), end.code
loaded = [name for name in sys.argv[1].split(",") if name in sys.modules]
assert not loaded, loaded
"""


def run(folder: Path, forbidden: tuple[str, ...], *arguments: str) -> str:
    """The output of a command that may not import some modules."""
    command = [sys.executable, "-c", RUN, ",".join(forbidden), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("", "es-lightning fit -c configs/demo.yaml"),
        ("--help", "es-lightning fit -c configs/demo.yaml"),
        ("--version", f"es-lightning {__version__}"),
        ("fit --help", "--model.sigma"),
        ("validate -c demo.yaml --help", "--data.task"),
        ("ui", "all runs"),
        ("ui --help", "--port"),
        ("fetch --help", "embedded model"),
        ("fetch", "embedded model:"),
        ("replay --help", "--journal"),
        ("plan --help", "--dollars_per_hour"),
        ("simulate --help", "--populations"),
    ],
)
def test_a_small_command_imports_nothing_slow(arguments: str, words: str, tmp_path: Path) -> None:
    cached = tmp_path / "SmolLM2-135M-Instruct" / "config.json"  # fetched before
    cached.parent.mkdir()
    cached.touch()
    os.environ["ES_LIGHTNING_CACHE"] = str(tmp_path)
    try:
        assert words in run(tmp_path, SLOW, *arguments.split())
    finally:
        del os.environ["ES_LIGHTNING_CACHE"]


@pytest.mark.slow
def test_replay_needs_no_lightning(tmp_path: Path) -> None:
    arguments = ["--journal", str(OLD / "journal.jsonl"), "--output", str(tmp_path / "out")]
    said = run(tmp_path, ("lightning", "torchmetrics", "mlflow", "vllm"), "replay", *arguments)
    assert said.startswith("starting es-lightning replay")
    assert "as recorded" in said


def test_help_of_fetch_downloads_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.path", list(sys.path))
    monkeypatch.setattr(commands, "fetch_embedded", lambda: pytest.fail("it downloads"))
    with pytest.raises(SystemExit) as caught:
        entry.main(["fetch", "--help"])
    assert caught.value.code == 0
    assert "usage: es-lightning fetch" in capsys.readouterr().out


def test_the_help_names_every_command() -> None:
    listed = re.findall(
        r"^  ([a-z][a-z-]+) ",
        usage.HELP.partition("train and evaluate:")[2].partition("examples:")[0],
        re.MULTILINE,
    )
    assert sorted(listed) == sorted([*command_line.COMMANDS, *entry.LIGHT])
    assert set(usage.HEAVY) == set(usage.WHAT) == set(command_line.COMMANDS)
    assert max(len(line) for line in usage.HELP.splitlines()) <= 110


def test_versions() -> None:
    lines = dict(line.split(maxsplit=1) for line in usage.versions().splitlines())
    assert lines["es-lightning"] == __version__
    assert lines["torch"] == importlib.metadata.version("torch")
    assert set(lines) == {"es-lightning", "lightning", "torch", "vllm", "transformers"}


def test_the_options_of_replay_are_its_arguments() -> None:
    expected = {name: one.default for name, one in inspect.signature(replay).parameters.items()}
    parser = commands.replay_parser()
    of_a_probe = {"--probe", "--candidate"}
    assert [name for name in parser.options if name not in of_a_probe] == [
        "--help",
        *(f"--{name}" for name in expected),
    ]
    optional = {name: value for name, value in expected.items() if value is not inspect.Parameter.empty}
    settings = vars(parser.read(["--journal", "a", "--output", "b"]))
    assert {name: settings[name] for name in optional} == optional


@pytest.fixture
def everything(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """The help with all options."""
    monkeypatch.setattr("sys.path", list(sys.path))
    monkeypatch.setattr("sys.argv", ["es-lightning"])
    with pytest.raises(SystemExit) as caught:
        entry.main(["fit", "--help", "all"])
    assert caught.value.code == 0
    return capsys.readouterr().out


def test_the_short_help_tells_the_truth(everything: str) -> None:
    """Every option in it exists, and the values in brackets are the defaults."""
    blocks = re.split(r"^  (?:-c CONFIG, |-h, )?--", everything, flags=re.MULTILINE)[1:]
    known = {re.split(r"[\s\[,]", block)[0]: " ".join(block.split()) for block in blocks}
    short = usage.help_of("fit")
    lines = re.findall(r"^  (?:-c, )?--([\w.]+)(.*)$", short, re.MULTILINE)
    assert len(lines) > 25
    for name, rest in lines:
        parent = name.rpartition(".")[0]
        if parent in ("model.engine", "model.sampling", "model.optimizer", "model.kl_penalty", "data.task"):
            name = parent
            rest = ""
        assert name in known, name
        stated = re.search(r"\((\w[\w.]*)\)$", rest)
        default = re.search(r"default: ([^)]*)\)", known[name])
        value = default[1].partition(", known subclasses")[0] if default else "null"
        if stated and value not in ("null", "None"):
            short = value.rpartition(".")[2] if name == "model.shaping" else value
            assert short.lower() == stated[1].lower() or f"'torch.optim.{stated[1]}'" in value, name


def test_the_long_help_leaves_out_what_has_no_effect(everything: str) -> None:
    assert "--trainer.val_check_interval" in everything
    for option in ("precision", "max_epochs", "gradient_clip_val", "accumulate_grad_batches"):
        assert f"--trainer.{option}" not in everything
    assert everything.splitlines()[0].endswith("fit -c FILE [--OPTION VALUE ...]")


def test_a_fit_says_at_once_that_it_starts(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    said = []
    monkeypatch.setattr("sys.path", list(sys.path))
    monkeypatch.setattr(command_line, "run", lambda arguments: said.append((arguments, caplog.messages[:])))
    entry.main(["fit", "-c", "demo.yaml"])
    assert said == [(["fit", "-c", "demo.yaml"], ["starting es-lightning fit -c demo.yaml ..."])]


def test_an_installed_package_finds_its_configs(tmp_path: Path) -> None:
    """As in a wheel, where configs is a folder without code inside the package."""
    place = tmp_path / "site" / "es_lightning"
    shutil.copytree(ROOT / "es_lightning", place, ignore=shutil.ignore_patterns("*.jsonl", "__pycache__"))
    shutil.copytree(ROOT / "configs", place / "configs")
    names = ["configs/demo.yaml", "demo.yaml", "configs/recipes/mezo.yaml", "mezo.yaml", "other/demo.yaml"]
    names += ["configs/probe/demo.yaml", "probe/demo.yaml", "qwen25.yaml"]
    arguments = [f"--config={name}" for name in names]
    code = f"from es_lightning.cli.configs import with_packaged as w; print(*w({arguments}))"
    environment = {**os.environ, "PYTHONPATH": str(place.parent)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)
    demo, mezo = place / "configs" / "demo.yaml", place / "configs" / "recipes" / "mezo.yaml"
    probes = [place / "configs" / "probe" / name for name in ("demo.yaml", "demo.yaml", "qwen25.yaml")]
    expected = [f"--config={path}" for path in (demo, demo, mezo, mezo, "other/demo.yaml", *probes)]
    assert done.stdout.split() == expected, done.stderr


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.long
def test_a_run_that_is_refused_late_says_its_own_lines_alone(tmp_path: Path) -> None:
    options = ["--trainer.logger", "false", "--model.optimizer", "torch.optim.LBFGS"]
    command = [sys.executable, "-W", "ignore", "-m", "es_lightning", "fit", "-c", "smoke_cpu.yaml", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 2
    said = [line for line in done.stderr.splitlines() if line.strip()]
    assert said[0].startswith("starting es-lightning fit")
    assert said[-1].startswith("es-lightning: LBFGS searches along a loss")
    assert not [line for line in said if line.startswith(("INFO", "Traceback", "GPU", "TPU", "Seed"))], said
