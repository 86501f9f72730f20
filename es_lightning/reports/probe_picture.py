"""Pictures of a probe: best-of-N beside its controls, the changes of the reward, and p(improve)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from es_lightning.reports.csv_file import write_csv
from es_lightning.reports.plots import ACCENT, INK, PALETTE, QUIET, save, sheet, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RED, GREEN = PALETTE[1], PALETTE[2]
SOFT = "#7fb3e6"  # the accent, for areas
COLUMNS = 3  # of panels, one per sigma
MOST_BARS = 41
TICKS = (1, 5, 10, 20, 30, 50, 100, 200)
Rows = Sequence[Mapping[str, Any]]


@style()
def best_of_n(path: Path, rows: Rows, titles: Mapping[float, str], title: str) -> None:
    """Draw best-of-N against N for each sigma, with the Gaussian null and the held-out gain of the chosen.

    Args:
        path: PNG file to write; the rows are written beside it as CSV.
        rows: per sigma and N ``sigma``, ``n``, ``best``, ``best_low``, ``best_high``, ``null`` and, where it
            was measured, ``held_out``, ``held_out_low`` and ``held_out_high``, all in units of reward.
        titles: line above each sigma's panel.
        title: line above the picture.
    """
    figure, panels = _panels(title, len(titles))
    for panel, (sigma, words) in zip(panels, titles.items(), strict=True):
        of_sigma = [row for row in rows if row["sigma"] == sigma]
        sizes = [row["n"] for row in of_sigma]
        _band(panel, of_sigma, "best", ACCENT)
        panel.plot(sizes, _column(of_sigma, "best"), color=ACCENT, lw=1.8, label="best of N, on all prompts")
        panel.plot(sizes, _column(of_sigma, "null"), color=INK, lw=1.3, ls="--", label="Gaussian null")
        held_out = [row for row in of_sigma if row["held_out"] is not None]
        if held_out:
            places = [row["n"] for row in held_out]
            _band(panel, held_out, "held_out", RED)
            values = _column(held_out, "held_out")
            panel.plot(
                places, values, "o-", color=RED, lw=1.4, ms=3, label="the chosen, held out (bands: 95 %)"
            )
        panel.axhline(0, color=QUIET, lw=0.8)
        panel.set_title(words)
        panel.set_xlabel("candidates N")
        panel.set_xticks([size for size in TICKS if size <= sizes[-1]])
    _label_first(panels, "change of the reward")
    _legend_below(figure, panels[0])
    save(figure, path)
    write_csv(path.with_suffix(".csv"), rows)


@style()
def best_by_model(path: Path, rows: Rows, title: str) -> None:
    """Draw best-of-N against N, a panel for each sigma and a line for each model, with its Gaussian null.

    Args:
        path: PNG file to write; the rows are written beside it as CSV.
        rows: per model, sigma and N ``name``, ``sigma``, ``n``, ``best``, ``best_low``, ``best_high`` and
            ``null``, the last four in units of reward.
        title: line above the picture.
    """
    names = list(dict.fromkeys(row["name"] for row in rows))
    sigmas = sorted({row["sigma"] for row in rows})
    largest = max(row["n"] for row in rows)
    figure, panels = _panels(title, len(sigmas))
    for panel, sigma in zip(panels, sigmas, strict=True):
        for number, name in enumerate(names):
            here = [row for row in rows if (row["name"], row["sigma"]) == (name, sigma)]
            sizes, color = [row["n"] for row in here], PALETTE[number % len(PALETTE)]
            _band(panel, here, "best", color)
            panel.plot(sizes, _column(here, "best"), color=color, lw=1.8, label=name)
            panel.plot(sizes, _column(here, "null"), color=color, lw=1.1, ls="--")
        panel.plot([], [], color=INK, lw=1.1, ls="--", label="Gaussian nulls (bands: 95 %)")
        panel.axhline(0, color=QUIET, lw=0.8)
        panel.set_title(f"sigma {sigma:g}")
        panel.set_xlabel("candidates N")
        panel.set_xticks([size for size in TICKS if size <= largest])
    _label_first(panels, "best of N, change of the reward")
    _legend_below(figure, panels[0])
    save(figure, path)
    write_csv(path.with_suffix(".csv"), rows)


@style()
def changes(path: Path, rows: Rows, titles: Mapping[float, str], title: str) -> None:
    """Draw how the changes of each sigma are distributed, and the share of exact zeros.

    Args:
        path: PNG file to write; the rows are written beside it as CSV.
        rows: per candidate ``sigma``, ``batch``, ``candidate`` and ``change``, in units of reward.
        titles: line above each sigma's panel.
        title: line above the picture.
    """
    from matplotlib.ticker import MaxNLocator

    figure, panels = _panels(title, len(titles))
    values = {sigma: np.array([row["change"] for row in rows if row["sigma"] == sigma]) for sigma in titles}
    for panel, (sigma, words) in zip(panels, titles.items(), strict=True):
        here = values[sigma]
        edges = bar_edges(here)
        same = here == 0
        parts = {"exactly the same": here[same], "changed": here[~same]}
        panel.hist(list(parts.values()), edges.tolist(), stacked=True, color=[QUIET, SOFT], label=list(parts))
        panel.axvline(0, color=INK, lw=0.9)
        panel.axvline(here.mean(), color=RED, lw=1.4, ls="--", label="mean")
        panel.axvline(np.quantile(here, 0.95), color=GREEN, lw=1.4, ls=":", label="q 0.95")
        panel.set_title(words)
        panel.set_xlabel("change of the reward")
        panel.xaxis.set_major_locator(MaxNLocator(4))
    _label_first(panels, "candidates")
    _legend_below(figure, panels[0])
    save(figure, path)
    write_csv(path.with_suffix(".csv"), rows)


@style()
def improving(path: Path, rows: Rows, title: str) -> None:
    """Draw p(improve) and the share of exact zeros against sigma, and the mean change beside them.

    Args:
        path: PNG file to write; the rows are written beside it as CSV.
        rows: per sigma ``sigma``, ``improve``, ``improve_low``, ``improve_high``, ``zeros``, ``mean``,
            ``mean_low``, ``mean_high``, ``q_0.95`` with its two, in shares and units of reward.
        title: line above the picture.
    """
    figure, [shares, means] = sheet(title, columns=2)
    sigmas = _column(rows, "sigma")
    _bars(shares, rows, sigmas, "improve", ACCENT, "p(improve), 95 % interval")
    shares.plot(sigmas, _column(rows, "zeros"), "s:", color=QUIET, lw=1.2, ms=4, label="exactly the same")
    shares.axhline(0.5, color=INK, lw=0.9, ls="--", label="1/2: a linear reward")
    shares.set_ylim(-0.02, 1.02)
    shares.set_ylabel("share of the candidates")
    _bars(means, rows, sigmas, "mean", RED, "mean, 95 % interval")
    _bars(means, rows, sigmas, "q_0.95", GREEN, "0.95 quantile, 95 % interval")
    means.axhline(0, color=INK, lw=0.9)
    means.set_ylabel("change of the reward")
    for axes in (shares, means):
        _log_axis(axes, sigmas, "sigma, in units of the weights")
        axes.legend()
    save(figure, path)
    write_csv(path.with_suffix(".csv"), rows)


@style()
def protocols(path: Path, rows: Rows, title: str) -> None:
    """Draw p(improve) and the held-out gain against the size of the model, under both protocols.

    Args:
        path: PNG file to write; the rows are written beside it as CSV.
        rows: per model and line ``name``, ``parameters``, ``line`` (what the legend says), ``chosen``
            (whether the sigma was chosen for the model), ``improve`` and ``gain`` with their ``_low`` and
            ``_high``, in shares and units of reward. Models without ``parameters`` stand in their order.
        title: line above the picture.
    """
    figure, [shares, gains] = sheet(title, columns=2, height=4.2)
    names = list(dict.fromkeys(row["name"] for row in rows))
    sized = all(row["parameters"] for row in rows)
    lines = list(dict.fromkeys(row["line"] for row in rows))
    for number, line in enumerate(lines):
        here = [row for row in rows if row["line"] == line]
        places = [row["parameters"] if sized else names.index(row["name"]) for row in here]
        # Side by side, so that bars at the same size can be told apart.
        aside = (number - (len(lines) - 1) / 2) * 0.035
        places = [place * (1 + aside) if sized else place + aside for place in places]
        color = INK if here[0]["chosen"] else PALETTE[number % len(PALETTE)]
        for axes, name in ((shares, "improve"), (gains, "gain")):
            _bars(axes, here, places, name, color, line, width=2.2 if here[0]["chosen"] else 1.2)
    shares.axhline(0.5, color=QUIET, lw=0.9, ls="--")
    shares.set_ylim(-0.02, 1.02)
    shares.set_ylabel("p(improve), on held-out prompts")
    gains.axhline(0, color=QUIET, lw=0.9)
    gains.set_ylabel("change of the reward of the chosen, held out")
    for axes in (shares, gains):
        if sized:
            _log_axis(axes, sorted({row["parameters"] for row in rows}), "parameters of the model")
        else:
            axes.set_xticks(range(len(names)), names)
            axes.set_xlabel("model")
    _legend_below(figure, shares)
    save(figure, path)
    write_csv(path.with_suffix(".csv"), rows)


def bar_edges(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return edges of bars that have 0 in the middle of one, so that no bar holds gains and losses.

    Rewards in steps get bars of whole steps: bars of any other width would look like a comb.

    Args:
        values: changes of the reward.
    """
    different = np.unique(np.round(values, 12))
    gaps = np.diff(different)
    reach = float(np.abs(values).max()) or 1.0
    step = float(gaps.min()) if len(gaps) and len(different) < MOST_BARS * 4 else 0.0
    in_steps = step > 0 and np.allclose(different / step, np.round(different / step), atol=1e-3)
    width = 2 * reach / (MOST_BARS - 1)
    if in_steps:
        width = step * max(1, int(np.ceil(width / step - 1e-9)))
    below, above = (int(np.ceil(abs(end) / width)) for end in (min(0, values.min()), max(0, values.max())))
    return np.asarray((np.arange(-below, above + 2) - 0.5) * width, dtype=np.float64)


def _panels(title: str, count: int) -> tuple[Figure, list[Axes]]:
    """Make a panel per sigma, in rows of at most ``COLUMNS``."""
    columns = min(count, 2 if count == 4 else COLUMNS)
    lines = -(-count // columns)
    figure, panels = sheet(title, columns=count, width=max(4.2, 2.9 * columns), height=0.6 + 2.5 * lines)
    grid = figure.add_gridspec(lines, columns)
    for number, panel in enumerate(panels):
        panel.set_subplotspec(grid[number // columns, number % columns])
    return figure, panels


def _label_first(panels: Sequence[Axes], words: str) -> None:
    """Label the vertical axis of the first panel of each row."""
    for panel in panels:
        place = panel.get_subplotspec()
        if place is None or place.is_first_col():
            panel.set_ylabel(words)


def _legend_below(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    columns = min(len(labels), 4 if figure.get_figwidth() > 5 else 2)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def _column(rows: Rows, name: str) -> list[float]:
    """Numbers of a column; what is not known is NaN, which matplotlib leaves out."""
    return [float("nan") if row[name] is None else float(row[name]) for row in rows]


def _band(axes: Axes, rows: Rows, name: str, color: str) -> None:
    low, high = _column(rows, f"{name}_low"), _column(rows, f"{name}_high")
    axes.fill_between([row["n"] for row in rows], low, high, color=color, alpha=0.15, lw=0)


def _bars(
    axes: Axes, rows: Rows, places: Sequence[float], name: str, color: str, label: str, width: float = 1.4
) -> None:
    """Draw a column as points with their intervals."""
    values = np.array(_column(rows, name))
    ends = np.array([_column(rows, f"{name}_low"), _column(rows, f"{name}_high")])
    bars = np.abs(ends - values)
    axes.errorbar(places, values, bars, fmt="o-", color=color, lw=width, ms=4, capsize=3, label=label)


def _log_axis(axes: Axes, places: Sequence[float], label: str) -> None:
    """Make the horizontal axis logarithmic, with a tick at each place."""
    from matplotlib.ticker import NullLocator

    axes.set_xscale("log")
    axes.set_xticks(places, [_short(place) for place in places])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(label)
    axes.margins(x=0.12)


def _short(value: float) -> str:
    """A number as a tick has it: 135M, 1.5B, 0.001."""
    for size, sign in ((1e9, "B"), (1e6, "M")):
        if value >= size:
            return f"{value / size:.3g}{sign}"
    return f"{value:g}"
