"""Functions of yours as rewards: found by their dotted path, called with the columns that they take."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

from es_lightning.errors import UsageError
from es_lightning.records import Prompt


def attempt(function: Callable[..., Any], prompt: Prompt, text: str) -> Any:
    """What a function returns for one completion, or what it raises."""
    try:
        return function(prompt.text, text, **wanted(function, prompt.reference))
    except Exception as error:
        return error


def find(path: str) -> Callable[..., Any]:
    """The function behind a dotted path.

    Raises:
        UsageError: there is none.
    """
    module, _, name = path.rpartition(".")
    try:
        attribute: Any = getattr(import_module(module), name) if module.strip(".") else None
    except Exception as error:  # also what the module itself raises while it is imported
        raise UsageError(
            f"rewards: {path} cannot be imported ({error}). Give module.function, from the working folder or "
            "an installed package."
        ) from None
    if not callable(attribute):
        raise UsageError(f"rewards: {path} is no function. Give module.function, such as my_rewards.exact.")
    function: Callable[..., Any] = attribute
    return function


def names_of(functions: Sequence[Callable[..., Any]]) -> list[str]:
    """What the functions' rewards are logged under; ``reward`` is taken by their sum.

    Raises:
        UsageError: a function is listed twice.
    """
    names: list[str] = []
    for i, function in enumerate(functions):
        name = name_of(function)
        if name == "reward" or name in names:
            name = f"{getattr(function, '__module__', 'function').rpartition('.')[2]}.{name}"
        if name in names or function in functions[:i]:
            raise UsageError(f"rewards: {name} is listed twice: give each function once.")
        names.append(name)
    return names


def is_async(function: Callable[..., Any]) -> bool:
    """Whether a call must be awaited."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def name_of(function: Callable[..., Any]) -> str:
    """Its own name, or its class's."""
    return str(getattr(function, "__name__", type(function).__name__))


def _parameters(function: Callable[..., Any]) -> tuple[dict[str, bool], bool]:
    """Names behind prompt and completion, each with whether it is needed; and whether any other is taken."""
    parameters = list(inspect.signature(function).parameters.values())[2:]
    plain = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return {p.name: p.default is p.empty for p in plain}, any(p.kind == p.VAR_KEYWORD for p in parameters)


def wanted(function: Callable[..., Any], columns: Mapping[str, Any]) -> dict[str, Any]:
    """Those columns that a function takes."""
    names, takes_all = _parameters(function)
    return {key: value for key, value in columns.items() if takes_all or key in names}


def check_columns(function: Callable[..., Any], columns: Mapping[str, Any]) -> None:
    """Make sure that a row has what a function cannot do without, and nothing that gets in its way.

    Raises:
        UsageError: a column is missing, or called like one of the two texts.
    """
    texts = list(inspect.signature(function).parameters.values())[:2]
    if len(texts) < 2 and not any(p.kind == p.VAR_POSITIONAL for p in texts):
        raise UsageError(f"reward {name_of(function)} takes no two texts: give it (prompt, completion).")
    taken = [p.name for p in texts if p.kind == p.POSITIONAL_OR_KEYWORD and p.name in columns]
    if taken and _parameters(function)[1]:
        raise UsageError(
            f"reward {name_of(function)} takes all columns of a row, but its own {taken[0]} is called like "
            "one of them: rename that parameter or the column."
        )
    missing = [name for name, needed in _parameters(function)[0].items() if needed and name not in columns]
    if missing:
        raise UsageError(
            f"reward {name_of(function)} asks for {', '.join(missing)}, but a row has {', '.join(columns)}: "
            "add the column to the data, or give the parameter a default."
        )
