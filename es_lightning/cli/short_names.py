"""Short names that the parser does not know by itself."""

from __future__ import annotations

from functools import cache
from typing import Any

from jsonargparse import get_loader, set_loader

from es_lightning.algorithm.shaping import SHAPINGS

NAMES = {
    "shaping": {each.__name__: f"{each.__module__}.{each.__name__}" for each in SHAPINGS},
    # Lightning has a class of this name as well, which the module does not need.
    "lr_scheduler": {"ReduceLROnPlateau": "torch.optim.lr_scheduler.ReduceLROnPlateau"},
}
"""Short names and full ones, by the last part of the option that takes them."""


def with_full_names(arguments: list[str]) -> list[str]:
    """Return arguments in which the full name stands where a short one is given.

    Args:
        arguments: the command line.
    """
    full: list[str] = []
    for word in arguments:
        option, equals, value = word.partition("=")
        last = full[-1] if full else ""
        if equals and option.startswith("--"):
            word = f"{option}={short_names(option).get(value, value)}"
        elif last.startswith("--"):
            word = short_names(last).get(word, word)
        full.append(word)
    return full


def short_names(option: str) -> dict[str, str]:
    """Return the full names that an option such as ``model.shaping`` takes, by their short ones."""
    return NAMES.get(option.removesuffix(".class_path").rpartition(".")[2], {})


@cache
def read_short_names() -> None:
    """Let config files hold the short names, too."""
    import yaml

    load = get_loader("yaml")

    def load_with_names(text: str) -> Any:
        return _full(load(text), "")

    set_loader("yaml", load_with_names, exceptions=(yaml.YAMLError,))


def _full(value: Any, key: str) -> Any:
    if isinstance(value, dict):
        return {name: _full(below, f"{key}.{name}") for name, below in value.items()}
    return short_names(key).get(value, value) if isinstance(value, str) else value
