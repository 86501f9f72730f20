"""How soon a fallen reward is noticed, and how often one that never fell is called fallen.

    python benchmarks/early_peak.py --tables late
    python benchmarks/early_peak.py --tables curves
    python benchmarks/early_peak.py --tables prompts --prompts 32 --plateaus 300
    python benchmarks/early_peak.py --picture docs/callbacks/early_peak.png
    python benchmarks/early_peak.py --replay runs/mine

Rewards are simulated: the quadratic model of arXiv 2602.00170 for the first table, curves and prompts that
never fall for the others. No model is run. A replay judges the points of a run's tables/early_peak.json.
"""

import argparse
import json
import logging
from collections.abc import Callable
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from es_lightning.analysis.paired_peak import PairedPeakTest
from es_lightning.analysis.peak import PeakTest, statistics
from es_lightning.callbacks import EarlyPeak
from es_lightning.cli.console import quiet
from es_lightning.landscape.quadratic import Quadratic, two_groups
from es_lightning.landscape.theory.prompts import graded_rewards, solved
from es_lightning.reports import plots

log = logging.getLogger("early_peak")

Array = npt.NDArray[np.float64]
STEPS, EVERY, RATE = 600, 5, 0.05  # generations, generations per measurement, stated false alarms
POINTS = STEPS // EVERY
WANDER = 0.1  # standard deviation of each prompt's random walk at the end of a run


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


def detected(toy: Quadratic, noise: float, graded: bool, arguments: argparse.Namespace, seed: int) -> str:
    """One row of the first table: runs of a landscape, each judged by both tests.

    Args:
        toy: the landscape.
        noise: of the mean over all prompts in one measurement; without ``graded`` it is what 0 and 1 make.
        graded: whether prompts earn any value, or 0 and 1.
        arguments: of the command line.
        seed: of this row.
    """
    every, prompts = arguments.every, arguments.prompts
    true = toy.simulate(STEPS, arguments.runs, seed)[:, every::every]
    points = true.shape[1]
    rewards = [
        graded_rewards(curve, prompts, WANDER, noise * np.sqrt(prompts), seed + 1 + run)
        if graded
        else solved(np.clip(curve, 0.0, 1.0), prompts, seed + 1 + run)
        for run, curve in enumerate(true)
    ]
    expected = toy.rewards(np.arange(STEPS + 1, dtype=np.float64))
    peak = int(expected.argmax())
    decay = float(expected.max() - expected[-1])
    curves = np.stack([each.mean(axis=1) for each in rewards])
    test = PeakTest(RATE, points, correlation=arguments.correlation)
    first = first_alarms(test, curves)
    by_curve = [(at, test(curve[: at + 1]).peak) for curve, at in zip(curves, first, strict=True)]
    cells = [f"{decay:.3f} | {peak}"]
    for found in (by_curve, [paired_alarm(each) for each in rewards]):
        seen = [(run, at, chosen) for run, (at, chosen) in enumerate(found) if at < points]
        late = np.array([every * (at + 1) - peak for _, at, _ in seen], dtype=np.float64)
        best = true.max(axis=1)
        at_alarm = [best[run] - true[run, at] for run, at, _ in seen]
        gone_back = [best[run] - true[run, chosen] for run, _, chosen in seen]
        kept = " | ".join(f"{np.mean(part):.3f}" if part else "-" for part in (at_alarm, gone_back))
        cells.append(f"{len(seen) / len(true):.0%} | {spread(late)} | {kept}")
    return " | ".join(cells)


def paired_alarm(rewards: Array) -> tuple[int, int]:
    """Index of the first alarm of a run [T, P], prompt by prompt, and of its peak; T if there is none."""
    test = PairedPeakTest(rewards.shape[1], RATE)
    for at, row in enumerate(rewards):
        verdict = test.add(row.tolist())
        if verdict.alarm:
            return at, verdict.peak
    return len(rewards), 0


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
    treble = np.where(np.arange(POINTS) < POINTS // 2, 1.0, 3.0)

    def mixed(correlation: float, white: float) -> Array:
        slow = autoregressive(generator.standard_normal(shape), correlation)
        return np.sqrt(1 - white) * slow + np.sqrt(white) * generator.standard_normal(shape)

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
        "plateau, AR(1) noise 0.75 and as much white noise": mixed(0.75, 0.5),
        "plateau, AR(1) noise 0.95 and as much white noise": mixed(0.95, 0.5),
        "plateau, AR(1) noise 0.95 and a third as much white noise": mixed(0.95, 0.25),
        "plateau, white noise that trebles half-way": treble * generator.standard_normal(shape),
        "quadratic toy in its steady state, exactly measured": toy.simulate(1600, runs, seed)[
            :, 1000:1600:EVERY
        ],
    }


def never_worse(prompts: int) -> dict[str, Callable[[int], Array]]:
    """Rewards [T, P] of one run, by seed, whose mean over all possible prompts never falls."""
    flat = np.full(POINTS, 0.5)
    treble = np.where(np.arange(POINTS) < POINTS // 2, 1.0, 3.0)[:, None]

    def skewed(seed: int) -> Array:
        steps = np.random.default_rng(seed).exponential(0.05, (POINTS, prompts)) - 0.05
        return np.asarray(-np.cumsum(steps, axis=0))

    def rare(seed: int) -> Array:
        """Each prompt drops once at most, one in twenty within the run, by 20 times what the others gain."""
        at = np.random.default_rng(seed).random((POINTS, prompts)) * 20 * POINTS < 1
        return np.cumsum(np.where(at, 1.0, 0.0) - 1 / (20 * POINTS), axis=0)

    return {
        "each prompt a random walk": lambda seed: graded_rewards(flat, prompts, 0.2, 0.0, seed),
        "jitter": lambda seed: graded_rewards(flat, prompts, 0.0, 0.2, seed),
        "random walks and as much jitter": lambda seed: graded_rewards(flat, prompts, 0.2, 0.2, seed),
        "jitter that trebles half-way": lambda seed: treble * graded_rewards(0 * flat, prompts, 0, 1, seed),
        "0 and 1, 10 % solved, slow": lambda seed: solved(flat - 0.4, prompts, seed),
        "0 and 1, a half solved, quick": lambda seed: solved(flat, prompts, seed, 0.3, 0.2, 0.8),
        "0 and 1, 90 % solved, slow": lambda seed: solved(flat + 0.4, prompts, seed),
        "many small losses, few large gains": lambda seed: -skewed(seed),
        "few large losses, many small gains": skewed,
        "one prompt in twenty gains much, all others lose little": rare,
    }


class Simulated(EarlyPeak):
    """Draws the points of a simulated run."""

    curve_alarm: int | None = None
    """Generation at which the test of the curve raises its alarm."""

    def title(self, trainer: pl.Trainer) -> str:
        """What is simulated."""
        return "simulated: 500 of 1000 directions, N=10, 64 prompts, seed 4"

    def figure(self, trainer: pl.Trainer) -> Figure:
        """Mark the other test's alarm, too."""
        figure = super().figure(trainer)
        if self.curve_alarm is not None:
            above = figure.axes[0]
            above.axvline(self.curve_alarm, color="0.5", lw=1.2, ls=":", label="alarm of the curve's test")
            above.legend()
        return figure


def draw(path: Path) -> None:
    """The callback's picture of one run, marked and not stopped."""
    toy = toys()["500 of 1000 directions, N=10"]
    true = toy.simulate(STEPS, 1, seed=4)[0, EVERY::EVERY]
    rewards = graded_rewards(true, 64, WANDER, 0.08, seed=5)
    watcher, test = Simulated(horizon=POINTS), PeakTest(RATE, POINTS)
    means = rewards.mean(axis=1).tolist()
    for at, row in enumerate(rewards):
        generation = EVERY * (at + 1)
        numbers, alarm = watcher.watch.add(generation, means[at], row.tolist())
        watcher.rows.append({"generation": float(generation), **numbers})
        if alarm is not None and not watcher.watch.alarms:
            watcher.watch.alarms.append(alarm | {"action": "mark"})
        if test(means[: at + 1]).alarm:
            watcher.curve_alarm = generation
            break
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    with plots.style():
        plots.save(watcher.figure(trainer), path)
    log.info("alarms: %s prompt by prompt, %s of the curve", watcher.watch.alarms, watcher.curve_alarm)


def replay(folder: Path) -> None:
    """When each test finds the run fallen, for several falls that are not worth an alarm."""
    kept = json.loads((folder / "tables" / "early_peak.json").read_text(encoding="utf-8"))
    points = kept["points"]
    times, means = [point["generation"] for point in points], [point["value"] for point in points]
    log.info(
        "%d measurements of %d prompts: %s",
        len(points),
        len(kept["prompts"]),
        [round(mean, 3) for mean in means],
    )
    horizon = 1 << max(5, (len(points) - 1).bit_length())
    joined = without_order(kept["prompts"], np.array([point["prompts"] for point in points]))
    for min_drop in (0.0, 0.05, 0.1):
        paired = PairedPeakTest(len(kept["prompts"]), RATE, min_drop=min_drop)
        by_prompt = [paired.add(point["prompts"]).alarm for point in points]
        test = PeakTest(RATE, horizon, min_drop=min_drop)
        by_curve = [test(means[: n + 1]).alarm for n in range(len(means))]
        sums = PairedPeakTest(joined.shape[1], RATE, min_drop=min_drop)
        by_sum = [sums.add(row).alarm for row in joined]
        found = {"prompt by prompt": by_prompt, f"by {joined.shape[1]} sums": by_sum, "the curve": by_curve}
        for name, alarms in found.items():
            log.info("min_drop %g, %s: fallen at generations %s", min_drop, name, stretches(times, alarms))


def without_order(ids: list[str], rewards: Array) -> Array:
    """Average the rewards [T, P] of problems with the same addends in another order, [T, P or fewer].

    7 + 12 and 12 + 7 are often solved together, so they are no two draws from all problems.
    """
    sums = [tuple(sorted(each.rpartition("/")[2].split("+"))) for each in ids]
    columns = [[at for at, each in enumerate(sums) if each == one] for one in dict.fromkeys(sums)]
    return np.stack([rewards[:, at].mean(axis=1) for at in columns], axis=1)


def stretches(times: list[float], alarms: list[bool]) -> str:
    """The times at which there is an alarm, as ``32-38, 70-200``."""
    found, last = list[list[float]](), False
    for at, alarm in zip(times, alarms, strict=True):
        if alarm and last:
            found[-1][1] = at
        elif alarm:
            found.append([at, at])
        last = alarm
    return ", ".join(f"{first:g}-{end:g}" for first, end in found) or "none"


def late(arguments: argparse.Namespace) -> None:
    """Print how late each test notices a fall."""
    log.info(
        "%d generations, measured every %d, %d prompts; stated false-alarm rate %.2f per run\n"
        "| landscape | noise | decay | peak | curve: noticed | generations late | lost at the alarm | after "
        "going back | prompts: noticed | generations late | lost at the alarm | after going back |\n|%s",
        *(STEPS, arguments.every, arguments.prompts, RATE, "---|" * 12),
    )
    for seed, (name, toy) in enumerate(toys().items()):
        for noise in (0.005, 0.01, 0.02):
            log.info("| %s | %s | %s |", name, noise, detected(toy, noise, True, arguments, 1000 * seed))
        log.info("| %s | 0 and 1 | %s |", name, detected(toy, 0.0, False, arguments, 1000 * seed))


def curves(arguments: argparse.Namespace) -> None:
    """Print how often the test of a curve calls one fallen that never fell."""
    log.info("| reward that never falls | correlation | false alarms | stated |\n|---|---|---|---|")
    for name, each in never_falling(arguments.plateaus, 7).items():
        for correlation in (None, 0.0, 0.5):
            test = PeakTest(RATE, POINTS, correlation=correlation)
            share = float((first_alarms(test, each) < POINTS).mean())
            log.info("| %s | %s | %.3f | %.2f |", name, correlation, share, RATE)


def prompts(arguments: argparse.Namespace) -> None:
    """Print how often centres are called worse that are not."""
    log.info("| rewards | prompts | false alarms | stated |\n|---|---|---|---|")
    for name, make in never_worse(arguments.prompts).items():
        alarms = [paired_alarm(make(seed))[0] < POINTS for seed in range(arguments.plateaus)]
        log.info("| %s | %d | %.3f | %.2f |", name, arguments.prompts, np.mean(alarms), RATE)


def main() -> None:
    """Simulate and print the tables."""
    parser = argparse.ArgumentParser(description=Path(__file__).stem)
    tables = {"late": late, "curves": curves, "prompts": prompts}
    parser.add_argument("--tables", choices=tables, nargs="+", default=list(tables))
    parser.add_argument("--runs", type=int, default=60, help="of each row of the table late")
    parser.add_argument("--plateaus", type=int, default=600, help="runs of each row of the other tables")
    parser.add_argument("--prompts", type=int, default=64, help="of a validation, tables late and prompts")
    parser.add_argument("--every", type=int, default=EVERY, help="generations per measurement, table late")
    parser.add_argument("--correlation", type=float, help="of the noise, table late; estimated if not given")
    parser.add_argument("--picture", type=Path, help="draw the callback's picture of one run, and no tables")
    parser.add_argument("--replay", type=Path, help="folder of a run to judge again, and no tables")
    arguments = parser.parse_args()
    quiet()
    if arguments.picture:
        draw(arguments.picture)
    if arguments.replay:
        replay(arguments.replay)
    for table in [] if arguments.picture or arguments.replay else arguments.tables:
        tables[table](arguments)


if __name__ == "__main__":
    main()
