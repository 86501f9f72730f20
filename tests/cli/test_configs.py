"""Every YAML is parsed against the real signatures, and says how it is launched."""

import re
from pathlib import Path
from typing import Any

import pytest
from jsonargparse import Namespace

from es_lightning.algorithm.noise import Noise
from es_lightning.algorithm.regularisers import Regulariser
from es_lightning.algorithm.schedules import Schedule
from es_lightning.algorithm.shaping import SHAPINGS
from es_lightning.baselines.settings import BaselineSettings
from es_lightning.cli import command_line as cli
from es_lightning.cli.opened import OpenedSettings
from es_lightning.cli.short_names import read_short_names, with_full_names
from es_lightning.cli.vocabulary import plug_ins
from es_lightning.evaluation.analyze_settings import AnalyzeSettings
from es_lightning.landscape.curvature.settings import CurvatureSettings
from es_lightning.landscape.probing.probe import ProbeSettings

ROOT = Path(__file__).parents[2]
EVERY = sorted((ROOT / "configs").rglob("*.yaml"))
OTHERS = [path for path in EVERY if path.parent.name in ("probe", "curvature", "baselines", "analyze")]
SWEEPS = [path for path in EVERY if path.parent.name == "sweeps"]
CONFIGS = [path for path in EVERY if path not in (*OTHERS, *SWEEPS)]


def _named_before(recipe: Path) -> str:
    """The task's file in the line that a recipe's comment gives for launching it."""
    named = re.search(r"fit -c configs/(\w+)\.yaml -c configs/recipes/", recipe.read_text())
    assert named, f"{recipe} does not say how it is launched behind a task's YAML"
    return named[1]


BEHIND = {  # files that stand behind another one, here one that they can stand behind
    "on_cpu": "gsm8k",
    "watch": "demo",
    **{path.stem: _named_before(path) for path in CONFIGS if path.parent.name == "recipes"},
}


class Parsed(Exception):
    """Raised once a configuration is parsed, before anything is built."""


def parse(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Namespace:
    """The configuration that the command line would run with."""

    def stop(self: cli.CommandLine) -> None:
        raise Parsed(self.config)

    monkeypatch.setattr(cli.CommandLine, "before_instantiate_classes", stop)
    monkeypatch.setattr("sys.argv", ["es-lightning"])
    monkeypatch.setattr(
        "torch.accelerator.is_available", lambda: True
    )  # some files are for machines with GPUs
    read_short_names()
    with pytest.raises(Parsed) as caught:
        cli.CommandLine(args=list(arguments))
    config: Namespace = caught.value.args[0]
    return config


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_it_parses(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = [str(ROOT / "configs" / f"{BEHIND[path.stem]}.yaml")] if path.stem in BEHIND else []
    files = [part for file in (*first, str(path)) for part in ("-c", file)]
    config = parse(monkeypatch, "fit", *files).fit
    assert config.model.population >= 2
    assert config.trainer.max_steps > 0


SECTIONS = {
    "probe": ProbeSettings,
    "curvature": CurvatureSettings,
    "baselines": BaselineSettings,
    "analyze": AnalyzeSettings,
}


@pytest.mark.parametrize("path", OTHERS, ids=lambda path: path.name)
def test_a_config_of_another_command_parses_and_says_how_it_is_launched(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.accelerator.is_available", lambda: True)
    monkeypatch.setattr(OpenedSettings, "instantiate_classes", lambda self: None)
    read_short_names()
    kind, command = SECTIONS[path.parent.name], path.parent.name.removesuffix("s")
    settings = OpenedSettings(with_full_names(["-c", str(path)]), {command: kind})
    made = kind(**vars(settings.asked[command]))
    if isinstance(made, ProbeSettings):
        assert made.total >= 180
    elif isinstance(made, CurvatureSettings):
        assert made.pairs == 64
    elif isinstance(made, AnalyzeSettings):
        assert len(made.tasks) == 4
    else:
        assert made.method == path.stem
        made.check_batch(settings.asked.data.prompts_per_generation)
    comment = [line for line in path.read_text().splitlines() if line.startswith("#")]
    place = path.relative_to(ROOT).as_posix()
    assert any(re.search(rf"es-lightning {command} (runs/\w+ )?-c {place}", line) for line in comment)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_its_first_lines_say_what_it_is_and_how_to_launch_it(path: Path) -> None:
    comment = [line for line in path.read_text().splitlines() if line.startswith("#")]
    place = path.relative_to(ROOT).as_posix()
    first = f"-c configs/{BEHIND[path.stem]}.yaml " if path.stem in BEHIND else ""
    assert any(f"es-lightning fit {first}-c {place}" in line for line in comment)


def test_the_page_of_algorithms_names_every_part_and_its_example_parses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / "docs" / "algorithms.md").read_text(encoding="utf-8")
    parts = [part for base in (Noise, Schedule, Regulariser) for part in plug_ins(base).values()]
    names = [each.__name__ for each in (*parts, *SHAPINGS) if each.__module__.startswith("es_lightning.")]
    own = [name for name in names if f"`{name}`" not in page and f"`{name}(" not in page]
    assert own == ["ConstantSchedule"], "the default, which needs no line"
    [example] = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "mine.yaml").write_text(example)
    files = ["-c", str(ROOT / "configs" / "smoke_cpu.yaml"), "-c", str(tmp_path / "mine.yaml")]
    assert len(parse(monkeypatch, "fit", *files).fit.model.regularisers) == 3


def test_the_readme_lists_every_recipe() -> None:
    listed = re.findall(
        r"^\| `(\w+)\.yaml` \|", (ROOT / "README.md").read_text().split("### Recipes")[1], re.M
    )
    assert sorted(listed) == sorted(path.stem for path in CONFIGS if path.parent.name == "recipes")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("countdown", {"population": 30, "sigma": 1e-3, "base": "Qwen/Qwen2.5-3B-Instruct"}),
        ("conciseness", {"population": 30, "sigma": 1e-3, "base": "Qwen/Qwen2.5-7B-Instruct"}),
    ],
)
def test_the_papers_settings(name: str, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model = parse(monkeypatch, "fit", "-c", str(ROOT / "configs" / f"{name}.yaml")).fit.model
    assert {key: model[key] for key in expected} == expected
    assert model.optimizer.class_path == "torch.optim.SGD"
    assert model.optimizer.init_args.lr == pytest.approx(expected["sigma"] / 2)
    assert model.sampling is not None


def test_the_command_line_wins_over_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(ROOT / "configs" / "smoke_cpu.yaml")
    arguments = ("--model.sigma", "0.3", "--model.optimizer", "torch.optim.Adam", "--seed_everything", "42")
    config = parse(monkeypatch, "fit", "-c", path, *arguments, "--model.noise", "CorrelatedNoise").fit
    assert config.model.sigma == 0.3
    assert config.model.optimizer.class_path == "torch.optim.Adam"
    assert config.model.noise.class_path.endswith("CorrelatedNoise")
    assert config.model.seed == config.data.seed == 42
