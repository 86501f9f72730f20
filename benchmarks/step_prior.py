"""How far the learning rate that tune-step advises is from the best one, on quadratics that are known.

    python benchmarks/step_prior.py            half a minute on one core

The slope lies in 20 curved directions of 200 in three ways: in proportion to their curvature, as the prior on
the curvature along the step assumes (``steps.pair_moments``), alike in all, and in the most curved one alone.
docs/landscape/tune_step.md has the table.
"""

import logging
import sys

import numpy as np

from es_lightning.landscape.steps.gain import shrinkage
from es_lightning.landscape.steps.pair_rewards import PairRewards
from es_lightning.landscape.steps.step_size import advise

SIGMAS = (0.05, 0.1, 0.2, 0.4)
PAIRS, POPULATION, PROMPTS, WORLDS = 24, 16, 16, 60
SLOPES = ("in proportion", "alike", "in one")

log = logging.getLogger("step_prior")


def world(kind: str, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw 20 curvatures, [20], and a slope of length 1 in their directions, [20]."""
    curvature = generator.exponential(1, 20)
    squares = {
        "in proportion": curvature,
        "alike": np.ones(20),
        "in one": 1.0 * (curvature == curvature.max()),
    }[kind]
    signs = generator.choice([-1.0, 1.0], 20)
    return curvature, signs * np.sqrt(squares / squares.sum())


def probed(
    curvature: np.ndarray, slope: np.ndarray, pairs: int, generator: np.random.Generator
) -> PairRewards:
    """Measure antithetic pairs; a prompt has a slope of its own, and a single reward has noise."""
    eps = generator.standard_normal((pairs, 200))
    own = 0.3 * generator.standard_normal((PROMPTS, 200)) / 200**0.5
    tables = np.empty((len(SIGMAS), 2 * pairs, PROMPTS))
    for table, sigma in zip(tables, SIGMAS, strict=True):
        for side, sign in enumerate((1, -1)):
            x = sign * sigma * eps
            exact = x[:, :20] @ slope - 0.5 * x[:, :20] ** 2 @ curvature
            noise = 0.1 * generator.standard_normal((pairs, PROMPTS))
            table[side::2] = exact[:, None] + x @ own.T + noise
    return PairRewards(SIGMAS, np.zeros(PROMPTS), tables)


def best_lr(curvature: np.ndarray, slope: np.ndarray, sigma: float) -> float:
    """Return alpha* in closed form, as the module docstring of ``steps.gain`` has it."""
    noise = (sigma**2 * 0.3**2 + 0.1**2) / PROMPTS
    variance = sigma**2 + 0.5 * sigma**4 * (curvature**2).sum() + noise
    bend = sigma**2 * slope**2 @ curvature / variance
    cost = curvature.sum() / POPULATION + (1 - 2 / POPULATION) * bend
    return float(shrinkage(POPULATION) * sigma / variance**0.5 / cost)


def compare(kind: str, pairs: int) -> None:
    """Log the advised learning rate over the best one, and what share of the best gain it keeps."""
    ratios = []
    for seed in range(WORLDS):
        generator = np.random.default_rng(seed)
        curvature, slope = world(kind, generator)
        advice = advise(probed(curvature, slope, pairs, generator), POPULATION, PROMPTS, resamples=100)
        curve = next(curve for curve in advice.curves if curve.population == POPULATION)
        ratios.append(curve.best_lr.value / best_lr(curvature, slope, advice.sigma))
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    kept = np.median(1 - (1 - np.array(ratios)) ** 2)
    words = "%-13s  %3d pairs: lr / best lr %.2f (quartiles %.2f to %.2f), %.3f of the best gain"
    log.info(words, kind, pairs, middle, low, high, kept)


def main() -> None:
    """Log a line per way."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    for kind in SLOPES:
        compare(kind, PAIRS)


if __name__ == "__main__":
    main()
