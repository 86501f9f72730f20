"""How often intervals of curvature and of a barrier hold the truth, where that is known.

    python benchmarks/landscape_intervals.py                     both tables, some minutes on one core
    python benchmarks/landscape_intervals.py --tables barrier

Pairs of curvature are those of quadratics with four spectra; a barrier lies on a line of nine points whose
rewards are 0 or 1. No model is run. docs/landscape/curvature.md and docs/landscape/scan.md have the tables.
"""

import argparse
import logging
from collections.abc import Mapping

import numpy as np
from scipy.stats import norm

from es_lightning.cli.console import quiet
from es_lightning.landscape.arrays import Array
from es_lightning.landscape.curvature.curvature import Pairs, curvature
from es_lightning.landscape.scans.scan import barrier, grid

log = logging.getLogger("landscape_intervals")

SPECTRA: Mapping[str, Array] = {
    "50 alike": np.full(50, -1.0),
    "20 alike of 200": np.r_[np.full(20, -1.0), np.full(180, -0.01)],
    "each 0.9 of the last": -(0.9 ** np.arange(100)),
    "one of 20, 30 of 1": np.r_[-20.0, np.full(30, -1.0)],
}
PAIRS, SIGMA, HESSIANS = (128, 64, 22), 0.1, 300
NUMBERS = ("trace", "trace_square", "participation", "gradient_square")
BARRIERS, LINES = ((16, 0.0), (16, 0.3), (32, 0.0), (32, 0.1), (32, 0.3), (128, 0.0), (128, 0.1)), 600


def of_curvature(runs: int) -> None:
    """Log the coverage of all numbers for each spectrum and number of pairs."""
    for name, spectrum in SPECTRA.items():
        trace, square = float(spectrum.sum()), float((spectrum**2).sum())
        slope = np.linspace(-1, 1, len(spectrum))
        truth = dict(zip(NUMBERS, (trace, square, trace**2 / square, float(slope @ slope)), strict=True))
        for pairs in PAIRS:
            held = dict.fromkeys(NUMBERS, 0)
            for run in range(runs):
                found = curvature(_measured(spectrum, slope, pairs, run), seed=run)
                for number, value in truth.items():
                    estimate = getattr(found, number)
                    held[number] += estimate.low <= value <= estimate.high
            shares = ", ".join(f"{number} {count / runs:.3f}" for number, count in held.items())
            log.info("%s (participation %.1f), %d pairs: %s", name, trace**2 / square, pairs, shares)


def _measured(spectrum: Array, slope: Array, pairs: int, seed: int) -> Pairs:
    """Pairs on R = g . x + x^T diag(spectrum) x / 2."""
    eps = np.random.default_rng(seed).standard_normal((pairs, len(spectrum)))
    bent, straight = SIGMA**2 / 2 * eps**2 @ spectrum, SIGMA * eps @ slope
    return Pairs((bent + straight)[:, None], (bent - straight)[:, None], np.zeros(1), SIGMA)


def of_barrier(runs: int) -> None:
    """Log the coverage of the barrier, how often one is seen, and how much too high it is."""
    times = grid(0, 1, 0.125)
    for prompts, depth in BARRIERS:
        generator = np.random.default_rng(3)
        rates = 0.4 + 0.3 * times - depth * 4 * times * (1 - times)
        found = [barrier(times, _answers(generator, rates, prompts), seed=run) for run in range(runs)]
        log.info(
            "%d prompts, barrier %g: held %.3f, seen %.3f, too high by %.3f",
            prompts,
            depth,
            np.mean([each.low <= depth <= each.high for each in found]),
            np.mean([each.is_seen for each in found]),
            np.mean([each.height for each in found]) - depth,
        )


def _answers(generator: np.random.Generator, rates: Array, prompts: int) -> Array:
    """Rewards of 0 and 1 with these rates by point, alike at neighbouring points as real ones are."""
    steps = generator.standard_normal((len(rates), prompts))
    for index in range(1, len(rates)):
        steps[index] = 0.8 * steps[index - 1] + 0.6 * steps[index]
    return np.asarray(norm.cdf(steps) < rates[:, None], dtype=np.float64)


def main() -> None:
    """Log the tables that were asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    tables = {"curvature": (of_curvature, HESSIANS), "barrier": (of_barrier, LINES)}
    parser.add_argument("--tables", nargs="+", choices=tables, default=list(tables))
    parser.add_argument("--runs", type=int, help=f"of each row ({HESSIANS} and {LINES})")
    given = parser.parse_args()
    quiet()
    for name in given.tables:
        table, runs = tables[name]
        table(given.runs or runs)


if __name__ == "__main__":
    main()
