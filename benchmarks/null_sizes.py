"""How often the probe's tests find something where there is nothing: rejections at 0.05.

    python benchmarks/null_sizes.py
    python benchmarks/null_sizes.py --runs 50

Each run probes pure noise of 32 prompts with 60 candidates in 2 batches, and a linear reward with 240 in 3.
Then it rounds 240 normal changes in each of 3 batches to steps of a part of their standard deviation. No
model is run.
"""

import argparse
import logging
from collections import Counter
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from es_lightning.cli.console import quiet
from es_lightning.errors import UsageError
from es_lightning.landscape import known
from es_lightning.landscape.curvature.degenerate import explained, shared_direction
from es_lightning.landscape.known import KnownLandscape
from es_lightning.landscape.probing.probe import Probe, ProbeSettings
from es_lightning.landscape.probing.results import ProbeResults
from es_lightning.landscape.probing.summary import ProbeTable, SigmaSummary, summarise
from es_lightning.landscape.statistics.best_of import SIZES
from es_lightning.landscape.statistics.gaussian_null import gaussian_test
from es_lightning.landscape.statistics.held_out import halvings
from es_lightning.records import Member

log = logging.getLogger("null_sizes")

SIGMA, PROMPTS, LEVEL = 0.5, 32, 0.05
STEPS = (0.18, 0.54, 0.72, 0.95)  # of changes, in standard deviations; 64 sums have 0.2 to 0.72
FEW = ProbeSettings(sigmas=(SIGMA,), members=60, batches=2, largest=30)


def probed(
    landscape: KnownLandscape, settings: ProbeSettings, folder: Path
) -> tuple[ProbeResults, SigmaSummary]:
    """Probe a landscape, and say what a report says."""
    results = Probe(landscape, settings, folder).run()
    [summary] = summarise(ProbeTable("null", results.centre, {SIGMA: results.rewards(SIGMA)}))
    return results, summary


def of_noise(index: int, folder: Path) -> dict[str, bool]:
    """Return which tests find something in pure noise."""
    landscape = known.pure_noise(PROMPTS, index)
    results, summary = probed(landscape, FEW, folder)
    held, found = summary.held_out, {}
    numbers = zip(held.sizes, held.low, held.over_mean_low, held.p_choice, strict=True)
    for size, low, over_mean, chosen in numbers:
        found[f"held-out gain of the best of {size}"] = bool(low > 0)
        found[f"gain of the best of {size} over the mean"] = bool(over_mean > 0)
        found[f"choice of the best of {size}"] = bool(chosen <= LEVEL)
    found["Gaussian null"] = summary.curve.p_null <= LEVEL
    changes, signs, seeds = results.at(SIGMA)
    noise = np.stack([landscape.noise(Member(0, seed, 1)) for seed in seeds])
    regression = explained(changes.mean(axis=1), signs[:, None] * noise, index)
    found["regression on coordinates"] = regression.p_value <= LEVEL
    return found | of_direction(results, landscape, index, "shared direction")


def of_direction(results: ProbeResults, landscape: KnownLandscape, index: int, name: str) -> dict[str, bool]:
    """Return whether improving candidates seem to share a direction."""
    changes, signs, seeds = results.at(SIGMA)
    noise = np.stack([landscape.noise(Member(0, seed, 1)) for seed in seeds])
    (choose, score), *_ = halvings(PROMPTS, 1, index)

    def reward(weights: np.ndarray) -> float:
        there = landscape.rewards((landscape.start + weights @ noise)[None])[0]
        return float((there - results.centre)[score].mean())

    chosen, scored = changes[:, choose].mean(axis=1), changes[:, score].mean(axis=1)
    pairs = bool(results.header["antithetic"])
    try:
        shared = shared_direction(chosen, scored, signs, SIGMA, reward, seed=index, pairs=pairs)
        return {name: shared.p_value <= LEVEL}
    except UsageError:
        return {f"{name}, refused": True}  # too few candidates improve


def of_steps(index: int) -> dict[str, bool]:
    """Return whether normal changes in coarse steps are taken for something else."""
    generator, found = np.random.default_rng([index, 1]), {}
    for ratio in STEPS:
        spread = np.sqrt(1 / ratio**2 - 1 / 12)  # in steps, before they are rounded
        changes = np.rint(generator.normal(generator.uniform(-1, 1), spread, (3, 240))) / 64
        test = gaussian_test(changes, (2, *SIZES), index)
        found[f"Gaussian null, steps of {ratio:g} deviations"] = test.p_value <= LEVEL
    return found


def main() -> None:
    """Count rejections over runs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=200)
    runs = parser.parse_args().runs
    quiet()
    counts: Counter[str] = Counter()
    sizes = []
    for index in range(runs):
        with TemporaryDirectory() as folder:
            counts.update(of_noise(index, Path(folder) / "noise"))
            pairs, landscape = Path(folder) / "pairs", known.pure_noise(PROMPTS, index)
            results = Probe(landscape, replace(FEW, antithetic=True), pairs).run()
            counts.update(of_direction(results, landscape, index, "shared direction of pairs"))
            settings = ProbeSettings(sigmas=(SIGMA,), members=240, batches=3, seed=index)
            _, linear = probed(known.linear(prompts=1), settings, Path(folder) / "linear")
        counts.update(of_steps(index))
        counts["Gaussian null of a linear reward"] += linear.curve.p_null <= LEVEL
        sizes.append(linear.curve.n90)
    for name, count in sorted(counts.items()):
        log.info("%-40s %d of %d", name, count, runs)
    log.info("N_90 of a linear reward: mean %.2f, sd %.2f; 29 is right", np.mean(sizes), np.std(sizes))


if __name__ == "__main__":
    main()
