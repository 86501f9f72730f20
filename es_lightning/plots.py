"""Pictures of a run, drawn with matplotlib's file backend so that no screen is needed."""

from collections.abc import Mapping, Sequence
from pathlib import Path

INK, ACCENT, QUIET = "#1b1f24", "#0b6bcb", "#9aa4af"


def reward_curve(
    path: Path,
    population: Sequence[Mapping[str, float]],
    centre: Mapping[str, Sequence[tuple[float, float]]],
    title: str,
) -> None:
    """Draw the population's reward per generation and the reward of the centre.

    Args:
        path: PNG file to write.
        population: per generation ``generation``, ``mean``, ``min`` and ``max``, in reward units.
        centre: label -> points (generations done, reward of the centre).
        title: line above the picture.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7.2, 3.6), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    steps = [row["generation"] for row in population]  # generation g perturbs the centre of g updates
    low, high = [row["min"] for row in population], [row["max"] for row in population]
    axes.fill_between(
        steps, low, high, color=ACCENT, alpha=0.15, lw=0, label="population, worst to best member"
    )
    axes.plot(
        steps, [row["mean"] for row in population], color=ACCENT, lw=1.6, label="population mean, training"
    )
    for (label, points), color in zip(centre.items(), (INK, QUIET), strict=False):
        axes.plot(*zip(*points, strict=True), color=color, lw=1.4, marker="o", ms=4, label=label)
    axes.set_xlabel("updates done")
    axes.set_ylabel("reward (higher is better)")
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=QUIET, alpha=0.3, lw=0.6)
    axes.legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
