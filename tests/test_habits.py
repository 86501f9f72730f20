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


def _installs(folder: Path, *arguments: str, fails: str = "") -> list[str]:
    """The calls that requirements/install.sh makes of pip and uv; those that hold ``fails`` fail."""
    log = folder / "calls"
    for name in ("python", "uv"):
        script = folder / name
        lines = [
            "#!/usr/bin/env bash",
            f'echo "{name} $*" >>{log}',
            f'[[ -z "$FAILS" || "{name} $*" != $FAILS ]]',
        ]
        script.write_text("\n".join(lines), encoding="utf-8")
        script.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{folder}:{os.environ['PATH']}",
        "FAILS": f"*{fails}*" if fails else "",
    }
    command = [str(ROOT / "requirements" / "install.sh"), str(folder / "python"), *arguments]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    pip = "python -m pip --disable-pip-version-check -qq"
    return [line.replace(pip, "pip") for line in log.read_text(encoding="utf-8").splitlines()]


TORCH = f"torch=={_pins(LOCK)['torch']}"


def test_a_locked_install_takes_the_lock_alone(tmp_path: Path) -> None:
    uv = f"uv pip install --quiet --python {tmp_path}/python --no-deps"
    assert _installs(tmp_path, "cpu", ".", "-e", "locked") == [
        f"pip install --no-deps {TORCH}",
        f"{uv} -r {LOCK}",
        f"{uv} -e .",
        "pip uninstall --yes torchvision torchaudio torchcodec",
    ]


def test_an_install_takes_torch_for_cpus_first_and_the_rest_with_uv(tmp_path: Path) -> None:
    uv = f"uv pip install --quiet --python {tmp_path}/python"
    assert _installs(tmp_path, "cpu", ".", "-e", "") == [
        f"pip install --no-deps {TORCH}",
        f"{uv} -e .[cpu,dev]",
        "pip uninstall --yes torchvision torchaudio torchcodec",
    ]


def test_an_install_for_gpus_leaves_torch_to_the_resolver(tmp_path: Path) -> None:
    uv = f"uv pip install --quiet --python {tmp_path}/python"
    assert _installs(tmp_path, "gpu", "some.whl", "", "") == [f"{uv} some.whl[gpu,dev]"]


def test_pip_looks_for_what_uv_cannot_find(tmp_path: Path) -> None:
    calls = _installs(tmp_path, "cpu", ".", "-e", "", fails="uv pip")
    assert calls[2] == "pip install -e .[cpu,dev]"


def test_torch_for_cpus_comes_from_its_own_index_where_no_other_has_it(tmp_path: Path) -> None:
    calls = _installs(tmp_path, "cpu", ".", "-e", "", fails=f"--no-deps {TORCH}")
    index = "--index-url https://download.pytorch.org/whl/cpu"
    assert calls[:2] == [f"pip install --no-deps {TORCH}", f"pip install --no-deps {index} {TORCH}"]


def test_an_environment_without_the_lock_is_installed_again(tmp_path: Path) -> None:
    stamp = tmp_path / ".installed-cpu"
    for written, again in (("", True), ("locked", False)):
        stamp.write_text(f"{written}\n")
        commands = _make("--dry-run", f"{stamp}", "LOCKED=1", f"VENV={tmp_path}").stdout
        assert ("install.sh" in commands) == again
    assert "'1'" not in _make("--dry-run", f"{stamp}", f"VENV={tmp_path}").stdout


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
