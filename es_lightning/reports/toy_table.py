"""Tables of numbers for a terminal or a pipe."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from io import StringIO
from typing import Any

from rich.console import Console
from rich.table import Table

WIDTH = 130  # of the text in a pipe

Rows = Sequence[Mapping[str, Any]]


def show(title: str, rows: Rows, below: Sequence[str] = ()) -> None:
    """Write a table to the standard output: in colours to a terminal, as plain lines to anything else.

    Args:
        title: line above the table.
        rows: each with the same keys, which are the columns' heads; none for a text alone.
        below: lines below the table.
    """
    console = Console(file=sys.stdout, highlight=False)
    if console.is_terminal:
        _print(console, title, rows, below)
        return
    written = StringIO()
    _print(Console(file=written, highlight=False, width=WIDTH, color_system=None), title, rows, below)
    sys.stdout.write("\n".join(line.rstrip() for line in written.getvalue().splitlines()) + "\n")


def _print(console: Console, title: str, rows: Rows, below: Sequence[str]) -> None:
    console.print(title, style="bold", markup=False)
    if rows:
        table = Table(box=None, pad_edge=False)
        for name in rows[0]:
            table.add_column(name, justify="right", overflow="fold")
        for row in rows:
            table.add_row(*(_text(value) for value in row.values()))
        console.print(table)
    for line in below:
        console.print(line, soft_wrap=True, markup=False)
    console.print()


def _text(value: Any) -> str:
    if isinstance(value, float):
        return "-" if value != value else f"{value:.4g}"  # nan is what was not found
    return str(value)
