"""The configs that come with the package, which ``-c`` takes by name."""

from __future__ import annotations

from pathlib import Path


def packaged_files() -> list[Path]:
    """Return the files of the installed package; of the checkout if it is not installed.

    Those in no folder below ``configs`` come first: of two of one name, the first is found by the name alone.
    """
    package = Path(__file__).parents[1]
    root = next(folder / "configs" for folder in (package, package.parent) if (folder / "configs").is_dir())
    return [*sorted(root.glob("*.yaml")), *sorted(root.glob("*/*.yaml"))]


def packaged_configs() -> dict[str, Path]:
    """Return the packaged files by their names."""
    return {path.name: path for path in reversed(packaged_files())}


def with_packaged(arguments: list[str]) -> list[str]:
    """Return arguments in which ``-c demo.yaml`` names the packaged file, unless the user has such a file.

    Args:
        arguments: the command line; ``-c configs/demo.yaml``, as in a checkout, means the same.
    """
    named = {"-c", "--config"}
    before = [None, *arguments[:-1]]
    return [
        _resolved(word)
        if last in named
        else f"--config={_resolved(word.removeprefix('--config='))}"
        if word.startswith("--config=")
        else word
        for last, word in zip(before, arguments, strict=True)
    ]


def _resolved(name: str) -> str:
    path = Path(name)
    if path.exists():
        return name
    # The file's whole name in a checkout, configs/recipes/mezo.yaml, or the end of it.
    ends = f"/{path.as_posix()}"
    return next((str(each) for each in packaged_files() if f"/{each.as_posix()}".endswith(ends)), name)
