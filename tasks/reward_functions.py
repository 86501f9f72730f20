"""Your own functions as rewards: imported by dotted path, called with the columns that they take."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from es_lightning.errors import UsageError
from es_lightning.records import Prompt
from es_lightning.system.text import printable

MESSAGES = "__messages__"
"""Column under which a prompt's reference keeps the chat messages of its row, for functions of TRL alone."""


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
    except (Exception, SystemExit) as error:  # an import runs the module, which may raise anything
        raise UsageError(
            f"rewards: {path} cannot be imported ({printable(str(error))}). Give module.function, from the "
            "working folder or an installed package."
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
    return printable(str(getattr(function, "__name__", type(function).__name__)))


def parameters_of(function: Callable[..., Any]) -> "Parameters":
    """Return how a function is called: what takes the two texts, and which columns it names."""
    parameters = list(inspect.signature(function).parameters.values())
    by_place = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    texts, more = by_place[:2], by_place[2:]
    columns = [*more, *(p for p in parameters if p.kind == p.KEYWORD_ONLY)]
    return Parameters(
        texts=tuple(p.name for p in texts if p.kind == p.POSITIONAL_OR_KEYWORD),
        takes_texts=len(texts) == 2 or any(p.kind == p.VAR_POSITIONAL for p in parameters),
        columns={p.name: p.default is p.empty for p in columns if p.kind != p.POSITIONAL_ONLY},
        takes_all=any(p.kind == p.VAR_KEYWORD for p in parameters),
        third_text=next((p.name for p in more if p.kind == p.POSITIONAL_ONLY and p.default is p.empty), ""),
    )


@dataclass(frozen=True)
class Parameters:
    """The parameters of a reward function.

    Args:
        texts: names of those that take prompt and completion, where they can also be given by name.
        takes_texts: whether two texts can be given by place.
        columns: the names of the others, and whether each is required.
        takes_all: whether there is a ``**row``.
        third_text: one that has to be given by place as well, which no column is; empty if there is none.
    """

    texts: tuple[str, ...]
    takes_texts: bool
    columns: Mapping[str, bool]
    takes_all: bool
    third_text: str


def wanted(function: Callable[..., Any], columns: Mapping[str, Any]) -> dict[str, Any]:
    """Select the columns that a function takes."""
    takes = parameters_of(function)
    given = {key: value for key, value in columns.items() if key != MESSAGES}
    return {key: value for key, value in given.items() if takes.takes_all or key in takes.columns}


def check_columns(function: Callable[..., Any], columns: Mapping[str, Any]) -> None:
    """Check that a row has all columns that a function requires, and none that clashes with its texts.

    Raises:
        UsageError: the function does not take two texts, a column is missing, or a function with ``**row``
            has a text parameter with the name of a column.
    """
    name, takes = name_of(function), parameters_of(function)
    if not takes.takes_texts or takes.third_text:
        raise UsageError(f"reward {name} takes no two texts: give it (prompt, completion).")
    taken = [text for text in takes.texts if text in columns]
    if taken and takes.takes_all:
        raise UsageError(
            f"reward {name} takes all columns of a row, but its own {taken[0]} has the name of one of them: "
            "rename that parameter or the column."
        )
    missing = [column for column, needed in takes.columns.items() if needed and column not in columns]
    if missing:
        raise UsageError(
            f"reward {name} asks for {', '.join(missing)}, but a row has {printable(', '.join(columns))}: "
            "add the column to the data, or give the parameter a default."
        )
