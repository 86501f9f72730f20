"""The picture of divergence: how far a model's distributions have moved, one panel per direction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from es_lightning.reports import plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TITLES = {
    "base_tuned": "KL(base || tuned)\non completions of the base model",
    "tuned_base": "KL(tuned || base)\non the tuned model's own completions",
}
LOG_FROM = 30.0  # ratio of the curves' last values above which a linear axis would flatten the lowest curve


@plots.style()
def draw_divergence(
    axes: Axes, rows: Sequence[Mapping[str, float]], direction: str, tasks: Sequence[str]
) -> None:
    """Draw a curve per task with one standard error around it, of whole vocabularies where there are such.

    Args:
        axes: empty.
        rows: of ``KLDrift``.
        direction: ``base_tuned`` or ``tuned_base``.
        tasks: names.
    """
    whole = f"kl_{direction}_full/"
    group = whole if any(name.startswith(whole) for row in rows for name in row) else f"kl_{direction}/"
    last = []
    for task in tasks:
        points = [row for row in rows if f"{group}{task}" in row]
        steps, values = ([row[key] for row in points] for key in ("generation", f"{group}{task}"))
        errors = [row.get(f"{group}{task}_se", 0.0) for row in points]
        [line] = axes.plot(steps, values, lw=1.6, marker="o", ms=3.5, label=task)
        low = [value - error for value, error in zip(values, errors, strict=True)]
        high = [value + error for value, error in zip(values, errors, strict=True)]
        axes.fill_between(steps, low, high, color=line.get_color(), alpha=0.13, lw=0)
        last += values[-1:]
    # A logarithmic axis leaves out the zero at the start.
    if len(last) > 1 and min(last) > 0 and max(last) > LOG_FROM * min(last):
        axes.set_yscale("log", nonpositive="mask")
    else:
        axes.axhline(0.0, color=plots.INK, lw=0.8)
    axes.set_title(TITLES[direction])
    axes.set_xlabel("generations done")
    axes.set_ylabel(f"nats per token{', whole vocabulary' * (group == whole)}\n(band: one standard error)")
    axes.legend()
