"""How soon a fallen reward is noticed, and how often one that never fell is called fallen.

    python benchmarks/early_peak.py
    python benchmarks/early_peak.py --every 20 --plateaus 0 --correlation 0.3
    python benchmarks/early_peak.py --picture docs/callbacks/early_peak.png

Rewards are simulated: the quadratic model of arXiv 2602.00170 for the first table, curves that never fall for
the second. No model is run.
"""

import argparse
import logging
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import numpy.typing as npt

from es_lightning.analysis.peak import PeakTest, statistics
from es_lightning.analysis.two_modes import fit_two_modes
from es_lightning.callbacks import EarlyPeak
from es_lightning.cli.console import quiet
from es_lightning.landscape.quadratic import Quadratic, two_groups
from es_lightning.reports import plots

log = logging.getLogger("early_peak")

Array = npt.NDArray[np.float64]
STEPS, EVERY, RATE = 600, 5, 0.05  # generations, generations per measurement, stated false alarms
POINTS = STEPS // EVERY


def toys() -> dict[str, Quadratic]:
    """The landscapes: the paper's toy, and one of more directions and a slower decay; several N each."""
    found = {}
    for population in (10, 30, 100):
        toy = two_groups((8, 1.0, 0.3), (8, 0.05, 0.0), alpha=0.1, sigma=2.0, population=population)
        found[f"16 of 128 directions, N={population}"] = toy
    for population in (10, 30):
        start, scale = (100, 1.0, 0.1), (400, 0.02, 0.0)
        wide = two_groups(start, scale, dimension=1000, alpha=0.1, sigma=0.4, population=population)
        found[f"500 of 1000 directions, N={population}"] = wide
    return found


def spread(values: Array) -> str:
    """Median, 10 % and 90 % quantile."""
    if not len(values):
        return "-"
    low, middle, high = np.quantile(values, [0.1, 0.5, 0.9])
    return f"{middle:.0f} ({low:.0f}-{high:.0f})"


def detected(
    toy: Quadratic, evaluation_noise: float, runs: int, seed: int, every: int, correlation: float | None
) -> str:
    """One row of the first table: runs of a landscape, measured every so often with so much noise."""
    true = toy.simulate(STEPS, runs, seed)[:, every::every]
    points = true.shape[1]
    noise = evaluation_noise * np.random.default_rng(seed + 1).standard_normal(true.shape)
    test, times = PeakTest(RATE, points, correlation=correlation), every * np.arange(1, points + 1)
    seen = true + noise
    at = first_alarms(test, seen)
    found, at = at < points, np.minimum(at, points - 1)
    expected = toy.rewards(np.arange(STEPS + 1, dtype=np.float64))
    peak, rows = int(expected.argmax()), np.arange(runs)
    best = true.max(axis=1)
    decay = float(expected.max() - expected[-1])
    if not found.any():
        return f"{evaluation_noise} | {decay:.3f} | {peak} | 0%" + " | -" * 6
    chosen = [test(seen[row, : at[row] + 1]).peak for row in rows]
    lost = [float(np.mean((best - part)[found])) for part in (true[rows, at], true[rows, chosen])]
    end = float(np.mean((best - true[:, -1])[found]))
    late = (times[at] - peak)[found]
    fits = [fit_two_modes(times[: at[row] + 1], seen[row, : at[row] + 1]) for row in rows[found]]
    share = np.mean([fit is not None for fit in fits])
    return (
        f"{evaluation_noise} | {decay:.3f} | {peak} | {found.mean():.0%} | {spread(late / every)} "
        f"| {spread(late)} | {end:.3f} | {lost[0]:.3f} | {lost[1]:.3f} | {share:.0%}"
    )


def first_alarms(test: PeakTest, curves: Array) -> Array:
    """Index of the point at which each curve raises an alarm; beyond the last one where none does."""
    suspect = statistics(curves, test.smallest) > test.critical(curves)
    first = np.full(len(curves), curves.shape[1])
    for row, points in enumerate(suspect):
        raised = (n for n in np.flatnonzero(points) if test(curves[row, : n + 1].tolist()).alarm)
        first[row] = next(raised, curves.shape[1])
    return first


def autoregressive(noise: Array, correlation: float) -> Array:
    """AR(1) noise of unit variance."""
    for t in range(1, noise.shape[1]):
        noise[:, t] = correlation * noise[:, t - 1] + np.sqrt(1 - correlation**2) * noise[:, t]
    return noise


def never_falling(runs: int, seed: int) -> dict[str, Array]:
    """Curves whose mean never falls."""
    generator, shape = np.random.default_rng(seed), (runs, POINTS)
    rise = 10 * (1 - np.exp(-np.arange(POINTS) / 15))
    toy = two_groups((8, 1.0, 0.0), (8, 0.05, 0.0))
    return {
        "plateau, white noise": generator.standard_normal(shape),
        "saturating rise, white noise": rise + generator.standard_normal(shape),
        "plateau, Student t noise, 3 degrees of freedom": generator.standard_t(3, shape),
        "plateau, accuracies of k out of 64": generator.binomial(64, 0.4, shape) / 64,
        "plateau, AR(1) noise 0.5": autoregressive(generator.standard_normal(shape), 0.5),
        "plateau, AR(1) noise 0.8": autoregressive(generator.standard_normal(shape), 0.8),
        "saturating rise, AR(1) noise 0.5": rise + autoregressive(generator.standard_normal(shape), 0.5),
        "quadratic toy in its steady state, exactly measured": toy.simulate(1600, runs, seed)[
            :, 1000:1600:EVERY
        ],
    }


class Simulated(EarlyPeak):
    """Draws the points of a simulated run."""

    def title(self, trainer: pl.Trainer) -> str:
        """What is simulated."""
        return "simulated: 500 of 1000 directions, N=10, measurement noise 0.01, seed 4"


def draw(path: Path) -> None:
    """The callback's picture of one run, up to the alarm."""
    toy = toys()["500 of 1000 directions, N=10"]
    rewards = toy.simulate(STEPS, 1, seed=4)[0, EVERY::EVERY]
    rewards += 0.01 * np.random.default_rng(5).standard_normal(POINTS)
    watcher, alarm = Simulated(horizon=POINTS), None
    for generation, reward in zip(range(EVERY, STEPS + 1, EVERY), rewards.tolist(), strict=True):
        numbers, alarm = watcher.watch.add(generation, reward)
        watcher.rows.append({"generation": float(generation), **numbers})
        if alarm is not None:
            watcher.watch.alarms.append(alarm | {"action": "stop"})
            break
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    plots.save(watcher.figure(trainer), path)


def main() -> None:
    """Simulate and print two tables."""
    parser = argparse.ArgumentParser(description=Path(__file__).stem)
    parser.add_argument("--runs", type=int, default=200, help="of each row of the first table")
    parser.add_argument("--plateaus", type=int, default=600, help="runs of each row of the second table")
    parser.add_argument("--every", type=int, default=EVERY, help="generations per measurement, first table")
    parser.add_argument("--correlation", type=float, help="of the noise, first table; estimated if not given")
    parser.add_argument("--picture", type=Path, help="draw the callback's picture of one run, and no tables")
    arguments = parser.parse_args()
    quiet()
    if arguments.picture:
        draw(arguments.picture)
        return
    log.info(
        "%d generations, measured every %d; stated false-alarm rate %.2f per run",
        STEPS,
        arguments.every,
        RATE,
    )
    log.info(
        "| landscape | noise | decay | peak | detected | late, points | late, generations | lost at the end "
        "| lost at the alarm | lost after going back | peak fitted |\n|%s",
        "---|" * 11,
    )
    for seed, (name, toy) in enumerate(toys().items()):
        for noise in (0.005, 0.02):
            settings = (arguments.runs, 1000 * seed, arguments.every, arguments.correlation)
            log.info("| %s | %s |", name, detected(toy, noise, *settings))
    if not arguments.plateaus:
        return
    log.info("\n| reward that never falls | correlation | false alarms | stated |\n|---|---|---|---|")
    for name, curves in never_falling(arguments.plateaus, 7).items():
        for correlation in (None, 0.0, 0.5):
            test = PeakTest(RATE, POINTS, correlation=correlation)
            share = float((first_alarms(test, curves) < POINTS).mean())
            log.info(
                "| %s | %s | %.3f | %.2f |",
                name,
                "estimated" if correlation is None else correlation,
                share,
                RATE,
            )


if __name__ == "__main__":
    main()
