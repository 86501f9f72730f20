"""Tables of a comparison, what stands in a cell of them, and Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np

from es_lightning.analysis.comparison.differences import Difference
from es_lightning.analysis.intervals import Estimate, over

NONE = "-"
CELL = 200
"""Characters of a cell in Markdown."""


@dataclass(frozen=True)
class Table:
    """A table of texts.

    Args:
        title: above it.
        head: names of the columns.
        rows: a text for each column.
        notes: below it, what the numbers are.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


# Cells ----------------------------------------------------------------------------------------------

DIFFERENCE = ("better than the first by", "error over problems", "error over seeds")
TEST_DIFFERENCE = ("better than the first by, test",)


def number(value: float) -> str:
    """Return a number with four digits, or whole if it is large; a dash for none."""
    if not isfinite(value):
        return NONE
    return f"{value:.3g}" if abs(value) >= 1e8 else f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"


def versus(difference: Difference | None) -> list[str]:
    """Return the difference with its interval, and the standard errors of its two sources."""
    if difference is None:
        return [NONE] * 3
    errors = (difference.problems_error, difference.seeds_error)
    told = [f"{error:.3g}" if isfinite(error) else NONE for error in errors]
    return [signed(difference.estimate), *told]


def signed(estimate: Estimate) -> str:
    """Return a difference with its sign and interval."""
    if not isfinite(estimate.low):
        return f"{estimate.value:+.4g}"
    return f"{estimate.value:+.4g} ({estimate.low:+.4g} to {estimate.high:+.4g})"


def span(values: Sequence[float]) -> str:
    """Return a number, or the smallest and the largest of several."""
    ends = list(dict.fromkeys(number(pick(values)) for pick in (min, max))) if values else [NONE]
    return " to ".join(ends)


def over_seeds(values: Iterable[float]) -> str:
    """Return the mean of those values that are known, with its interval over seeds."""
    known = [value for value in values if isfinite(value)]
    return str(over(np.array(known), "seeds")) if known else NONE


# Markdown -------------------------------------------------------------------------------------------


def markdown(title: str, lines: Sequence[str], tables: Sequence[Table]) -> str:
    """Write tables as Markdown.

    Args:
        title: of the whole.
        lines: paragraphs before the tables.
        tables: their cells are escaped.
    """
    return (
        "\n\n".join([f"# {plain(title)}", *map(plain, lines), *(_markdown(each) for each in tables)]) + "\n"
    )


def _markdown(table: Table) -> str:
    rule = ["---", *("---:" for _ in table.head[1:])]
    rows = "\n".join(f"| {' | '.join(cells)} |" for cells in _cells(table, rule))
    return "\n\n".join([f"## {plain(table.title)}", rows, *map(plain, table.notes)])


def _cells(table: Table, rule: Sequence[str]) -> Iterator[Sequence[str]]:
    yield [plain(cell) for cell in table.head]
    yield rule
    yield from ([plain(cell) for cell in row] for row in table.rows)


def plain(text: str) -> str:
    """Return a text of others so that Markdown shows it as it is, on one line.

    No character of it makes a table, a link, a picture or HTML.
    """
    line = "".join(sign if sign.isprintable() else "\ufffd" for sign in " ".join(text.split()))
    line = line if len(line) <= CELL or " " in line[CELL:] else f"{line[:CELL]}..."
    return re.sub(r"([\\`*_{}\[\]<>#|~!&])", r"\\\1", line)
