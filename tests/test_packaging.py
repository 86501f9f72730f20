"""What is installed is what the repository holds, under one name each."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import es_lightning

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = PROJECT["tool"]["setuptools"]
TOP_LEVEL = ("callbacks", "configs", "tasks")  # folders that are installed as es_lightning.<folder>


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def _repository_files() -> list[Path]:
    """Text files that are, or are about to be, in the repository."""
    listing = _run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    if listing.returncode != 0:
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in listing.stdout.split("\0") if name]
    return [path for path in paths if path.is_file() and b"\0" not in path.read_bytes()]


@pytest.mark.parametrize("name", ["callbacks", "tasks"])
def test_the_short_name_refuses_import(name: str) -> None:
    result = _run(sys.executable, "-c", f"import {name}")
    assert result.returncode != 0
    assert f"import es_lightning.{name}, not {name}" in result.stderr


@pytest.mark.parametrize("name", ["callbacks", "tasks"])
def test_links_lead_to_the_folders(name: str) -> None:
    link = ROOT / "es_lightning" / name
    assert link.is_symlink(), f"{link} is no symbolic link: check out with `git config core.symlinks true`"
    assert link.readlink() == Path("..", name)


def test_every_folder_of_code_is_a_listed_package() -> None:
    inside = {path.parent for path in (ROOT / "es_lightning").rglob("*.py")}
    packages = {".".join(folder.relative_to(ROOT).parts) for folder in inside}
    packages |= {f"es_lightning.{name}" for name in TOP_LEVEL}
    outside = {path.parent for name in TOP_LEVEL for path in (ROOT / name).rglob("*.py")}
    packages |= {".".join(("es_lightning", *folder.relative_to(ROOT).parts)) for folder in outside}
    assert sorted(SETUPTOOLS["packages"]) == sorted(packages)
    assert SETUPTOOLS["package-dir"] == {f"es_lightning.{name}": name for name in TOP_LEVEL}


@pytest.mark.parametrize("name", TOP_LEVEL)
def test_every_file_of_a_top_level_package_is_installed(name: str) -> None:
    installed = set()
    for package in SETUPTOOLS["packages"]:
        if f"{package}.".startswith(f"es_lightning.{name}."):
            folder = ROOT.joinpath(*package.split(".")[1:])
            for pattern in ("*.py", *SETUPTOOLS["package-data"].get(package, [])):
                installed |= set(folder.glob(pattern))
    missing = {path for path in _repository_files() if path.is_relative_to(ROOT / name)} - installed
    assert missing == set(), "neither code of a listed package nor its package-data: not in the wheel"


def test_every_template_and_style_is_installed() -> None:
    package = ROOT / "es_lightning"
    data = {path for path in _repository_files() if path.is_relative_to(package) and path.suffix != ".py"}
    patterns = SETUPTOOLS["package-data"]
    installed = {
        path
        for path in data
        for pattern in patterns.get(".".join(path.parent.relative_to(ROOT).parts), [])
        if path.match(pattern)
    }
    assert data - installed == set(), "no package-data of pyproject.toml: not in the wheel"
    for name in ("models/card.md.jinja", "reports/rollout_page.html.jinja", "reports/es_lightning.mplstyle"):
        assert package / name in installed


def test_py_typed_is_installed() -> None:
    assert (ROOT / "es_lightning" / "py.typed").is_file()
    assert "py.typed" in SETUPTOOLS["package-data"]["es_lightning"]


def test_the_version_stands_in_one_place() -> None:
    assert "version" not in PROJECT["project"]
    installed = importlib.metadata.version("es-lightning")
    assert installed == es_lightning.__version__, "run `make -B install`: the installed metadata is older"


def test_the_changelog_has_this_version() -> None:
    assert f"[{es_lightning.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_every_import_is_declared() -> None:
    groups = [PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"].values()]
    declared = {_canonical(re.match(r"[\w-]+", line)[0]) for group in groups for line in group}
    distributions = importlib.metadata.packages_distributions()
    undeclared = {
        root
        for root in _imported_roots() - {"es_lightning", *sys.stdlib_module_names}
        if declared.isdisjoint(_canonical(name) for name in [root, *distributions.get(root, [])])
    }
    assert undeclared == set(), "imported, but not a dependency in pyproject.toml"


def _canonical(name: str) -> str:
    return name.lower().replace("_", "-")


def _imported_roots() -> set[str]:
    roots = set()
    for folder in ("es_lightning", "callbacks", "tasks"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    roots |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module:
                    roots.add(node.module.partition(".")[0])
    return roots


def test_the_command_is_installed() -> None:
    (command,) = importlib.metadata.entry_points(group="console_scripts", name="es-lightning")
    assert command.value == "es_lightning.cli:main"
    assert Path(sys.executable).with_name("es-lightning").is_file()


def test_python_m_es_lightning_shows_its_help() -> None:
    result = _run(sys.executable, "-m", "es_lightning", "--help")
    assert result.returncode == 0, result.stderr
    assert "fit" in result.stdout


# Groups in them keep the patterns from matching themselves.
MACHINE_PATH = re.compile(r"(?:file://|(?<![\w.~$}/-]))/(?:work|root|home|Users|opt)/")
REGISTRY_HOST = re.compile(r"(?:pypi|pythonhosted|npmjs)\.(?:org|com|io)", re.IGNORECASE)


def test_no_file_names_a_machine_or_a_registry() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in _repository_files()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if MACHINE_PATH.search(line) or REGISTRY_HOST.search(line)
    ]
    assert found == []


@pytest.mark.parametrize("text", ["see /{}/run", "file:///{}/run", "({}.org)"])
def test_the_scan_finds_what_it_looks_for(text: str) -> None:
    line = text.format("pypi" if ".org" in text else "home")
    assert MACHINE_PATH.search(line) or REGISTRY_HOST.search(line)
