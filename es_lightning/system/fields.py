"""What a file's values have to be: a table of fields, and words for the first one that is wrong."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Kind:
    """What a value has to be.

    Args:
        words: it in words, for example ``a whole number``.
        fits: tells whether a value is such a one; it raises nothing, whatever the value.
    """

    words: str
    fits: Callable[[Any], bool]

    def __or__(self, other: "Kind") -> "Kind":
        """Either of two kinds."""
        return Kind(f"{self.words} or {other.words}", lambda value: self.fits(value) or other.fits(value))


def _is_integer(value: Any) -> bool:
    # True is an int in Python. No count and no seed of a run has more than 64 bits.
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**64


def _is_number(value: Any) -> bool:
    return _is_integer(value) or (isinstance(value, float) and math.isfinite(value))


NOTHING = Kind("null", lambda value: value is None)
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
TEXT = Kind("a text", lambda value: isinstance(value, str) and value != "" and "\0" not in value)
INTEGER = Kind("a whole number", _is_integer)
COUNT = Kind("a whole number from 0 on", lambda value: _is_integer(value) and value >= 0)
NUMBER = Kind("a finite number", _is_number)
POSITIVE = Kind("a number above 0", lambda value: _is_number(value) and value > 0)
MAPPING = Kind(
    "a mapping", lambda value: isinstance(value, Mapping) and all(isinstance(k, str) for k in value)
)


def list_of(kind: Kind) -> Kind:
    """A list of such values, which may be empty."""
    return Kind(
        f"a list, each item {kind.words}",
        lambda value: isinstance(value, list | tuple) and all(kind.fits(item) for item in value),
    )


def mapping_of(kind: Kind, *required: str) -> Kind:
    """A mapping from texts to such values, in which some keys have to be."""
    keys = f" with {', '.join(required)}" if required else ""
    return Kind(
        f"a mapping{keys}, each value {kind.words}",
        lambda value: (
            MAPPING.fits(value)
            and all(key in value for key in required)
            and all(kind.fits(item) for item in value.values())
        ),
    )


def like(example: Any) -> Kind:
    """The kind of a setting whose default is known; where that is None, anything but a text or a mapping."""
    if isinstance(example, bool):
        return FLAG
    if isinstance(example, int | float):
        return NUMBER
    if isinstance(example, str):
        return TEXT
    if isinstance(example, Sequence):
        kinds = [like(item) for item in example]
        return Kind(
            f"a list of {len(kinds)}",
            lambda value: (
                isinstance(value, list | tuple)
                and len(value) == len(kinds)
                and all(kind.fits(item) for kind, item in zip(kinds, value, strict=True))
            ),
        )
    return NOTHING | FLAG | NUMBER


def fault(values: Any, required: Mapping[str, Kind], optional: Mapping[str, Kind] | None = None) -> str:
    """Say what is wrong with the values of a file; the words follow the name of what holds them.

    Args:
        values: whatever the file holds.
        required: fields that have to be there, each with its kind.
        optional: fields that may be there.

    Returns:
        For example ``has no "sigma"``; empty if nothing is wrong.
    """
    if not MAPPING.fits(values):
        return f"is {kind_of(values)} and no mapping from names to values"
    for name, kind in {**required, **(optional or {})}.items():
        if name not in values:
            if name in required:
                return f'has no "{name}"'
        elif not kind.fits(values[name]):
            return f'has {short(values[name])} as "{name}", which has to be {kind.words}'
    return ""


def kind_of(value: Any) -> str:
    """The kind of a value in words, such as JSON has for it."""
    names = {list: "a list", tuple: "a list", str: "a text", bool: "true or false", type(None): "null"}
    names |= {int: "a number", float: "a number", dict: "a mapping"}
    return names.get(type(value), f"a {type(value).__name__}")


def short(value: Any, length: int = 60) -> str:
    """A value as one short line."""
    if not isinstance(value, str | int | float | None):
        items = f" of {len(value)} items" if isinstance(value, Mapping | list | tuple) else ""
        return f"{kind_of(value)}{items}"  # it may be large
    text = " ".join(repr(value).split())
    return text if len(text) <= length else f"{text[: length - 3]}..."
