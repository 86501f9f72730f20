"""vLLM's changes to transformers' classes, kept to vLLM's own model.

Families for which vLLM has no code of its own run in transformers' code there. vLLM then gives the class a
base, a constructor and a ``__call__`` for compilation. Every other model of that class in this process, such
as the centre, could neither be made nor called any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def own_classes(model: nn.Module) -> Iterator[Callable[[nn.Module], None]]:
    """Give a function that moves what has been done to classes to subclasses for one model alone.

    Args:
        model: one of the kind that is about to be started.
    """
    classes = {type(module) for module in model.modules() if not type(module).__module__.startswith("torch.")}
    before = {each: (each.__bases__, dict(vars(each))) for each in classes}

    def separate(started: nn.Module) -> None:
        for each, (bases, attributes) in before.items():
            if each.__bases__ != bases:
                _separate(each, bases, attributes, started)

    yield separate


def _separate(kind: Any, bases: tuple[type, ...], attributes: dict[str, Any], started: nn.Module) -> None:
    changed = {name: value for name, value in vars(kind).items() if attributes.get(name) is not value}
    added = [base for base in kind.__bases__ if base not in bases]
    kind.__bases__ = bases
    for name in changed:
        if name in attributes:
            setattr(kind, name, attributes[name])
        else:
            delattr(kind, name)
    own = type(kind.__name__, (kind, *added), changed | {"__module__": kind.__module__})
    for module in started.modules():
        if type(module) is kind:
            module.__class__ = own
