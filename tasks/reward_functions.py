"""Your own functions as rewards: imported by dotted path, called with the columns that they take."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

from es_lightning.errors import UsageError
from es_lightning.records import Prompt


def attempt(function: Callable[..., Any], prompt: Prompt, text: str) -> Any:
    """Return what a function returns for one completion, or the exception that it raises."""
    try:
        return function(prompt.text, text, **wanted(function, prompt.reference))
    except Exception as error:
        return error


def find(path: str) -> Callable[..., Any]:
    """Import the function at a dotted path.

    Raises:
        UsageError: there is no function at this path, or its module cannot be imported.
    """
    module, _, name = path.rpartition(".")
    try:
        attribute: Any = getattr(import_module(module), name) if module.strip(".") else None
    except Exception as error:  # an import runs the module, which may raise anything
        raise UsageError(
            f"rewards: {path} cannot be imported ({error}). Give module.function, from the working folder or "
            "an installed package."
        ) from None
    if not callable(attribute):
        raise UsageError(f"rewards: {path} is no function. Give module.function, such as my_rewards.exact.")
    function: Callable[..., Any] = attribute
    return function


def names_of(functions: Sequence[Callable[..., Any]]) -> list[str]:
    """Return the names under which the functions' rewards are logged; ``reward`` is that of their sum.

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
    """Return the name of a function, or of the class of a callable object."""
    return str(getattr(function, "__name__", type(function).__name__))


def _parameters(function: Callable[..., Any]) -> tuple[dict[str, bool], bool]:
    """Return the parameters after prompt and completion, and whether there is a ``**row``.

    The first result maps each name to whether the parameter is required.
    """
    parameters = list(inspect.signature(function).parameters.values())[2:]
    plain = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return {p.name: p.default is p.empty for p in plain}, any(p.kind == p.VAR_KEYWORD for p in parameters)


def wanted(function: Callable[..., Any], columns: Mapping[str, Any]) -> dict[str, Any]:
    """Select the columns that a function takes."""
    names, takes_all = _parameters(function)
    return {key: value for key, value in columns.items() if takes_all or key in names}


def check_columns(function: Callable[..., Any], columns: Mapping[str, Any]) -> None:
    """Check that a row has all columns that a function requires, and none that clashes with its texts.

    Raises:
        UsageError: the function does not take two texts, a column is missing, or a function with ``**row``
            has a text parameter with the name of a column.
    """
    texts = list(inspect.signature(function).parameters.values())[:2]
    if len(texts) < 2 and not any(p.kind == p.VAR_POSITIONAL for p in texts):
        raise UsageError(f"reward {name_of(function)} takes no two texts: give it (prompt, completion).")
    taken = [p.name for p in texts if p.kind == p.POSITIONAL_OR_KEYWORD and p.name in columns]
    if taken and _parameters(function)[1]:
        raise UsageError(
            f"reward {name_of(function)} takes all columns of a row, but its own {taken[0]} has the name of "
            "one of them: rename that parameter or the column."
        )
    missing = [name for name, needed in _parameters(function)[0].items() if needed and name not in columns]
    if missing:
        raise UsageError(
            f"reward {name_of(function)} asks for {', '.join(missing)}, but a row has {', '.join(columns)}: "
            "add the column to the data, or give the parameter a default."
        )
