"""What your own reward functions need before they are called: what they import, and their ``prepare``."""

import dis
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from importlib.util import resolve_name
from types import CodeType, FunctionType
from typing import Any


def prepare(function: Callable[..., Any]) -> None:
    """Import what a function imports when it is called, and call its ``prepare()`` if it has one.

    Both happen once, before any completion is graded, so that no completion's time goes into them. An import
    that fails is left to the function, which may expect that.
    """
    for name in imports_of(function):
        with suppress(Exception):
            import_module(name)
    own = getattr(function, "prepare", None)
    if callable(own):
        own()


def imports_of(function: Callable[..., Any]) -> list[str]:
    """Return what a function imports when it is called, and what it names of its own module imports."""
    names: dict[str, None] = {}
    waiting, seen = list(_functions(function)), set[FunctionType]()
    while waiting:
        here = waiting.pop()
        if here not in seen:
            seen.add(here)
            for code in _codes(here.__code__):
                names |= dict.fromkeys(_imported(code, here.__globals__.get("__package__")))
                neighbours = [here.__globals__.get(name) for name in code.co_names]
                waiting += [
                    one for each in neighbours for one in _functions(each) if _are_together(one, here)
                ]
    return list(names)


def _functions(value: Any) -> Iterator[FunctionType]:
    """Yield the plain functions in a value: of a partial, a wrapped function, a class, a callable object."""
    if isinstance(value, FunctionType):
        yield value
        yield from _functions(getattr(value, "__wrapped__", None))
    elif callable(inner := getattr(value, "func", getattr(value, "__func__", None))):
        yield from _functions(inner)
    elif callable(value):
        kind = value if isinstance(value, type) else type(value)
        yield from (
            one for each in kind.__mro__ for one in vars(each).values() if isinstance(one, FunctionType)
        )


def _codes(code: CodeType) -> Iterator[CodeType]:
    """Yield some code, and that of the functions and comprehensions within it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _imported(code: CodeType, package: str | None) -> Iterator[str]:
    """Yield the modules that some code imports; ``from a import b`` may mean ``a.b`` too."""
    instructions = list(dis.get_instructions(code))
    for level, names, here in zip(instructions, instructions[1:], instructions[2:], strict=False):
        if (
            here.opname == "IMPORT_NAME"
        ):  # the two before it load how many dots there are, and what is imported
            with suppress(ImportError):  # relative, outside of a package
                module = resolve_name("." * (level.argval or 0) + here.argval, package)
                yield module
                yield from (f"{module}.{name}" for name in names.argval or () if name != "*")


def _are_together(one: FunctionType, other: FunctionType) -> bool:
    return one.__globals__ is other.__globals__
