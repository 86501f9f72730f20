"""How soon a fallen reward is noticed, and how often one that never fell is called fallen.

    python benchmarks/early_peak.py --tables late
    python benchmarks/early_peak.py --tables late --only "1000 directions, N=10" --prompts 256 --runs 30
    python benchmarks/early_peak.py --tables errors --only "1000 directions, N=10"
    python benchmarks/early_peak.py --tables flat --plateaus 200
    python benchmarks/early_peak.py --tables curves
    python benchmarks/early_peak.py --tables prompts --prompts 32 --plateaus 300
    python benchmarks/early_peak.py --picture docs/callbacks/early_peak.png
    python benchmarks/early_peak.py --replay runs/mine
    python benchmarks/early_peak.py --replay runs/mine --picture early_peak.png

Rewards are simulated: the quadratic model of arXiv 2602.00170 for the first table, curves and prompts that
never fall for the others. No model is run. A replay judges the points of a run's tables/early_peak.json.

A run whose fall is not noticed is one of a delay beyond its end, and counts in every median.
"""

import argparse
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from es_lightning.analysis.paired_peak import PairedPeakTest
from es_lightning.analysis.peak import PeakTest, PeakVerdict, statistics
from es_lightning.callbacks import EarlyPeak
from es_lightning.cli.console import quiet
from es_lightning.journal.entry import JOURNAL, read_journal
from es_lightning.landscape.quadratic import Quadratic, two_groups
from es_lightning.landscape.theory.prompts import graded_rewards, solved

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


def spread(delays: Array) -> str:
    """Median, 10 % and 90 % quantile of delays [R], which are infinite where a run has no alarm."""
    low, middle, high = (f"{each:.0f}" if np.isfinite(each) else "never" for each in quantiles(delays))
    return "not within the run" if middle == "never" else f"{middle} ({low}-{high})"


def quantiles(delays: Array) -> Array:
    """10 %, 50 % and 90 % quantile, each one of the delays: there is no middle of a number and infinity."""
    return np.asarray(np.quantile(delays, [0.1, 0.5, 0.9], method="inverted_cdf"))


def ratio(ours: Array, theirs: Array, longest: float) -> str:
    """Median delay by prompts over that by the curve; an upper bound where the curve's is beyond the run."""
    middle, other = quantiles(ours)[1], quantiles(theirs)[1]
    if not np.isfinite(middle):
        return "-"
    return f"{middle / other:.2f}" if np.isfinite(other) else f"< {middle / longest:.2f}"


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
    rewards = [measured(curve, prompts, noise, graded, seed + 1 + run) for run, curve in enumerate(true)]
    expected = toy.rewards(np.arange(STEPS + 1, dtype=np.float64))
    peak = int(expected.argmax())
    decay = float(expected.max() - expected[-1])
    curves = np.stack([each.mean(axis=1) for each in rewards])
    test = PeakTest(RATE, points, correlation=arguments.correlation)
    first = first_alarms(test, curves)
    by_curve = [(at, test(curve[: at + 1]).peak) for curve, at in zip(curves, first, strict=True)]
    cells, delays = [f"{decay:.3f} | {peak}"], []
    for found in (by_curve, [paired_alarm(each, arguments.rate) for each in rewards]):
        seen = [(run, at, chosen) for run, (at, chosen) in enumerate(found) if at < points]
        late = np.array([every * (at + 1) - peak if at < points else np.inf for at, _ in found])
        best = true.max(axis=1)
        at_alarm = [best[run] - true[run, at] for run, at, _ in seen]
        gone_back = [best[run] - true[run, chosen] for run, _, chosen in seen]
        kept = " | ".join(f"{np.mean(part):.3f}" if part else "-" for part in (at_alarm, gone_back))
        cells.append(f"{len(seen) / len(true):.0%} | {spread(late)} | {kept}")
        delays.append(late)
    return " | ".join([*cells, ratio(delays[1], delays[0], STEPS - peak)])


def measured(curve: Array, prompts: int, noise: float, graded: bool, seed: int) -> Array:
    """Rewards [T, P] of a run: of any value and with jitter, ``noise`` in their mean, or 0 and 1."""
    if graded:
        return graded_rewards(curve, prompts, WANDER, noise * np.sqrt(prompts), seed)
    return solved(np.clip(curve, 0.0, 1.0), prompts, seed)


def paired_alarm(rewards: Array, rate: float = RATE) -> tuple[int, int]:
    """Index of the first alarm of a run [T, P], prompt by prompt, and of its peak; T if there is none."""
    test = PairedPeakTest(rewards.shape[1], rate)
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
        "plateau, AR(1) noise 0.9": autoregressive(generator.standard_normal(shape), 0.9),
        "plateau, AR(1) noise 0.95": autoregressive(generator.standard_normal(shape), 0.95),
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


class Drawn(EarlyPeak):
    """Draws points that no run measures now, marked and not stopped.

    Args:
        words: the picture's title.
        points: of a whole run.
    """

    curve_alarm: float | None = None
    """Generation at which the test of the curve raises its alarm."""

    def __init__(self, words: str, points: int) -> None:
        super().__init__(horizon=points, action="mark")
        self.words = words

    def title(self, trainer: pl.Trainer) -> str:
        """What is drawn."""
        return self.words

    def judge(self, generation: float, value: float, prompts: list[float]) -> None:
        """Add a point."""
        numbers, alarm = self.watch.add(int(generation), value, prompts)
        self.rows.append({"generation": float(generation), **numbers})
        if alarm is not None and not self.watch.alarms:
            self.watch.alarms.append(alarm | {"action": "mark"})

    def figure(self, trainer: pl.Trainer) -> Figure:
        """Mark the other test's alarm, too."""
        figure = super().figure(trainer)
        if self.curve_alarm is not None:
            above = figure.axes[0]
            above.axvline(self.curve_alarm, color="0.5", lw=1.2, ls=":", label="alarm of the curve's test")
            above.legend()
        return figure

    def write(self, path: Path) -> None:
        """Write picture and tables."""
        self.save(pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False), path)
        log.info("alarms: %s prompt by prompt, %s of the curve", self.watch.alarms, self.curve_alarm)


def draw(path: Path) -> None:
    """The callback's picture of one simulated run."""
    toy = toys()["500 of 1000 directions, N=10"]
    true = toy.simulate(STEPS, 1, seed=4)[0, EVERY::EVERY]
    rewards = graded_rewards(true, 64, WANDER, 0.08, seed=5)
    watcher = Drawn("simulated: 500 of 1000 directions, N=10, 64 prompts, seed 4", POINTS)
    means, test = rewards.mean(axis=1).tolist(), PeakTest(RATE, POINTS)
    for at, row in enumerate(rewards):
        watcher.judge(EVERY * (at + 1), means[at], row.tolist())
        if test(means[: at + 1]).alarm:
            watcher.curve_alarm = EVERY * (at + 1)
            break
    watcher.write(path)


def draw_again(folder: Path, path: Path) -> None:
    """The callback's picture of a run that was made before, from the points that it kept."""
    points = kept(folder)["points"]
    header, _ = read_journal(folder / JOURNAL)
    told = ", ".join(f"{name} {header['settings'][name]}" for name in ("population", "sigma", "lr", "seed"))
    watcher = Drawn(f"{header['task']} on {header['base']}: {told}", horizon(len(points)))
    for point in points:
        watcher.judge(point["generation"], float(f"{point['value']:.6g}"), point["prompts"])
    watcher.write(path)


def kept(folder: Path) -> dict[str, Any]:
    """What a run's callback wrote."""
    read: dict[str, Any] = json.loads((folder / "tables" / "early_peak.json").read_text(encoding="utf-8"))
    return read


def horizon(points: int) -> int:
    """The length that ``EarlyPeak`` plans for so many points."""
    return 1 << max(5, (points - 1).bit_length())


def replay(folder: Path) -> None:
    """When each test finds the run fallen, for several falls that are not worth an alarm."""
    told = kept(folder)
    points = told["points"]
    times, means = [point["generation"] for point in points], [point["value"] for point in points]
    log.info(
        "%d measurements of %d prompts: %s",
        len(points),
        len(told["prompts"]),
        [round(mean, 3) for mean in means],
    )
    rewards = np.array([point["prompts"] for point in points])
    joined = without_order(told["prompts"], rewards)
    for min_drop in (0.0, 0.05, 0.1):
        paired = PairedPeakTest(len(told["prompts"]), RATE, min_drop=min_drop)
        verdicts = [paired.add(point["prompts"]) for point in points]
        by_prompt = [verdict.alarm for verdict in verdicts]
        if any(by_prompt):
            tell(verdicts[by_prompt.index(True)], by_prompt.index(True), times, rewards)
        test = PeakTest(RATE, horizon(len(points)), min_drop=min_drop)
        by_curve = [test(means[: n + 1]).alarm for n in range(len(means))]
        sums = PairedPeakTest(joined.shape[1], RATE, min_drop=min_drop)
        by_sum = [sums.add(row).alarm for row in joined]
        found = {"prompt by prompt": by_prompt, f"by {joined.shape[1]} sums": by_sum, "the curve": by_curve}
        for name, alarms in found.items():
            log.info("min_drop %g, %s: fallen at generations %s", min_drop, name, stretches(times, alarms))


def tell(verdict: PeakVerdict, at: int, times: list[float], rewards: Array) -> None:
    """Print what the first alarm found, and the standard error of the paired difference."""
    half = verdict.window // 2
    stretches = (
        rewards[middle - half : middle + half + 1].mean(axis=0) for middle in (verdict.peak, at - half)
    )
    log.info(
        "first alarm at generation %g: from %.3f around %g to %.3f, standard error %.3f",
        times[at],
        verdict.level,
        times[verdict.peak],
        verdict.latest,
        standard_error(*stretches),
    )


def standard_error(before: Array, after: Array) -> float:
    """Standard error of the mean of differences prompt by prompt, [P] each."""
    return float((before - after).std(ddof=1) / np.sqrt(len(before)))


def errors(arguments: argparse.Namespace) -> None:
    """Print how far rewards of 0 and 1 have fallen, and the standard error of that by prompts."""
    log.info("| landscape | prompts | generations after the peak | fall | standard error |\n|%s", "---|" * 5)
    for seed, (name, toy) in enumerate(toys().items()):
        if arguments.only not in name:
            continue
        true = toy.simulate(STEPS, arguments.runs, 1000 * seed)[:, EVERY::EVERY]
        rewards = [measured(each, arguments.prompts, 0.0, False, run) for run, each in enumerate(true)]
        peak = int(toy.rewards(np.arange(STEPS + 1, dtype=np.float64)).argmax())
        best = peak // EVERY - 1
        for late in (90, 225):  # a third of the curve's median delay, and the delay by prompts
            at = (peak + late) // EVERY - 1
            falls = true[:, best - 1 : best + 2].mean(axis=1) - true[:, at - 2 : at + 1].mean(axis=1)
            spreads = [
                standard_error(each[best - 1 : best + 2].mean(axis=0), each[at - 2 : at + 1].mean(axis=0))
                for each in rewards
            ]
            found = name, arguments.prompts, late, falls.mean(), np.mean(spreads)
            log.info("| %s | %d | %d | %.3f | %.3f |", *found)


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
        "going back | prompts: noticed | generations late | lost at the alarm | after going back | of the "
        "curve's delay |\n|%s",
        *(STEPS, arguments.every, arguments.prompts, arguments.rate, "---|" * 13),
    )
    for seed, (name, toy) in enumerate(toys().items()):
        if arguments.only not in name:
            continue
        for noise in (0.005, 0.01, 0.02):
            log.info("| %s | %s | %s |", name, noise, detected(toy, noise, True, arguments, 1000 * seed))
        log.info("| %s | 0 and 1 | %s |", name, detected(toy, 0.0, False, arguments, 1000 * seed))


def flat(arguments: argparse.Namespace) -> None:
    """Print how often each test is wrong where the table late's rewards have a constant mean."""
    log.info("| noise | prompts | curve: false alarms | prompts: false alarms | stated |\n|%s", "---|" * 5)
    test, constant = PeakTest(RATE, POINTS, correlation=arguments.correlation), np.full(POINTS, 0.5)
    for noise in (0.005, 0.01, 0.02, 0.0):
        runs = [
            measured(constant, arguments.prompts, noise, noise > 0, seed)
            for seed in range(arguments.plateaus)
        ]
        by_curve = first_alarms(test, np.stack([each.mean(axis=1) for each in runs])) < POINTS
        by_prompt = [paired_alarm(each)[0] < POINTS for each in runs]
        shares = f"{by_curve.mean():.3f} | {np.mean(by_prompt):.3f}"
        log.info("| %s | %d | %s | %.2f |", noise or "0 and 1", arguments.prompts, shares, RATE)


def curves(arguments: argparse.Namespace) -> None:
    """Print how often the test of a curve calls one fallen that never fell."""
    log.info("| reward that never falls | correlation | false alarms | stated |\n|---|---|---|---|")
    for name, each in never_falling(arguments.plateaus, 7).items():
        if arguments.only not in name:
            continue
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
    tables = {"late": late, "errors": errors, "flat": flat, "curves": curves, "prompts": prompts}
    parser.add_argument("--tables", choices=tables, nargs="+", default=list(tables))
    parser.add_argument("--runs", type=int, default=60, help="of each row of the table late")
    parser.add_argument("--plateaus", type=int, default=600, help="runs of each row of the other tables")
    parser.add_argument("--prompts", type=int, default=64, help="of a validation, tables late and prompts")
    parser.add_argument("--only", default="", help="part of a row's name, tables late, errors and curves")
    parser.add_argument("--rate", type=float, default=RATE, help="of the test by prompts, table late")
    parser.add_argument("--every", type=int, default=EVERY, help="generations per measurement, table late")
    parser.add_argument("--correlation", type=float, help="of the noise, table late; estimated if not given")
    parser.add_argument("--picture", type=Path, help="draw the callback's picture, and no tables")
    parser.add_argument("--replay", type=Path, help="folder of a run to judge again, and no tables")
    arguments = parser.parse_args()
    quiet()
    if arguments.picture and arguments.replay:
        draw_again(arguments.replay, arguments.picture)
    elif arguments.picture:
        draw(arguments.picture)
    elif arguments.replay:
        replay(arguments.replay)
    for table in [] if arguments.picture or arguments.replay else arguments.tables:
        tables[table](arguments)


if __name__ == "__main__":
    main()
