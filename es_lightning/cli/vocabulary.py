"""Which words may stand where, read from the signatures that the options come from."""

from __future__ import annotations

import inspect
from abc import ABC
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

Sections = Mapping[str, type]
"""First parts of the options, each with the class whose arguments are its second parts."""


def hint(sections: Sections, key: str) -> Any:
    """Return the type of an option, such as that of ``model.engine``; None if there is no such option."""
    section, _, name = key.partition(".")
    return _hints(sections[section]).get(name) if section in sections else None


def options_of(owner: type) -> list[str]:
    """Return the arguments of a class, with those that it passes on to the classes that it extends."""
    names: list[str] = []
    for kind in owner.__mro__:
        if "__init__" in vars(kind):
            parameters = list(inspect.signature(vars(kind)["__init__"]).parameters.values())[1:]
            variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
            names += [each.name for each in parameters if each.kind not in variable]
            if not any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters):
                break
    return names


def classes(kind: Any) -> list[type]:
    """Return the classes that a type may have an object of: of its union, its list, or what it returns."""
    if inspect.isclass(kind):
        return [] if kind.__module__ in ("builtins", "typing") else [kind]
    parts = get_args(kind)
    if parts and isinstance(parts[0], list):  # a callable: what it returns
        parts = parts[1:]
    return [found for part in parts for found in classes(part)]


def plug_ins(kind: Any) -> dict[str, type]:
    """Return the classes whose names may stand for a value of a type, by their short names."""
    return {
        each.__name__: each
        for base in classes(kind)
        for each in _family(base)
        if ABC not in each.__bases__ and not inspect.isabstract(each) and not each.__name__.startswith("_")
    }


def choices(owner: type, option: str) -> list[str]:
    """Return the values of an option that is a choice among literals; none if it is not."""
    kind = _hints(owner).get(option)
    return [str(value) for value in get_args(kind)] if get_origin(kind) is Literal else []


def _hints(owner: type) -> dict[str, Any]:
    try:
        return get_type_hints(owner.__init__)  # type: ignore[misc]
    except NameError:  # a name that its module imports for type checkers alone
        return {}


def _family(base: type) -> Iterator[type]:
    yield base
    children: list[type] = type.__subclasses__(base)
    for child in children:
        yield from _family(child)
