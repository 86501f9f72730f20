"""What the user gave, with the place of each option: for messages that say where a mistake stands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Given:
    """An option on the command line or in a file.

    Args:
        key: its dotted name; an entry of a list has its index in it, ``trainer.callbacks.0.class_path``.
        value: its value as text; None for a mapping or a list.
        place: the file and the line, or empty for the command line.
    """

    key: str
    value: str | None
    place: str


def given(arguments: Sequence[str]) -> list[Given]:
    """Return the options of a command line and of the files that it names, in their order.

    Args:
        arguments: what stands after the command.
    """
    options: list[Given] = []
    for position, word in enumerate(arguments):
        name, equals, value = word.partition("=")
        if not equals and position + 1 < len(arguments) and not arguments[position + 1].startswith("--"):
            value = arguments[position + 1]
        if name in ("-c", "--config"):
            options += [Given("config", value, ""), *_of_file(Path(value))]
        elif name.startswith("--"):
            options.append(Given(name.removeprefix("--").rstrip("+"), value, ""))
    return options


def _of_file(path: Path) -> list[Given]:
    import yaml

    with suppress(OSError, ValueError, yaml.YAMLError):  # the parser has a sentence for such a file
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        return list(_of_node(node, "", path))
    return []


def _of_node(node: object, key: str, path: Path) -> Iterator[Given]:
    import yaml

    if isinstance(node, yaml.MappingNode):
        pairs = [(name.value, name, value) for name, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        pairs = [(str(index), value, value) for index, value in enumerate(node.value)]
    else:
        return
    for name, marked, value in pairs:
        below = f"{key}.{name}" if key else str(name)
        text = value.value if isinstance(value, yaml.ScalarNode) else None
        yield Given(below, text, f"{path}, line {marked.start_mark.line + 1}: ")
        yield from _of_node(value, below, path)
