"""A short name that two classes have."""

from __future__ import annotations

from functools import cache
from typing import Any

from jsonargparse import get_loader, set_loader

NAMES = {"ReduceLROnPlateau": "torch.optim.lr_scheduler.ReduceLROnPlateau"}
"""Lightning has a class of this name as well, which the module does not need."""

KEYS = ("lr_scheduler", "class_path")


def with_full_names(arguments: list[str]) -> list[str]:
    """Return arguments in which the full name stands where such a class is meant.

    Args:
        arguments: the command line.
    """
    full: list[str] = []
    for word in arguments:
        option, equals, value = word.partition("=")
        last = full[-1] if full else ""
        if equals and option.endswith(KEYS):
            word = f"{option}={NAMES.get(value, value)}"
        elif last.startswith("--") and last.endswith(KEYS):
            word = NAMES.get(word, word)
        full.append(word)
    return full


@cache
def read_short_names() -> None:
    """Let config files hold the short names, too."""
    import yaml

    load = get_loader("yaml")

    def load_with_names(text: str) -> Any:
        return _full(load(text))

    set_loader("yaml", load_with_names, exceptions=(yaml.YAMLError,))


def _full(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _full(below, name) for name, below in value.items()}
    return NAMES.get(value, value) if key in KEYS and isinstance(value, str) else value
