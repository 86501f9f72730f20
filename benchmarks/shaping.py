"""How many generations z-scores and raw coefficients need to come near a peak, each with its best lr.

    python benchmarks/shaping.py

An ascent on J(x) = -|x|^2 / 2 in 50 dimensions from |x| = 1, with N = 16, sigma = 0.01 and normal noise in
the reward; means over 8 ascents. No model is run. A number is the first generation whose mean gap |x|^2 / 2
is below that share of the gap at the start; "-" is none within 600.
"""

import argparse
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from es_lightning.algorithm.shaping import FixedScale, z_score
from es_lightning.cli.console import quiet

log = logging.getLogger("shaping")

DIMENSION, POPULATION, SIGMA, GENERATIONS, ASCENTS = 50, 16, 0.01, 600, 8
SHARES = (0.1, 0.01, 0.001)
# FixedScale with scale sigma makes the plain estimate of the gradient, so its lr is that of gradient ascent.
SHAPINGS: dict[str, tuple[Callable[[Tensor], Tensor], list[float]]] = {
    "z_score": (z_score, np.geomspace(1e-3, 0.2, 12).tolist()),
    "FixedScale": (FixedScale(SIGMA), np.geomspace(5e-3, 0.5, 12).tolist()),
}


def gaps(shaping: Callable[[Tensor], Tensor], lr: float, noise: float, generator: torch.Generator) -> Tensor:
    """Mean gap after each generation, in shares of the first, float64 [GENERATIONS]."""
    options = {"generator": generator, "dtype": torch.float64}
    place = torch.full((ASCENTS, DIMENSION), DIMENSION**-0.5, dtype=torch.float64)
    found = []
    for _ in range(GENERATIONS):
        eps = torch.randn(ASCENTS, POPULATION, DIMENSION, **options)  # type: ignore[call-overload]
        rewards = -0.5 * (place[:, None] + SIGMA * eps).square().sum(-1)
        rewards += noise * torch.randn(rewards.shape, **options)  # type: ignore[call-overload]
        weights = torch.stack([shaping(row[:, None]) for row in rewards])
        place = place + lr * (weights[..., None] * eps).mean(1)
        found.append(place.square().sum(1).mean())
    return torch.stack(found)


def main() -> None:
    """Simulate, and print the table."""
    parser = argparse.ArgumentParser(description=Path(__file__).stem)
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    quiet()
    log.info("| noise in the reward | shaping | %s |", " | ".join(f"{share:.1%}" for share in SHARES))
    for noise in (0.0, 1e-3, 1e-2):
        for name, (shaping, rates) in SHAPINGS.items():
            first = dict.fromkeys(SHARES, (GENERATIONS + 1, 0.0))
            for lr in rates:
                curve = gaps(shaping, lr, noise, torch.Generator().manual_seed(seed))
                for share in SHARES:
                    below = (curve < share).nonzero()
                    if len(below):
                        first[share] = min(first[share], (int(below[0]) + 1, lr))
            cells = (f"{t} (lr {lr:.2g})" if lr else "-" for t, lr in first.values())
            log.info("| %g | %s | %s |", noise, name, " | ".join(cells))


if __name__ == "__main__":
    main()
