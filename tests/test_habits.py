"""The lock fits pyproject.toml, and a git commit runs what ``make check`` runs."""

import importlib.metadata
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCK = ROOT / "requirements" / "cpu.lock"
EXTRAS = PROJECT["optional-dependencies"]
ASKED = [Requirement(line) for line in [*PROJECT["dependencies"], *EXTRAS["cpu"], *EXTRAS["dev"]]]
UNWANTED = {"torchvision", "torchaudio", "torchcodec"}  # beside a CPU torch they break `import transformers`


def _make(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A make that neither installs anything nor hears what a make around these tests was told."""
    told = ("MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "EXTRA", "LOCKED", "VENV")
    environment = {name: value for name, value in os.environ.items() if name not in told}
    command = ["make", "--no-print-directory", "--old-file=install", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def _pins(lock: Path) -> dict[str, str]:
    lines = [line for line in lock.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    assert lines == sorted(lines, key=lambda line: line.partition("==")[0])
    pins = [Requirement(line) for line in lines]
    for pin in pins:
        (bound,) = pin.specifier
        assert bound.operator == "==", pin
        assert not bound.version.endswith(".*"), pin
    assert len({pin.name for pin in pins}) == len(pins)
    return {pin.name: next(iter(pin.specifier)).version for pin in pins}


@pytest.mark.parametrize("requirement", ASKED, ids=str)
def test_the_lock_has_a_version_that_the_project_allows(requirement: Requirement) -> None:
    version = _pins(LOCK).get(canonicalize_name(requirement.name))
    assert version is not None, f"{requirement} is not in {LOCK.name}: run `make lock`"
    assert requirement.specifier.contains(version, prereleases=True), f"{version}: run `make lock`"


def test_the_lock_has_neither_the_project_nor_what_breaks_it() -> None:
    assert _pins(LOCK).keys().isdisjoint(UNWANTED | {"es-lightning"})


def test_make_lock_writes_what_is_installed(tmp_path: Path) -> None:
    if any(not _installed(requirement.name) for requirement in ASKED):
        pytest.skip("another flavour than cpu is installed")
    lock = tmp_path / "cpu.lock"
    done = _make("lock", f"VENV={sys.prefix}", f"LOCK={lock}")
    assert done.returncode == 0, done.stderr
    pins = _pins(lock)
    assert {canonicalize_name(requirement.name) for requirement in ASKED} < pins.keys()
    assert pins == {name: importlib.metadata.version(name) for name in pins}
    assert pins.keys().isdisjoint(UNWANTED | {"es-lightning", "pip"})
    assert "docstring-parser" in pins, "jsonargparse asks for it in its extra `signatures`"


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def test_the_lock_is_for_one_flavour() -> None:
    done = _make("--dry-run", "install", "LOCKED=1", "EXTRA=gpu")
    assert done.returncode != 0
    assert "LOCKED=1 is for EXTRA=cpu alone" in done.stderr


def test_a_locked_install_takes_the_lock_alone(tmp_path: Path) -> None:
    done = _make("--dry-run", f"{tmp_path}/.installed-cpu", "LOCKED=1", f"VENV={tmp_path}")
    installs = [line for line in done.stdout.splitlines() if "pip" in line and " install " in line]
    assert installs, done.stderr
    assert all("--no-deps" in line for line in installs)


def test_an_environment_without_the_lock_is_installed_again(tmp_path: Path) -> None:
    stamp = tmp_path / ".installed-cpu"
    for written, again in (("", True), ("locked", False)):
        stamp.write_text(f"{written}\n")
        commands = _make("--dry-run", f"{stamp}", "LOCKED=1", f"VENV={tmp_path}").stdout
        assert ("--no-deps" in commands) == again
    assert "--no-deps" not in _make("--dry-run", f"{stamp}", f"VENV={tmp_path}").stdout


def test_a_commit_runs_what_make_check_runs() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    (repository,) = config["repos"]
    assert repository["repo"] == "local", "nothing is fetched"
    hooks = repository["hooks"]
    assert {(hook["language"], hook["pass_filenames"]) for hook in hooks} == {("system", False)}
    check = _make("--dry-run", "check", "VENV=.venv")
    assert [hook["entry"] for hook in hooks] == check.stdout.splitlines(), check.stderr


@pytest.mark.parametrize("target", ["install", "check", "lint", "types", "layers", "format", "hooks", "lock"])
def test_make_help_lists(target: str) -> None:
    lines = _make("help").stdout.splitlines()
    assert any(line.split()[:2] == ["make", target] for line in lines)
