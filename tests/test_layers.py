"""The structure of the package: import-linter holds the floors (``[tool.importlinter]``), this file the rest.

Files are read as syntax trees, none is run.
"""

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Slow to load, or not installed: imported inside what needs them.
LAZY = {
    "vllm",
    "mlflow",
    "trl",
    "datasets",
    "pyarrow",
    "math_verify",
    "reasoning_gym",
    "sympy",
    "cloudpickle",
    "pandas",
    "scipy",
    "matplotlib",
    "jinja2",
}
FOLDERS = ("es_lightning", "callbacks", "tasks")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
# What plug-ins extend.
CONTRACT_BASES = {"AdapterEngine", "Noise", "RolloutEngine", "Schedule", "Task", "Monitor"}


def _imports(node: ast.AST, when_loaded: bool = True) -> Iterator[tuple[str, bool]]:
    """Dotted names that a file imports, each with whether loading the file does it."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((alias.name, when_loaded) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"line {child.lineno}: import by the full name, es_lightning.something"
            yield from ((f"{child.module}.{alias.name}", when_loaded) for alias in child.names)
        else:
            later = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) or _for_types_only(child)
            yield from _imports(child, when_loaded and not later)


def _for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def _violations(module: str, source: str) -> list[str]:
    """What is wrong with the imports of ``es_lightning.<module>``, one sentence each."""
    wrong = []
    for name, when_loaded in _imports(ast.parse(source)):
        root, _, rest = name.partition(".")
        if root == "es_lightning" and not _is_module(rest.partition(".")[0]):
            wrong.append(f"{module} imports {name} from the package's front door: name the module itself")
        if module.startswith("algorithm") and root not in {"es_lightning", "torch", *sys.stdlib_module_names}:
            wrong.append(f"{module} imports {name}; the algorithm needs torch and the standard library alone")
        if module.startswith("tasks") and f"{name}.".startswith("torch.nn."):
            wrong.append(f"{module} imports {name}; tasks know nothing of models")
        if when_loaded and root in LAZY:
            wrong.append(f"{module} imports {name} when it is loaded; import it inside what needs it")
    return wrong


def _is_module(name: str) -> bool:
    package = ROOT / "es_lightning"
    return bool(name) and ((package / name).is_dir() or (package / f"{name}.py").is_file())


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removeprefix("es_lightning.")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_are_lazy_and_by_their_full_names(path: Path) -> None:
    assert _violations(_module(path), path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("datamodule", "import es_lightning"),
        ("distributed.strategy", "from es_lightning import EvolutionStrategies"),
        ("journal.header", "from es_lightning import __version__"),
        ("algorithm.shaping", "import numpy"),
        ("algorithm.update", "from lightning.pytorch import LightningModule"),
        ("tasks.math", "import torch.nn.functional as F"),
        ("tasks.math", "from torch import nn"),
        ("rollout.vllm", "try:\n    import vllm\nexcept ImportError:\n    vllm = None"),
        ("cli.command_line", "class Run:\n    from mlflow.tracking import MlflowClient"),
    ],
)
def test_a_wrong_import_is_found(module: str, source: str) -> None:
    assert len(_violations(module, source)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("algorithm.update", "from torch import nn\nfrom es_lightning.records import Member\nimport math"),
        ("rollout.vllm", "def build():\n    from vllm import LLM"),
        ("rollout.vllm", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from vllm import LLM"),
        ("tasks.math", "import torch\nfrom es_lightning.task import Task"),
    ],
)
def test_a_right_import_passes(module: str, source: str) -> None:
    assert _violations(module, source) == []


# Floors ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package's code and its contracts in a folder of their own."""
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(ROOT / "es_lightning", folder / "es_lightning", ignore=shutil.ignore_patterns("*.jsonl"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """What ``make check`` runs."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_the_floors_hold(copy: Path) -> None:
    done = lint(copy)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("algorithm/noise/base.py", "from es_lightning.rollout.engine import RolloutEngine"),
        ("module.py", "from es_lightning.cli import main"),
        ("datamodule.py", "def later():\n    from es_lightning.module import EvolutionStrategies"),
        ("grading/scorer.py", "def later():\n    from es_lightning.module import EvolutionStrategies"),
        ("algorithm/update.py", "from lightning.pytorch import LightningModule"),
        ("algorithm/update.py", "from es_lightning.models.weights import BaseWeights"),
        ("tasks/math.py", "from es_lightning.rollout.engine import RolloutEngine"),
        ("callbacks/best_model.py", "from es_lightning.rollout import engine"),
        ("callbacks/best_model.py", "from es_lightning.tasks import Countdown"),
        ("rollout/engine.py", "from es_lightning.algorithm.noise import Noise"),
        ("brand_new.py", "import math"),
    ],
)
@pytest.mark.slow
def test_a_wrong_floor_is_found(copy: Path, file: str, source: str) -> None:
    path = copy / "es_lightning" / file
    before = path.read_text(encoding="utf-8") if path.exists() else None
    path.write_text(f"{before or ''}\n{source}\n", encoding="utf-8")
    try:
        done = lint(copy)
    finally:
        path.unlink() if before is None else path.write_text(before, encoding="utf-8")
    assert done.returncode == 1, done.stdout
    assert "BROKEN" in done.stdout or "brand_new" in done.stdout


# Classes --------------------------------------------------------------------------------------------


def _classes() -> dict[str, list[str]]:
    """Each class of the package with the names of its bases."""
    return {
        node.name: [ast.unparse(base).partition("[")[0].rpartition(".")[2] for base in node.bases]
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    }


def _own_bases(name: str, classes: dict[str, list[str]]) -> set[str]:
    """All bases of a class that the package defines, but for the contracts."""
    above = {base for base in classes[name] if base in classes and base != name}
    return (above - CONTRACT_BASES).union(*(_own_bases(base, classes) for base in above))


def test_no_class_has_more_than_one_base_of_ours_above_it() -> None:
    classes = _classes()
    deep = {name: sorted(bases) for name in classes if len(bases := _own_bases(name, classes)) > 1}
    assert deep == {}, "compose instead: give the class what it needs"


def test_a_third_storey_of_classes_is_found() -> None:
    classes = {"A": ["Task"], "B": ["A"], "C": ["B"], "D": ["pl.LightningModule"], "Task": ["ABC"]}
    assert [len(_own_bases(name, classes)) for name in "ABCD"] == [0, 1, 2, 0]
