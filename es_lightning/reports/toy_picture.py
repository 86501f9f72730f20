"""Pictures of the simulated landscapes, and of a run's curve with its two-mode fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from es_lightning.reports.plots import ACCENT, INK, PALETTE, QUIET, save, sheet, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = npt.NDArray[np.float64]
RED, GREEN = PALETTE[1], PALETTE[2]
BAND = 1.96  # standard errors to each side


@style()
def rise_and_decay(
    path: Path, curves: Sequence[Mapping[str, Any]], lines: Sequence[Mapping[str, Any]], title: str
) -> None:
    """Draw rewards by steps for each population, and steady rewards by kappa for each alpha.

    Args:
        path: PNG file to write.
        curves: per population ``population``, ``exact``, ``mean`` and ``error`` after 0, 1, ... steps, and
            ``peak`` and ``height``, which may be nan.
        lines: per alpha ``alpha``, ``kappa``, ``reward``, ``error`` [n], ``used`` (flags, [n]), ``exact``
            (the formula's slope) and ``label``.
        title: line above the picture.
    """
    figure, [left, right] = sheet(title, columns=2, width=9.6, height=4.0)
    for curve, color in zip(curves, _colours(len(curves)), strict=True):
        steps = np.arange(len(curve["exact"]))
        low, high = (curve["mean"] + side * BAND * curve["error"] for side in (-1, 1))
        left.fill_between(steps, low, high, color=color, alpha=0.25, lw=0)
        left.plot(steps, curve["exact"], color=color, lw=1.5, label=f"N = {curve['population']}")
        if np.isfinite(curve["peak"]):
            left.plot(curve["peak"], curve["height"], "*", color=color, ms=10, mec="white")
    left.set_xscale("log")
    left.set_xlim(1, len(curves[0]["exact"]) - 1)
    left.set_xlabel("steps (logarithmic)")
    left.set_ylabel("expected reward J (maximum 1)")
    left.set_title("lines: closed form; bands: simulated mean, 95 %; stars: peak")
    left.legend(loc="lower right")
    for line, color in zip(lines, PALETTE, strict=False):
        _steady(right, line, color)
    right.set_xlabel("kappa = sigma² / N, sigma of the model")
    right.set_ylabel("steady reward J_inf (maximum 1)")
    right.set_title("lines: closed form; hollow: not used for the slope")
    right.legend(loc="lower left")
    save(figure, path)


def _steady(axes: Axes, line: Mapping[str, Any], color: str) -> None:
    kappas, used = np.asarray(line["kappa"]), np.asarray(line["used"])
    ends = np.array([0.0, kappas.max()])
    axes.plot(ends, 1 - line["exact"] * ends, color=color, lw=1.2)
    for chosen, face in ((used, color), (~used, "white")):
        axes.errorbar(
            kappas[chosen],
            np.asarray(line["reward"])[chosen],
            BAND * np.asarray(line["error"])[chosen],
            fmt="o",
            color=color,
            mfc=face,
            ms=5,
            lw=1.2,
            label=line["label"] if chosen is used else None,
        )


def _colours(count: int) -> list[Any]:
    """Shades of blue, the darkest for the last curve."""
    from matplotlib import colormaps

    return [colormaps["Blues"](0.35 + 0.6 * place / max(count - 1, 1)) for place in range(count)]


@style()
def double_well(path: Path, rows: Sequence[Mapping[str, float]], steps: int, runs: int) -> None:
    """Draw the mean time of an escape, and the share of escapes, by the height of the barrier.

    Args:
        path: PNG file to write.
        rows: per height ``height``, ``kramers_steps``, ``mean_steps``, ``simulated_steps`` (may be nan),
            ``error``, ``share`` and ``expected_share``; ascending.
        steps: steps of each simulated run.
        runs: simulated runs of each height.
    """
    title = f"escapes from one well to the other: {runs} runs of {steps:,} steps per barrier"
    figure, [left, right] = sheet(title, columns=2, width=9.6, height=4.0)
    height, kramers, mean, simulated, error, share, expected = (
        np.array([row[name] for row in rows])
        for name in (
            "height",
            "kramers_steps",
            "mean_steps",
            "simulated_steps",
            "error",
            "share",
            "expected_share",
        )
    )
    left.semilogy(height, kramers, color=RED, lw=1.3, ls="--", label="Kramers' law")
    left.semilogy(height, mean, color=INK, lw=1.3, label="mean of the diffusion, exact")
    seen = np.isfinite(simulated)
    left.errorbar(
        *(height[seen], simulated[seen], BAND * error[seen]),
        fmt="o",
        color=ACCENT,
        ms=5,
        lw=1.2,
        label="simulated, 95 %",
    )
    left.axhline(steps, color=QUIET, lw=1, ls=":")
    left.annotate("length of a run", (height[0], steps), color=INK, fontsize=8, va="bottom")
    left.set_ylabel("mean steps until the other well")
    left.legend(loc="upper left")
    right.plot(height, expected, color=INK, lw=1.3, label="1 - exp(-run / mean steps)")
    spread = BAND * np.sqrt(share * (1 - share) / runs)
    right.errorbar(height, share, spread, fmt="o", color=ACCENT, ms=5, lw=1.2, label="simulated, 95 %")
    right.set_ylabel("share of runs that reach the other well")
    right.set_ylim(-0.04, 1.08)
    right.legend(loc="center left", bbox_to_anchor=(0.0, 0.35))
    ends = (1.0, float(np.log(steps)))
    for axes in (left, right):
        axes.axvspan(*ends, color=GREEN, alpha=0.1, lw=0)
        axes.set_xlabel("height of the barrier / temperature")
    right.set_title(f"up to 1: no memory; band: hops; above ln {steps:,}: stuck")
    save(figure, path)


@style()
def fitted_curve(
    path: Path,
    times: Array,
    rewards: Array,
    fit: Mapping[str, Array] | None,
    interval: tuple[float, float] | None,
    what: str,
    title: str,
) -> None:
    """Draw a run's rewards, the fitted curve and the interval of its peak.

    Args:
        path: PNG file to write.
        times: updates done, [n].
        rewards: [n].
        fit: ``times`` and ``rewards`` of the fitted curve, and its ``peak``, [1]; None if there is no fit.
        interval: of the peak.
        what: what the rewards are of.
        title: line above the picture.
    """
    figure, [axes] = sheet(title)
    axes.plot(times, rewards, ".", color=QUIET, ms=5, label=what)
    if fit is not None and interval is not None:
        axes.plot(fit["times"], fit["rewards"], color=ACCENT, lw=1.6, label="two modes")
        axes.axvspan(*interval, color=GREEN, alpha=0.15, lw=0)
        axes.axvline(float(fit["peak"][0]), color=GREEN, lw=1.2, ls=":", label="peak, 90 % interval")
    axes.set_xlabel("generations done")
    axes.set_ylabel("reward (higher is better)")
    axes.legend()
    save(figure, path)
