"""A probe as a Markdown table, which a terminal shows as well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Rows = Sequence[Mapping[str, Any]]
UNKNOWN = "-"
GAINED = (
    "of headroom",
    "Gaussian null",
    "N_90",
    "null's N_90",
    "the chosen, held out",
    "over the mean candidate",
)
"""Heads of the columns beside best-of-N: see ``_gained``."""


def probe_markdown(
    rows: Rows, verdicts: Mapping[float, Sequence[str]], note: str = "", protocols: Rows = ()
) -> str:
    """Write what a probe found, one line per sigma, and below it the verdict on each.

    Args:
        rows: per sigma the columns of ``sigma_rows`` of the landscape.
        verdicts: sentences by sigma.
        note: a sentence on all of them.
        protocols: the columns of ``model_rows`` of the landscape; without any, both protocols are left out.
    """
    first = rows[0]
    headroom = "" if first["headroom"] is None else f", {first['headroom']:.4f} below the most"
    size = f"{first['parameters']:,} parameters, " if first["parameters"] else ""
    about = (
        f"{size}task {first['task'] or UNKNOWN}: {first['batches']} batches of {first['candidates']} "
        f"candidates for each sigma, {first['prompts']} prompts; the centre earns "
        f"{first['centre']:.4f}{headroom}. Changes are in units of reward; "
        "brackets and +- are 95 % intervals."
    )
    told = "\n".join(f"- sigma {sigma:g}: {'; '.join(words)}." for sigma, words in verdicts.items())
    parts = [about, _changes(rows), _best(rows), _sizes(rows), told, *([note] if note else [])]
    if protocols:
        parts += ["## Both published protocols", _protocols(protocols)]
    return "\n\n".join([f"# Probe of {first['name']}", *parts]) + "\n"


def _changes(rows: Rows) -> str:
    """The table of the changes over all candidates."""
    heads = ["sigma", "p(improve)", "exactly the same", "mean change", "median", "q 0.95", "of headroom"]
    curved = any(row["dimension"] is not None for row in rows)
    lines = [
        [
            f"{row['sigma']:g}",
            _with_ends(row, "improve", "{:.3f}"),
            _cell(row["zeros"], "{:.0%}"),
            _with_half(row, "mean"),
            _cell(row["q_0.5"], "{:+.4f}"),
            _cell(row["q_0.95"], "{:+.4f}"),
            _cell(row["q_0.95_of_headroom"], "{:.0%}"),
            *([_with_ends(row, "dimension", "{:.1f}")] if curved else []),
        ]
        for row in rows
    ]
    return markdown([*heads, *(["d_eff"] if curved else [])], lines)


def _best(rows: Rows) -> str:
    """The table of best-of-N and its controls."""
    count = rows[0]["n"]
    heads = ["sigma", f"best of {count}", *GAINED, "where chosen"]
    lines = [
        [
            f"{row['sigma']:g}",
            *_gained(row),
            _cell(row["seen"], "{:+.4f}"),
        ]
        for row in rows
    ]
    return markdown(heads, lines)


def _gained(row: Mapping[str, Any]) -> list[str]:
    """Cells of best-of-N and its controls, below its own head and ``GAINED``."""
    return [
        _with_half(row, "best"),
        _cell(row["best_of_headroom"], "{:.0%}"),
        _cell(row["null"], "{:+.4f}"),
        _with_ends(row, "n90", "{:.0f}"),
        _cell(row["null_n90"], "{}"),
        _with_half(row, "held_out"),
        _with_half(row, "over_mean"),
    ]


def _sizes(rows: Rows) -> str:
    """The table of best-of-N at several N, with the Gaussian null's."""
    sizes = [name.removeprefix("best_") for name in rows[0] if name.removeprefix("best_").isdigit()]
    heads = ["sigma", *(f"best of {size} (null)" for size in sizes)]
    lines = [
        [f"{row['sigma']:g}", *(f"{row[f'best_{size}']:+.4f} ({row[f'null_{size}']:+.4f})" for size in sizes)]
        for row in rows
    ]
    return markdown(heads, lines)


def models_markdown(rows: Rows, sigmas: Rows) -> str:
    """Write what the probes of several models found: both protocols, and the numbers of each sigma.

    Args:
        rows: the columns of ``model_rows`` of the landscape.
        sigmas: per model and sigma the columns of ``sigma_rows``.
    """
    about = (
        "The Gaussian null has the mean, the spread and the steps of the changes. The headroom is the "
        "largest reward minus the centre's. Brackets and +- are 95 % intervals."
    )
    parts = [
        "# Several models",
        "## p(improve) under both published protocols",
        _protocols(rows),
        "## Changes and best of N, on all prompts",
        f"{about}\n\n{_models(sigmas)}",
    ]
    return "\n\n".join(parts) + "\n"


def _protocols(rows: Rows) -> str:
    """The table of both protocols, judged on held-out prompts and, as published, on all."""
    size = rows[0]["n"]
    heads = ["protocol", "model", "parameters", "sigma", "p(improve), held out", f"best of {size}, held out"]
    heads += ["sigma, all prompts", "p(improve), all prompts", f"best of {size}, all prompts"]
    lines = [
        [
            row["protocol"],
            row["name"],
            _cell(row["parameters"], "{:,}"),
            row["sigma"],
            _with_ends(row, "improve", "{:.3f}"),
            _with_half(row, "gain"),
            f"{row['sigma_all']:g}",
            _with_ends(row, "improve_all", "{:.3f}"),
            f"{row['best_all']:+.4f}",
        ]
        for row in rows
    ]
    about = (
        "Sigma, p(improve) and best of N are judged on the half of the prompts that had no say in the choice "
        "of sigma and candidate, both ways; xN says in how many of the ways a sigma was chosen. The last "
        "three columns are as published: chosen and judged on all prompts, whose rewards have finer steps. "
        "Brackets and +- are 95 % intervals."
    )
    return f"{about}\n\n{markdown(heads, lines)}"


def _models(rows: Rows) -> str:
    """The table of changes and best-of-N by model and sigma."""
    heads = ["model", "sigma", "mean change", "q 0.05", "median", "q 0.95", "N", "best of N", *GAINED]
    lines = [
        [
            row["name"],
            f"{row['sigma']:g}",
            _with_half(row, "mean"),
            *(_cell(row[f"q_{level}"], "{:+.4f}") for level in ("0.05", "0.5", "0.95")),
            f"{row['n']}",
            *_gained(row),
        ]
        for row in rows
    ]
    return markdown(heads, lines)


def markdown(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Write a table whose columns are as wide as their widest cell, aligned to the right.

    Args:
        heads: of the columns.
        lines: cells of each line.
    """
    cells = [[each.replace("|", "\\|") for each in line] for line in (heads, *lines)]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    rows = [" | ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in cells]
    rule = " | ".join("-" * (width - 1) + ":" for width in widths)
    return "\n".join(f"| {row} |" for row in (rows[0], rule, *rows[1:]))


def _cell(value: float | None, form: str) -> str:
    return UNKNOWN if value is None else form.format(value)


def _with_ends(row: Mapping[str, Any], name: str, form: str) -> str:
    """A number and its interval, as far as they are known."""
    if row[name] is None or row[f"{name}_low"] is None:
        return _cell(row[name], form)
    return f"{form} ({form} to {form})".format(row[name], row[f"{name}_low"], row[f"{name}_high"])


def _with_half(row: Mapping[str, Any], name: str) -> str:
    """A change and half the width of its interval, as far as they are known."""
    if row[name] is None or row[f"{name}_low"] is None:
        return _cell(row[name], "{:+.4f}")
    return f"{row[name]:+.4f} +- {(row[f'{name}_high'] - row[f'{name}_low']) / 2:.4f}"
