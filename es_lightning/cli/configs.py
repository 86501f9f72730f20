"""The configs that come with the package, which ``-c`` takes by name."""

from __future__ import annotations

from importlib import resources
from pathlib import Path


def packaged_configs() -> dict[str, Path]:
    """Return the files of the installed package, by their names; of the checkout if it is not installed."""
    try:
        files = list(resources.files("es_lightning.configs").iterdir())
    except ModuleNotFoundError:
        files = list((Path(__file__).parents[2] / "configs").iterdir())
    return {each.name: Path(str(each)) for each in sorted(files, key=str) if each.name.endswith(".yaml")}


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
    if path.exists() or path.parent not in (Path(), Path("configs")):
        return name
    return str(packaged_configs().get(path.name, name))
