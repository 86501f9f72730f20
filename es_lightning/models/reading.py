"""One sentence for each way in which a model's files can be broken."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from es_lightning.errors import UsageError
from es_lightning.models.kinds import check_kind

MOST_LAYERS = 10**4
"""More than any model has: building them would take all memory before anything else could be refused."""
LONGEST = 200


@contextmanager
def reading(what: str, folder: Path) -> Iterator[None]:
    """Turn whatever the libraries raise over a damaged file into one sentence.

    Args:
        what: is read in this block, for the message.
        folder: of the model.

    Raises:
        UsageError: something in the block failed.
    """
    try:
        yield
    except UsageError:
        raise
    except BaseException as error:
        # The tokenizers library panics on some files, with an error that is no Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise UsageError(
            f"{what} of the model in {folder} cannot be used: {_brief(error)} Get the model's files anew, or "
            "give another model.base."
        ) from error


def check_config(folder: Path) -> None:
    """Refuse a config.json that is no description of a model.

    Raises:
        UsageError: the message says what is wrong with it.
    """
    with reading("config.json", folder):
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if not isinstance(config, Mapping):
            raise ValueError(f"it holds a {type(config).__name__}, not a mapping")
        if "model_type" not in config:
            raise ValueError("it names no model_type")
        for key, value in config.items():
            if key.endswith(("_layers", "_layer")) and isinstance(value, int) and value > MOST_LAYERS:
                raise ValueError(f"{key} is {value}")
        check_kind(config, folder)


def check_links(folder: Path) -> None:
    """Refuse files that an export would copy, and that are links to a place outside the model.

    A model from somewhere else could otherwise carry any file of this machine into what is published.

    Raises:
        UsageError: the message names the first of them.
    """
    for path in copied(folder):
        if path.is_symlink() and not path.resolve().is_relative_to(_whole(folder)):
            raise UsageError(
                f"{path} is a link to {path.resolve()}, outside the model, and exports would copy that file: "
                "put the file itself there, or remove the link."
            )


def copied(folder: Path) -> list[Path]:
    """Return the files that an export takes over: configuration, tokenizer, chat template, and their code."""
    beside = {
        path
        for path in folder.iterdir()
        if path.suffix in {".json", ".jinja", ".txt", ".model", ".tiktoken"}
        and not path.name.endswith(".index.json")
        and path.is_file()
    }
    return sorted(beside | _code(folder))


def _code(folder: Path) -> set[Path]:
    """Return the Python files that ``auto_map`` names, and those that they import from beside them."""
    named = {name for path in folder.glob("*config.json") for name in _modules(path)}
    files, new = set[Path](), {folder / f"{name}.py" for name in named}
    while new := {path for path in new if path.is_file()} - files:
        from transformers.dynamic_module_utils import get_relative_imports

        files |= new
        new = {folder / f"{name}.py" for path in new for name in get_relative_imports(path)}
    return files


def _modules(path: Path) -> Iterator[str]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return  # whoever reads it for what it says will complain
    listed = content.get("auto_map") if isinstance(content, Mapping) else None
    for value in listed.values() if isinstance(listed, Mapping) else ():
        for reference in value if isinstance(value, list) else [value]:
            # Those with dashes are somewhere on the hub, and an export may go on pointing there.
            if isinstance(reference, str) and re.fullmatch(r"\w+\.\w+", reference):
                yield reference.partition(".")[0]


def _whole(folder: Path) -> Path:
    """Return the folder that holds all of a model; the hub's cache keeps files beside the snapshots."""
    real = folder.resolve()
    cached = real.parent.name == "snapshots" and (real.parents[1] / "blobs").is_dir()
    return real.parents[1] if cached else real


def _brief(error: BaseException) -> str:
    """Return the beginning of an error's message as a sentence."""
    line = " ".join(str(error).split()) or type(error).__name__
    cut = line if len(line) <= LONGEST else f"{line[:LONGEST].rsplit(' ', 1)[0]} ..."
    return cut if cut.endswith((".", "...")) else f"{cut}."
