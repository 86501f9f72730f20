"""The picture of a run that learns to solve problems: accuracy by generation, with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from es_lightning.analysis.accuracy import Accuracy
from es_lightning.reports.csv_file import write_csv
from es_lightning.reports.plots import ACCENT, INK, PALETTE, save, sheet, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GREEN = PALETTE[2]
Points = Sequence[tuple[float, Accuracy]]


@style()
def accuracy_curve(
    path: Path,
    population: Sequence[Mapping[str, float]],
    validation: Points,
    held_out: Points,
    title: str,
) -> None:
    """Draw the population's accuracy per generation, and that of the centre on problems it never trains on.

    Args:
        path: PNG file to write; beside it are written ``accuracy.csv`` with the population's rows and
            ``accuracy_centre.csv`` with the centre's, by the picture's own name.
        population: per generation ``generation`` and ``accuracy``; ``accuracy_best`` where it is known.
        validation: updates done, and the centre's accuracy on the validation split.
        held_out: the same before and after the run, on the held-out split.
        title: line above the picture.
    """
    from matplotlib.ticker import PercentFormatter

    figure, [axes] = sheet(title)
    steps = [row["generation"] for row in population]  # generation g perturbs the centre of g updates
    mean = [row["accuracy"] for row in population]
    if all("accuracy_best" in row for row in population):
        best = [row["accuracy_best"] for row in population]
        axes.fill_between(steps, mean, best, color=ACCENT, alpha=0.1, lw=0)
        axes.plot(steps, best, color=ACCENT, lw=1, alpha=0.6, ls="--", label="population, best member")
    axes.plot(steps, mean, color=ACCENT, lw=1.6, label="population, mean")
    _centre(axes, validation, GREEN, "s-", "validation")
    _centre(axes, held_out, INK, "o:", "held out")  # dotted: nothing was measured on the way
    for (step, accuracy), (away, side) in zip(held_out, ((-7, "right"), (7, "left")), strict=False):
        place: dict[str, Any] = {"xytext": (away, -3), "textcoords": "offset points", "ha": side}
        axes.annotate(f"{accuracy.rate:.0%}", (step, accuracy.rate), color=INK, fontsize=9, **place)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_ylim(0, 1.02)
    axes.margins(x=0.08)
    axes.set_xlabel("generations done")
    axes.set_ylabel("problems solved")
    axes.legend(loc="best")
    save(figure, path)
    columns = ("generation", "accuracy", "accuracy_best")
    write_csv(
        path.with_suffix(".csv"), [{name: row[name] for name in columns if name in row} for row in population]
    )
    splits = {"validation": validation, "held out": held_out}
    rows = [_row(split, *point) for split, points in splits.items() for point in points]
    if rows:
        write_csv(path.with_name(f"{path.stem}_centre.csv"), rows)


def _row(split: str, step: float, accuracy: Accuracy) -> dict[str, Any]:
    """Lay one point of the centre out with its interval."""
    low, high = accuracy.interval()
    return {"split": split, "generation": step, "problems": accuracy.of, "accuracy": accuracy.rate} | {
        "low": low,
        "high": high,
    }


def _centre(axes: Axes, points: Points, color: str, form: str, name: str) -> None:
    """Draw the accuracy of the centre as points with their intervals."""
    if not points:
        return
    steps, accuracies = zip(*points, strict=True)
    rates = [accuracy.rate for accuracy in accuracies]
    ends = [accuracy.interval() for accuracy in accuracies]
    bars = [
        [rate - low for rate, (low, _) in zip(rates, ends, strict=True)],
        [high - rate for rate, (_, high) in zip(rates, ends, strict=True)],
    ]
    label = f"centre, {name} ({accuracies[0].of} problems, 95 % interval)"
    axes.errorbar(steps, rates, bars, fmt=form, color=color, lw=1.2, ms=5, capsize=3, label=label)
