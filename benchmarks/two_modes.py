"""How often the interval of a predicted peak, and that of d_eff, holds the true one.

    python benchmarks/two_modes.py
    python benchmarks/two_modes.py --curves 20
    python benchmarks/two_modes.py --curves 0 --toys 100 --runs 100

Curves with a known peak get noise, white or AR(1), of several sizes. ``--toys`` measures d_eff from steady
states, as ``es-lightning simulate`` does, with other seeds; ``--runs`` fits d_eff to single simulated runs.
No model is run.
"""

import argparse
import logging
import sys
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from es_lightning.analysis.two_modes import fit_two_modes
from es_lightning.cli.console import quiet
from es_lightning.landscape.theory.fitted_run import fitted_run
from es_lightning.landscape.theory.toy import Toy, dimensions

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.helpers.ascent_journal import HEADER, entries_of

log = logging.getLogger("two_modes")

Array = npt.NDArray[np.float64]
LONG, SHORT = np.arange(5, 305, 5.0), np.arange(5, 105, 5.0)
PEAK = np.log((0.7 / 20) / (0.3 / 150)) / (1 / 20 - 1 / 150)  # of ``exact``
RUN_DIMENSION = 40.2  # of the runs of ``tests.helpers.ascent_journal``
# Size and correlation of AR(1) noise; whether one half of its variance is white.
CASES = (
    *((LONG, noise, 0.0, False) for noise in (0.0003, 0.001, 0.003, 0.01, 0.03)),
    *((LONG, noise, 0.5, False) for noise in (0.003, 0.01, 0.03)),
    (LONG, 0.01, 0.75, False),
    (LONG, 0.01, 0.9, True),
    (SHORT, 0.003, 0.0, False),
    (SHORT, 0.01, 0.0, False),
    (SHORT, 0.003, 0.5, False),
)


def exact(times: Array) -> Array:
    """A rise from 0.2, a peak of 0.767 at 66, and a decay to 0.6."""
    return np.asarray(0.6 - 0.7 * np.exp(-times / 20) + 0.3 * np.exp(-times / 150))


def noise_of(generator: np.random.Generator, points: int, correlation: float, half_white: bool) -> Array:
    """AR(1) noise of variance 1."""
    noise = generator.standard_normal(points)
    for t in range(1, points):
        noise[t] = correlation * noise[t - 1] + np.sqrt(1 - correlation**2) * noise[t]
    return (noise + generator.standard_normal(points)) / np.sqrt(2) if half_white else noise


def steady_states(toys: int) -> None:
    """Log how often the interval of d_eff from steady states holds it, for each alpha."""
    alphas = (0.05, 0.1, 0.2)
    found = [dimensions(Toy(), alphas, 100_000 + 10_000 * seed) for seed in range(toys)]
    log.info("| alpha | toys | d_eff told | interval holds it | mean of d_eff / true |\n|%s", "---|" * 5)
    for place, alpha in enumerate(alphas):
        told = [each[place] for each in found if not each[place].measured.reason]
        held = [each.measured.interval[0] <= each.exact <= each.measured.interval[1] for each in told]
        ratio = np.mean([each.measured.dimension / each.exact for each in told])
        log.info("| %s | %d | %d | %.0f %% | %.3f |", alpha, toys, len(told), 100 * np.mean(held), ratio)


def single_runs(runs: int) -> None:
    """Log how often the intervals of one run hold d_eff, and the peak of the mean run."""
    found = [fitted_run(HEADER, entries_of(seed)) for seed in range(runs)]
    mean = fit_two_modes(found[0].times, np.mean([run.rewards for run in found], axis=0))
    modes = [run.judged.modes for run in found if run.judged.modes is not None]
    for peak in (20.1, np.nan if mean is None else mean.peak):  # 20.1 is the closed form's
        held = sum(each.interval[0] <= peak <= each.interval[1] for each in modes)
        log.info("%d runs: peak told in %d, its interval holds %.3g in %d", runs, len(modes), peak, held)
    told = [run for run in found if run.judged.modes is not None and not run.reason]
    log.info(
        "d_eff told in %d, its interval holds it in %d; quartiles of d_eff / true: %s",
        *(len(told), sum(run.interval[0] <= RUN_DIMENSION <= run.interval[1] for run in told)),
        np.round(np.quantile([run.dimension / RUN_DIMENSION for run in told], [0.25, 0.5, 0.75]), 2),
    )


def main() -> None:
    """Simulate and print the tables."""
    parser = argparse.ArgumentParser(description=Path(__file__).stem)
    parser.add_argument("--curves", type=int, default=200, help="of each row")
    parser.add_argument("--toys", type=int, default=0, help="whose d_eff is measured from steady states")
    parser.add_argument("--runs", type=int, default=0, help="whose d_eff is fitted to the run's curve")
    arguments = parser.parse_args()
    quiet()
    if arguments.toys:
        steady_states(arguments.toys)
    if arguments.runs:
        single_runs(arguments.runs)
    if arguments.curves:
        peaks(arguments.curves)


def peaks(curves: int) -> None:
    """Log how often the interval of the peak holds it, for each size and kind of noise."""
    log.info(
        "| points | noise | correlation | peak told | interval holds it | median width | ms |\n|%s",
        "---|" * 7,
    )
    for times, size, correlation, half_white in CASES:
        held, widths, start = [], [], time.process_time()
        for seed in range(curves):
            generator = np.random.default_rng([seed, int(1e5 * size), int(100 * correlation)])
            noise = noise_of(generator, len(times), correlation, half_white)
            fit = fit_two_modes(times, exact(times) + size * noise)
            if fit is not None:
                held.append(fit.interval[0] <= PEAK <= fit.interval[1])
                widths.append(fit.interval[1] - fit.interval[0])
        spent = 1000 * (time.process_time() - start) / curves
        named = f"{correlation} and white, half each" if half_white else f"{correlation}"
        told = len(held) / curves
        log.info(
            "| %d | %s | %s | %.0f %% | %.0f %% | %.3g | %.0f |",
            *(len(times), size, named, 100 * told, 100 * np.mean(held), np.median(widths), spent),
        )


if __name__ == "__main__":
    main()
