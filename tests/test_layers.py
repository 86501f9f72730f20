"""Imports point down only: every Python file of the package is read as a syntax tree, none is run."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Bottom to top. A module imports from its own layer and from the layers below it.
LAYERS: tuple[set[str], ...] = (
    {"errors", "records"},
    {"system"},
    {"divergence", "health", "pages", "algorithm", "spool"},
    {"journal", "diagnosis", "geometry", "sigma_sweep", "mlflow_sender", "random_walk"},
    {"mlflow_logger"},
    {"keep", "run_folder"},
    {"rollout", "models", "task", "plots"},
    {"landscape"},
    {"grading", "grading_process", "grading_nursery", "grading_pool", "scoring", "metrics"},
    {"datamodule", "header", "replay", "restore", "run_journal", "shards", "distributed", "strategy"},
    {"centre_module"},
    {"evaluation_module"},
    {"population_module"},
    {"steered_module"},
    {"module"},
    {"callbacks", "tasks"},
    {"__init__", "console", "suggest"},
    {"cli", "commands"},
    {"__main__"},
)
LAYER = {module: height for height, layer in enumerate(LAYERS) for module in layer}

ALGORITHM = {"algorithm"}  # torch and the standard library
FRAMEWORKS = {"lightning", "pytorch_lightning", "torchmetrics", "transformers", "vllm", "mlflow", "torch.nn"}
TASKS_MAY_USE = {"errors", "records", "task", "scoring", "tasks"}
FORBIDDEN = {
    "tasks": {*FRAMEWORKS, *(f"es_lightning.{name}" for name in LAYER if name not in TASKS_MAY_USE)},
    "callbacks": {"es_lightning.tasks", "es_lightning.rollout", "vllm"},
}
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
}
FOLDERS = ("es_lightning", "callbacks", "tasks")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


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


def _within(name: str, packages: set[str]) -> bool:
    return any(f"{name}.".startswith(f"{package}.") for package in packages)


def _layer(module: str) -> int:
    assert module in LAYER, f"es_lightning.{module} is new: add it to LAYERS in {__file__}"
    return LAYER[module]


def _violations(module: str, source: str) -> list[str]:
    """What is wrong with the imports of ``es_lightning.<module>``, one sentence each."""
    wrong = []
    for name, when_loaded in _imports(ast.parse(source)):
        root, _, rest = name.partition(".")
        if root == "es_lightning" and rest != "__version__":
            imported = rest.partition(".")[0]
            imported = imported if imported in LAYER or _is_module(imported) else "__init__"
            if _layer(imported) > _layer(module):
                wrong.append(f"{module} imports {name}, which lies above it")
        if module in ALGORITHM and root not in {"es_lightning", "torch", *sys.stdlib_module_names}:
            wrong.append(f"{module} imports {name}; the algorithm needs torch and the standard library alone")
        if _within(name, FORBIDDEN.get(module, set())):
            wrong.append(f"{module} must not know of {name}")
        if when_loaded and root in LAZY:
            wrong.append(f"{module} imports {name} when it is loaded; import it inside what needs it")
    return wrong


def _is_module(name: str) -> bool:
    package = ROOT / "es_lightning"
    return bool(name) and ((package / name).is_dir() or (package / f"{name}.py").is_file())


def _module(path: Path) -> str:
    """The name that LAYERS has for a file: its sub-package, or else its stem."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[1] if parts[0] == "es_lightning" else parts[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    _layer(_module(path))
    assert _violations(_module(path), path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("algorithm", "from es_lightning.rollout import step"),
        ("module", "from es_lightning import cli"),
        ("datamodule", "import es_lightning"),
        ("strategy", "from es_lightning import EvolutionStrategies"),
        ("scoring", "def later():\n    from es_lightning.module import EvolutionStrategies"),
        ("algorithm", "import numpy"),
        ("algorithm", "from lightning.pytorch import LightningModule"),
        ("tasks", "import torch.nn.functional as F"),
        ("tasks", "from torch import nn"),
        ("tasks", "from es_lightning.rollout.engine import Engine"),
        ("callbacks", "from es_lightning.rollout import engine"),
        ("callbacks", "from es_lightning.tasks import Countdown"),
        ("rollout", "try:\n    import vllm\nexcept ImportError:\n    vllm = None"),
        ("cli", "class Run:\n    from mlflow.tracking import MlflowClient"),
    ],
)
def test_a_wrong_import_is_found(module: str, source: str) -> None:
    assert len(_violations(module, source)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("algorithm", "from torch import nn\nfrom es_lightning.records import Member\nimport math"),
        ("rollout", "def build():\n    from vllm import LLM"),
        ("rollout", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from vllm import LLM"),
        ("journal", "from es_lightning import __version__"),
        ("tasks", "import torch\nfrom es_lightning.task import Task"),
    ],
)
def test_a_right_import_passes(module: str, source: str) -> None:
    assert _violations(module, source) == []


def test_a_new_module_must_be_placed() -> None:
    with pytest.raises(AssertionError, match="add it to LAYERS"):
        _layer("brand_new")
