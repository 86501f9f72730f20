"""The pictures of a comparison, each for light and for dark pages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from es_lightning.analysis.comparison.budgets import band, spent
from es_lightning.analysis.comparison.comparing import Comparison
from es_lightning.analysis.comparison.runs import AXES, Points, divergence_name
from es_lightning.reports import plots
from es_lightning.reports.comparison_tables import SPLITS, UNITS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 2
LEGEND = 60
"""Most characters of a label in a picture."""


@dataclass(frozen=True)
class Theme:
    """The colours of a page.

    Args:
        ink: of text and axes.
        quiet: of what stands back.
        paper: behind the picture.
        palette: of the arms.
    """

    ink: str
    quiet: str
    paper: str
    palette: Sequence[str]


LIGHT = Theme(plots.INK, plots.QUIET, "#ffffff", plots.PALETTE)
DARK = Theme(
    "#e6edf3",
    "#9aa4af",
    "#0d1117",
    ("#58a6ff", "#ff7b84", "#56d38a", "#f0b13c", "#b893e8", "#4fc7da", "#d2a08f", "#aab2bd"),
)
DASHES = ("-", "--", "-.", ":")
"""Beside its colour, which not everybody sees."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


@dataclass(frozen=True)
class Picture:
    """A picture, not drawn yet.

    Args:
        name: of its files.
        title: above it; also what a page says in its place.
        draw: puts it on a figure that has the theme's colours.
        size: inches.
    """

    name: str
    title: str
    draw: Callable[[Figure, Theme], None]
    size: tuple[float, float]

    def drawn(self) -> Drawn:
        """Draw it in both themes."""
        light, dark = self._saved(LIGHT, "svg", "png"), self._saved(DARK, "svg")
        return Drawn(self.name, self.title, self.size[0], light["svg"], light["png"], dark["svg"])

    def _saved(self, theme: Theme, *kinds: str) -> dict[str, bytes]:
        from matplotlib.figure import Figure

        with _style(theme):
            figure, files = Figure(figsize=self.size), {kind: BytesIO() for kind in kinds}
            self.draw(figure, theme)
            for kind, file in files.items():
                # Without a date: the same numbers give the same file.
                figure.savefig(file, format=kind, metadata={"Date": None} if kind == "svg" else None)
                figure.set_layout_engine("none")  # the parts stay where the first file has them
        return {kind: file.getvalue() for kind, file in files.items()}


@dataclass(frozen=True)
class Drawn:
    """A picture's files.

    Args:
        name: of the files.
        title: what the picture shows.
        width: inches.
        svg: for light pages.
        png: for light pages.
        dark_svg: for dark pages.
    """

    name: str
    title: str
    width: float
    svg: bytes
    png: bytes
    dark_svg: bytes


@contextmanager
def _style(theme: Theme) -> Iterator[None]:
    """Draw in the project's style with a theme's colours."""
    import matplotlib

    inked = (
        "text.color",
        "axes.labelcolor",
        "axes.edgecolor",
        "axes.titlecolor",
        "xtick.color",
        "ytick.color",
    )
    papers = ("figure.facecolor", "axes.facecolor", "savefig.facecolor")
    colours: Any = dict.fromkeys(inked, theme.ink) | dict.fromkeys(papers, theme.paper)
    # The hash names the parts of an SVG, by chance if it is not set.
    with plots.style(), matplotlib.rc_context(colours | {"svg.hashsalt": "es_lightning"}):
        yield


def pictures_of(found: Comparison) -> list[Picture]:
    """Return the pictures for which there are numbers."""
    every = [_reward_curves(found), _differences(found), _training(found), _changes(found)]
    return [each for each in every if each is not None]


# Rewards --------------------------------------------------------------------------------------------


def _reward_curves(found: Comparison) -> Picture:
    def draw(figure: Figure, theme: Theme) -> None:
        for place, axis in zip(_panels(figure, len(AXES)), AXES, strict=True):
            _draw_bands(place, found, axis, theme)
            place.set_ylabel(f"{SPLITS[found.split]} reward")
        _legend(figure)

    title = f"Reward on {SPLITS[found.split]} problems against cost, mean and 95 % band over seeds"
    return Picture("reward", title, draw, _size(len(AXES), len(found.arms)))


def _draw_bands(place: Axes, found: Comparison, axis: str, theme: Theme) -> None:
    """Draw steps: an evaluation holds until the next one, and nothing is interpolated."""
    for index, arm in enumerate(found.arms):
        mean = band(arm.runs, axis, found.split)
        colour, dash, _ = _look(index, theme)
        for run in arm.runs if arm.seeds > 1 else ():
            costs = [spent(each, axis) for each in run.on(found.split)]
            rewards = [each.reward for each in run.on(found.split)]
            place.step(costs, rewards, where="post", color=colour, lw=0.7, marker=".", ms=3, alpha=0.45)
        if len(mean.costs):
            place.fill_between(mean.costs, mean.low, mean.high, step="post", color=colour, alpha=0.15, lw=0)
            place.step(
                mean.costs, mean.mean, where="post", color=colour, ls=dash, lw=1.8, label=_shown(arm.label)
            )
            place.plot(mean.costs, mean.mean, color=colour, ls="", marker="o", ms=2.5)
    budget = next((each.budget for each in found.budgets if each.axis == axis), None)
    if budget:
        place.axvline(budget, color=theme.quiet, lw=0.8, ls=":")
    place.set_xlabel(UNITS[axis])


def _differences(found: Comparison) -> Picture | None:
    others = found.arms[1:]
    if not others:
        return None
    moments = [(f"equal {UNITS[each.axis]}", each.reached) for each in found.budgets]
    moments.append((f"at the end, {SPLITS[found.ends[0]]}", found.ends[1]))

    def draw(figure: Figure, theme: Theme) -> None:
        place = figure.subplots()
        for index, _ in enumerate(others, start=1):
            colour, _, marker = _look(index, theme)
            rows = [(row, each[index].versus) for row, (_, each) in enumerate(moments)]
            for row, versus in ((row, each) for row, each in rows if each is not None):
                where, estimate = row + (index - (len(others) + 1) / 2) * 0.7 / len(others), versus.estimate
                place.plot([estimate.low, estimate.high], [where, where], color=colour, lw=1.6)
                place.plot(estimate.value, where, marker=marker, ms=5, color=colour, ls="")
            place.plot([], [], color=colour, marker=marker, lw=1.6, label=_shown(found.arms[index].label))
        place.axvline(0, color=theme.ink, lw=0.8)
        place.set_yticks(range(len(moments)), [name for name, _ in moments])
        place.set_ylim(len(moments) - 0.4, -0.6)
        place.grid(axis="y", visible=False)
        place.set_xlabel(f"reward minus that of {_shown(found.arms[0].label)}, with 95 % interval")
        _legend(figure)

    height = 1.1 + 0.34 * len(moments) * max(1.0, 0.55 * len(others)) + 0.2 * len(others)
    title = "Difference from the first arm, paired by problem"
    return Picture("differences", title, draw, (7.2, height))


# What training saw, and what it did -----------------------------------------------------------------


def _training(found: Comparison) -> Picture | None:
    names = list(
        dict.fromkeys(name for run in found.runs for name in run.series if name.startswith("reward"))
    )
    return _series_picture(
        "training", "Rewards of training and their parts, by update", found, names, "training"
    )


def _changes(found: Comparison) -> Picture | None:
    names = list(dict.fromkeys(name for run in found.runs for name in run.series if name.startswith("kl_")))
    names = (["norm"] if any("norm" in run.series for run in found.runs) else []) + names
    return _series_picture(
        "change", "Change of the model by update; divergences in nats per token", found, names, ""
    )


def _series_picture(
    file: str, title: str, found: Comparison, names: Sequence[str], kind: str
) -> Picture | None:
    if not names:
        return None

    def draw(figure: Figure, theme: Theme) -> None:
        for place, name in zip(_panels(figure, len(names)), names, strict=True):
            for index, arm in enumerate(found.arms):
                _draw_runs(place, [run.series[name] for run in arm.runs if name in run.series], index, theme)
                colour, dash, _ = _look(index, theme)
                place.plot([], [], color=colour, ls=dash, lw=1.6, label=_shown(arm.label))
            place.set_xlabel("updates done")
            place.set_ylabel(_axis_label(name, kind))
        _legend(figure)

    return Picture(file, title, draw, _size(len(names), len(found.arms)))


def _axis_label(name: str, kind: str) -> str:
    if name == "norm":
        return "norm of the change of the weights"
    if name.startswith("kl_"):
        return f"{_shown(divergence_name(name))}"
    return f"{kind} {_shown(name.replace('reward/', ''))}"


def _draw_runs(place: Axes, runs: Sequence[Points], index: int, theme: Theme) -> None:
    """Draw each run thin, and the mean of several where all have a value."""
    colour, dash, _ = _look(index, theme)
    for points in runs:
        alone: dict[str, Any] = {"lw": 1.6, "ls": dash} if len(runs) == 1 else {"lw": 0.8, "alpha": 0.6}
        place.plot(*zip(*points, strict=True), color=colour, **alone)
    if len(runs) > 1:
        values: list[Mapping[int, float]] = [dict(points) for points in runs]
        steps = sorted(set(values[0]).intersection(*values[1:]))
        mean = [float(np.mean([each[step] for each in values])) for step in steps]
        place.plot(steps, mean, color=colour, ls=dash, lw=1.8)


# Shared ---------------------------------------------------------------------------------------------


def _panels(figure: Figure, count: int) -> list[Axes]:
    rows = -(-count // COLUMNS)
    places = list(figure.subplots(rows, min(COLUMNS, count), squeeze=False).flat)
    for place in places[count:]:
        place.set_visible(False)
    return places[:count]


def _size(panels: int, arms: int) -> tuple[float, float]:
    rows = -(-panels // COLUMNS)
    return 9.2 if panels > 1 else 6.0, 2.7 * rows + 0.4 + 0.2 * arms


def _legend(figure: Figure) -> None:
    """Name the arms once, below all panels."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    columns = 2 if max(map(len, unique), default=0) <= LEGEND // 2 else 1
    figure.legend(list(unique.values()), list(unique), loc="outside lower left", ncols=columns)


def _look(index: int, theme: Theme) -> tuple[str, str, str]:
    """Return colour, dashes and marker of an arm."""
    turn = index // len(theme.palette)
    return (
        theme.palette[index % len(theme.palette)],
        DASHES[(index + turn) % len(DASHES)],
        MARKERS[index % len(MARKERS)],
    )


def _shown(label: str) -> str:
    """Return a label as matplotlib shows it literally: no formula, nothing that it would leave out."""
    text = "".join(sign if sign.isprintable() else "\ufffd" for sign in label)
    text = text if len(text) <= LEGEND else f"{text[: LEGEND - 3]}..."
    text = text.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text
