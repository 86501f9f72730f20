"""How often the interval of a predicted peak holds the true one.

    python benchmarks/two_modes.py
    python benchmarks/two_modes.py --curves 20

Curves with a known peak get noise, white or AR(1), of several sizes. No model is run.
"""

import argparse
import logging
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from es_lightning.analysis.two_modes import fit_two_modes
from es_lightning.cli.console import quiet

log = logging.getLogger("two_modes")

Array = npt.NDArray[np.float64]
LONG, SHORT = np.arange(5, 305, 5.0), np.arange(5, 105, 5.0)
PEAK = np.log((0.7 / 20) / (0.3 / 150)) / (1 / 20 - 1 / 150)  # of ``exact``
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


def main() -> None:
    """Simulate and print the table."""
    parser = argparse.ArgumentParser(description=Path(__file__).stem)
    parser.add_argument("--curves", type=int, default=200, help="of each row")
    arguments = parser.parse_args()
    quiet()
    log.info(
        "| points | noise | correlation | peak told | interval holds it | median width | ms |\n|%s",
        "---|" * 7,
    )
    for times, size, correlation, half_white in CASES:
        held, widths, start = [], [], time.process_time()
        for seed in range(arguments.curves):
            generator = np.random.default_rng([seed, int(1e5 * size), int(100 * correlation)])
            noise = noise_of(generator, len(times), correlation, half_white)
            fit = fit_two_modes(times, exact(times) + size * noise)
            if fit is not None:
                held.append(fit.interval[0] <= PEAK <= fit.interval[1])
                widths.append(fit.interval[1] - fit.interval[0])
        spent = 1000 * (time.process_time() - start) / arguments.curves
        named = f"{correlation} and white, half each" if half_white else f"{correlation}"
        told = len(held) / arguments.curves
        log.info(
            "| %d | %s | %s | %.0f %% | %.0f %% | %.3g | %.0f |",
            *(len(times), size, named, 100 * told, 100 * np.mean(held), np.median(widths), spent),
        )


if __name__ == "__main__":
    main()
