"""Pictures of a run, drawn with matplotlib's file backend so that no screen is needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from es_lightning.system.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STYLE = "es_lightning.reports.es_lightning"  # matplotlib's name for the file es_lightning.mplstyle
# The colours of that file, for what is drawn in a certain one.
INK, ACCENT, QUIET = "#1b1f24", "#0b6bcb", "#9aa4af"
PALETTE = ("#0b6bcb", "#d1495b", "#2e8b57", "#e08e0b", "#7b4fa3", "#17889b", "#8c564b", "#6b7280")


@contextmanager
def style() -> Iterator[None]:
    """Draw in the project's style and leave matplotlib's global settings as they were; also a decorator.

    Matplotlib reads its settings when an artist is made, and makes some ticks as late as while it saves a
    picture: make the axes, draw and save inside.
    """
    import matplotlib.style

    with matplotlib.style.context(STYLE):
        yield


@style()
def sheet(title: str, columns: int = 1, width: float = 7.2, height: float = 3.6) -> tuple[Figure, list[Axes]]:
    """An empty picture in the project's style.

    Args:
        title: line above the picture.
        columns: axes side by side.
        width: inches.
        height: inches.

    Returns:
        The figure and its axes.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(width, height))
    # A folder's name may hold two dollars, between which matplotlib would look for a formula.
    figure.suptitle(title, x=0.01, ha="left", color=INK, parse_math=False)
    row = list(figure.subplots(1, columns, squeeze=False)[0])
    for axes in row:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure, row


@style()
def save(figure: Figure, path: Path) -> None:
    """Write a picture as PNG; its folder is made.

    Args:
        figure: what ``sheet`` gave, drawn upon.
        path: the file, which is replaced as a whole: MLflow may be reading it.

    Raises:
        StorageError: the disk is full or the folder cannot be written.
    """
    with replacing(path) as file:
        figure.savefig(file, format="png")


@style()
def reward_curve(
    path: Path,
    population: Sequence[Mapping[str, float]],
    centre: Mapping[str, Sequence[tuple[float, float]]],
    title: str,
    trained: str = "",
) -> None:
    """Draw the population's reward per generation and the reward of the centre.

    Where training makes something else larger than the reward, each has a picture of its own.

    Args:
        path: PNG file to write.
        population: per generation ``generation``, ``mean``, ``min`` and ``max``, in reward units.
        centre: label -> points (generations done, reward of the centre).
        title: line above the picture.
        trained: what the population's rewards are, with their unit; empty if they are the centre's.
    """
    figure, [axes, *others] = sheet(title, columns=2 if trained else 1)
    held_out = others[0] if others else axes
    steps = [row["generation"] for row in population]  # generation g perturbs the centre of g updates
    low, high = [row["min"] for row in population], [row["max"] for row in population]
    axes.fill_between(
        steps, low, high, color=ACCENT, alpha=0.15, lw=0, label="population, worst to best member"
    )
    axes.plot(
        steps, [row["mean"] for row in population], color=ACCENT, lw=1.6, label="population mean, training"
    )
    for (label, points), color in zip(centre.items(), (INK, QUIET), strict=False):
        held_out.plot(*zip(*points, strict=True), color=color, lw=1.4, marker="o", ms=4, label=label)
    for each, what in ((axes, trained or "reward"), (held_out, "reward")):
        each.set_xlabel("generations done")
        each.set_ylabel(f"{what} (higher is better)")
        if each.lines:
            each.legend()
    save(figure, path)
