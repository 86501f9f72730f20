"""Text of others, made fit for a terminal and a log."""

import re
from typing import Any


def printable(text: str) -> str:
    r"""Write out what a terminal would obey: an escape becomes ``\x1b``; line ends and tabs stay."""
    if text.isprintable():
        return text
    return "".join(
        sign if sign.isprintable() or sign in "\n\t" else sign.encode("unicode_escape").decode()
        for sign in text
    )


def shortened(text: str, most: int = 200) -> str:
    """Cut a text that is longer than ``most`` characters, and mark the cut with three dots."""
    return text if len(text) <= most else text[: most - 3] + "..."


def metric_name(name: str) -> str:
    """Make a task's name fit into a metric's: characters that loggers do not accept become underscores."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name)


def shown(value: Any) -> str:
    """Return how a value of someone else's code looks, in one short and printable piece."""
    try:
        return printable(shortened(repr(value)))
    except Exception as error:  # __repr__ is their code as well
        return f"a {type(value).__name__} without a text ({type(error).__name__})"
