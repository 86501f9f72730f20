"""Pictures of slope and curvature: estimates against their budget, pair by pair, and eigenvalues."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from es_lightning.reports.csv_file import write_csv
from es_lightning.reports.plots import ACCENT, INK, PALETTE, QUIET, save, sheet, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Rows = Sequence[Mapping[str, Any]]
SMALLEST = 1e-3
"""Of the largest eigenvalue, what is still drawn."""
RATIO = ("odd_ratio", "Var(odd part) / ||g||²", 1.0)
SQUARE = ("gradient_square", "||g||² from Var(odd part) (objective² / weight²)", None)
"""Where no gradient is known to divide by."""
SHOWN = (
    ("trace", "tr H (objective / weight²)", None),
    ("participation", "signed participation ratio", None),
)


@style()
def budgets(path: Path, rows: Rows, title: str, all_rows: Rows) -> None:
    """Draw three estimates with their intervals against the number of pairs, one line per sigma.

    Args:
        path: PNG file to write.
        rows: per sigma and number of pairs ``sigma``, ``pairs``, and each estimate with ``_low`` and
            ``_high``.
        title: line above the picture.
        all_rows: written beside it as CSV; ``rows`` are among them.
    """
    from matplotlib.ticker import LogFormatter, ScalarFormatter

    known = any(row["odd_ratio"] is not None for row in rows)
    shown = (RATIO if known else SQUARE, *SHOWN)
    figure, panels = sheet(title, columns=len(shown), width=10.0, height=3.4)
    for axes, (name, label, expected) in zip(panels, shown, strict=True):
        if expected is not None:
            axes.axhline(expected, color=QUIET, lw=1.0, ls="--", label="expected")
        for place, sigma in enumerate(sorted({row["sigma"] for row in rows})):
            own = [row for row in rows if row["sigma"] == sigma and row[name] is not None]
            _points(axes, own, name, f"sigma {sigma:g}", PALETTE[place % len(PALETTE)], 1.09**place)
        axes.set_xscale("log", base=2)
        sizes = sorted({row["pairs"] for row in rows})
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.minorticks_off()
        axes.set_xlabel("antithetic pairs")
        axes.set_ylabel(label)
    panels[2].set_yscale("log")
    panels[2].yaxis.set_major_formatter(ScalarFormatter())
    panels[2].yaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.5)))
    panels[0].legend()
    save(figure, path)
    write_csv(path.with_suffix(".csv"), all_rows)


def _points(axes: Axes, rows: Rows, name: str, label: str, color: str, shift: float) -> None:
    """Draw estimates with their 95 % intervals; an end that is not known is left out."""
    sizes = [row["pairs"] * shift for row in rows]
    values = np.array([row[name] for row in rows], dtype=np.float64)
    ends = [
        np.array([np.nan if row[f"{name}_{end}"] is None else row[f"{name}_{end}"] for row in rows])
        for end in ("low", "high")
    ]
    errors = np.abs(np.array([values - ends[0], ends[1] - values]))
    axes.errorbar(sizes, values, errors, fmt="o", ms=4, lw=1.4, capsize=2, color=color, label=label)


@style()
def directions(path: Path, rows: Rows, title: str) -> None:
    """Draw what was measured along each pair against what autograd knows, and the reward against it.

    Args:
        path: PNG file to write; the rows are written beside it as CSV.
        rows: per sigma and pair ``true_slope``, ``true_bend``, ``likelihood_slope``, ``likelihood_bend`` and,
            where it was measured, ``reward_slope``.
        title: line above the picture.
    """
    has_reward = "reward_slope" in rows[0]
    figure, panels = sheet(title, columns=2 + has_reward, width=10.0 if has_reward else 7.2, height=3.5)
    _scatter(panels[0], rows, "true_slope", "likelihood_slope")
    panels[0].set_xlabel("true g · eps (nats / weight)")
    panels[0].set_ylabel("(R+ − R−) / 2σ (nats / weight)")
    _scatter(panels[1], rows, "true_bend", "likelihood_bend")
    panels[1].set_xlabel("true epsᵀ H eps (nats / weight²)")
    panels[1].set_ylabel("(R+ + R− − 2 R₀) / σ² (nats / weight²)")
    if has_reward:
        _scatter(panels[2], rows, "likelihood_slope", "reward_slope", line=False)
        panels[2].set_xlabel("log-likelihood: odd part (nats / weight)")
        panels[2].set_ylabel("reward: odd part (reward / weight)")
    panels[0].legend()
    save(figure, path)
    write_csv(path.with_suffix(".csv"), rows)


def _scatter(axes: Axes, rows: Rows, x: str, y: str, line: bool = True) -> None:
    known = [row for row in rows if row[x] is not None]
    for place, sigma in enumerate(sorted({row["sigma"] for row in rows})):
        own = [row for row in known if row["sigma"] == sigma]
        axes.plot(
            [row[x] for row in own],
            [row[y] for row in own],
            "os^v"[place % 4],
            ms=4,
            alpha=0.75,
            color=PALETTE[place % len(PALETTE)],
            label=f"sigma {sigma:g}",
        )
    if line and known:
        ends = [min(row[x] for row in known), max(row[x] for row in known)]
        axes.plot(ends, ends, color=QUIET, lw=1.0, ls="--", label="equal")
    axes.locator_params(nbins=5)


@style()
def density(path: Path, rows: Rows, title: str, unit: str = "nats") -> None:
    """Draw how many eigenvalues there are per unit, one curve per way of finding them.

    The scale is logarithmic, and ends where a curve has a thousandth of what one eigenvalue gives at its
    place: below that it is the tail of a Gaussian, and says nothing.

    Args:
        path: PNG file to write; the rows are written beside it as CSV.
        rows: per way and point ``kind``, ``eigenvalue``, ``density`` and ``width``, that of the Gaussians.
        title: line above the picture.
        unit: of the objective.
    """
    figure, [axes] = sheet(title, height=3.9)
    width = float(rows[0]["width"])
    single = 1 / (width * np.sqrt(2 * np.pi))
    for kind, color in _colors(rows).items():
        own = [row for row in rows if row["kind"] == kind]
        at, values = [row["eigenvalue"] for row in own], [row["density"] for row in own]
        axes.plot(at, values, color=color, lw=1.6, label=kind)
        axes.fill_between(at, values, color=color, alpha=0.12, lw=0)
    axes.axhline(single, color=QUIET, lw=1.0, ls="--", label="one eigenvalue")
    axes.set_yscale("log")
    axes.set_ylim(single / 1000, 5 * max(row["density"] for row in rows))
    axes.set_xlabel(f"eigenvalue ({unit} / weight²), smeared out by {width:.2g}")
    axes.set_ylabel("eigenvalues per unit")
    axes.legend()
    save(figure, path)
    write_csv(path.with_suffix(".csv"), rows)


def _colors(rows: Rows) -> dict[str, str]:
    """The same colour for the same way in every picture: its place among those that there are."""
    return dict(zip(dict.fromkeys(row["kind"] for row in rows), (INK, ACCENT, PALETTE[1]), strict=False))


@style()
def spectra(path: Path, rows: Rows, title: str, unit: str = "nats") -> None:
    """Draw eigenvalues by size and rank, one line per way of finding them, and the edge of sampling noise.

    Args:
        path: PNG file to write; the rows are written beside it as CSV.
        rows: per eigenvalue ``kind``, ``rank``, ``value`` and ``converged``, and of those with common seeds
            ``edge_low`` and ``edge_high``, between which noise reaches, if they are known. Those that are
            nearly 0, as of the bulk, are in the CSV alone.
        title: line above the picture.
        unit: of the objective.
    """
    figure, [axes] = sheet(title, height=3.9)
    for kind, color in _colors(rows).items():
        own = [row for row in rows if row["kind"] == kind]
        axes.plot(
            [row["rank"] for row in own], [abs(row["value"]) for row in own], color=color, lw=1.0, label=kind
        )
        for sign, marker in ((-1, "v"), (1, "^")):
            for done in (True, False):
                part = [row for row in own if np.sign(row["value"]) == sign and row["converged"] == done]
                axes.plot(
                    [row["rank"] for row in part],
                    [abs(row["value"]) for row in part],
                    marker,
                    ms=5,
                    color=color,
                    mfc=color if done else "white",
                )
    _edges(axes, rows)
    axes.set_yscale("log")
    sizes = [abs(row["value"]) for row in rows]
    if max(sizes) > 0:
        axes.set_ylim(bottom=max(min(sizes), SMALLEST * max(sizes)) / 1.5)
    axes.set_xlabel("rank by size (▲ positive, ▼ negative; filled: converged)")
    axes.set_ylabel(f"|eigenvalue| ({unit} / weight²)")
    axes.legend()
    save(figure, path)
    write_csv(path.with_suffix(".csv"), rows)


def _edges(axes: Axes, rows: Rows) -> None:
    """Draw how far sampling noise of common seeds reaches, a line per sign."""
    known = next((row for row in rows if row.get("edge_high") is not None), None)
    if known is None:
        return
    for size, marker, line in ((known["edge_high"], "▲", "--"), (-known["edge_low"], "▼", ":")):
        if size > 0:  # with a trace that is large beside the noise, one of them is beyond 0
            axes.axhline(size, color=QUIET, lw=1.2, ls=line, label=f"edge of sampling noise {marker}")
