"""What ``simulate --fit`` reads of a run, fits, prints and draws."""

from __future__ import annotations

import logging
from argparse import Namespace
from pathlib import Path

import numpy as np

from es_lightning.analysis.two_modes import TwoModes
from es_lightning.errors import UsageError
from es_lightning.journal.entry import JOURNAL, read_journal
from es_lightning.journal.evaluations import read_evaluations
from es_lightning.landscape.theory.fitted_run import FittedRun, fitted_run
from es_lightning.reports.csv_file import write_csv
from es_lightning.reports.toy_picture import fitted_curve
from es_lightning.reports.toy_table import show

log = logging.getLogger(__name__)

NAMES = {"population": "population mean, training", "validation": "centre, validation"}


def fitted(options: Namespace) -> None:
    """Fit a run's curve, print what it says, and draw it.

    Args:
        options: of this command.

    Raises:
        UsageError: the folder has no journal, or nothing was validated.
    """
    header, entries = read_journal(options.fit / JOURNAL)
    points = validation_points(options.fit) if options.rewards == "validation" else None
    run = fitted_run(header, entries, points)
    rows = [
        {"result": name, "value": value, "90 % interval": interval, "verdict": verdict}
        for name, value, interval, verdict in _results(run)
    ]
    reasons = dict.fromkeys(reason for reason in (run.judged.reason, run.reason) if reason)
    below = [f"FAIL: {reason}" for reason in reasons] + _words(run)
    show(f"{options.fit}, {NAMES[options.rewards]}, {len(run.times)} points", rows, below)
    if len(run.times):
        _write(options, run)


def validation_points(folder: Path) -> list[tuple[float, float]]:
    """Return updates done and the centre's validation reward, from a run's evaluations.jsonl.

    Args:
        folder: the run's.

    Raises:
        UsageError: there is no such file, it is damaged, or nothing was validated.
    """
    validated = [each for each in read_evaluations(folder) if each.split == "val"]
    if not validated:
        raise UsageError(f"{folder} has validated nothing: use --rewards population.")
    return [(float(each.step), float(np.mean(each.rewards))) for each in validated]


def _results(run: FittedRun) -> list[tuple[str, float, str, str]]:
    modes = run.judged.modes
    peak, interval = (np.nan, "-") if modes is None else (modes.peak, _between(*modes.interval))
    found = "-" if run.reason else _between(*run.interval)
    return [
        ("t_peak, generations", peak, interval, "FAIL" if modes is None else "found"),
        ("d_eff of the soft directions", run.dimension, found, "FAIL" if run.reason else "found"),
    ]


def _between(low: float, high: float) -> str:
    return f"{low:.4g} to {high:.4g}"


def _words(run: FittedRun) -> list[str]:
    modes = run.judged.modes
    if modes is None:
        return ["A FAIL is an answer: these points do not tell more."]
    rates = " and ".join(f"{size:.3g} exp(-{rate:.3g} t)" for size, rate in (modes.high, modes.low))
    words = [
        f"J_inf {modes.steady:.4g}, modes {rates}; noise of neighbours correlates by {modes.correlation:.2g}"
    ]
    if not run.reason:
        words.append(
            "d_eff is that of soft directions that start at their maximum: else there are more of them"
        )
    return words


def _write(options: Namespace, run: FittedRun) -> None:
    modes, folder = run.judged.modes, options.output
    curve = np.full(len(run.times), np.nan) if modes is None else _curve(modes, run.times, run.times[0])
    names = ("generation", "reward", "fitted")
    rows = [dict(zip(names, row, strict=True)) for row in zip(run.times, run.rewards, curve, strict=True)]
    write_csv(folder / "fit.csv", rows)
    fit = None
    if modes is not None:
        last = max(float(run.times[-1]), modes.interval[1])
        fine = np.linspace(float(run.times[0]), last, 400)
        fit = {"times": fine, "rewards": _curve(modes, fine, run.times[0]), "peak": np.array([modes.peak])}
    interval = None if modes is None else modes.interval
    title = f"{options.fit}: {'no peak can be told' if modes is None else f'peak at {modes.peak:.4g}'}"
    fitted_curve(folder / "fit.png", run.times, run.rewards, fit, interval, NAMES[options.rewards], title)
    log.info("the picture and its points are in %s", folder)


def _curve(modes: TwoModes, times: np.ndarray, first: float) -> np.ndarray:
    decays = (size * np.exp(-rate * (times - first)) for size, rate in (modes.high, modes.low))
    return np.asarray(modes.steady + sum(decays))
