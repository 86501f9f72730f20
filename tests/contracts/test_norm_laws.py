"""How far real rollouts take the tiny model, as the journal says it, against the laws of the norm."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from es_lightning.algorithm.noise import FilteredNoise, GaussianNoise, LowRankNoise, Noise, RademacherNoise
from es_lightning.algorithm.regularisers import AnchoredDecay
from es_lightning.journal.entry import JOURNAL, read_journal
from es_lightning.module import EvolutionStrategies
from tests.helpers.fits import Letters, fit

# d is at least 40,000, so the norm of the noise has a standard deviation of 1 / sqrt(2 d) = 0.4 % or less.
N, LR, WITHIN = 6, 0.02, 0.02


def run(
    folder: Path, steps: int, noise: Noise, **options: Any
) -> tuple[EvolutionStrategies, list[float], int]:
    """A run; its drift after each generation, and the number d of entries that the noise perturbs."""
    options |= {"population": N, "optimizer": lambda parameters: torch.optim.SGD(parameters, lr=LR)}
    tuned, _ = fit(Letters(), folder, steps, {"prompts_per_generation": 2}, noise=noise, **options)
    _, entries = read_journal(folder / JOURNAL)
    assert not any(entry.skipped for entry in entries)
    named = tuned.centre.named_parameters()
    d = sum(each.numel() for name, each in named if noise.perturbs(name, each.shape))
    return tuned, [entry.drift for entry in entries], d


NOISES: dict[str, Noise] = {
    "gaussian": GaussianNoise(compile=False),
    "rademacher": RademacherNoise(compile=False),
    "filtered": FilteredNoise(GaussianNoise(compile=False), include=["*mlp*"]),
    "frozen_vectors": LowRankNoise(32, "frozen", compile=False),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NOISES)
def test_z_scores_go_as_far_as_a_random_walk(tmp_path: Path, name: str) -> None:
    _, drifts, d = run(tmp_path, 12, NOISES[name])
    law = [LR * math.sqrt(t * d / N) for t in range(1, 13)]
    assert drifts == pytest.approx(law, rel=WITHIN)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gaussian", "filtered"])
def test_anchored_decay_settles_at_its_norm(tmp_path: Path, name: str) -> None:
    """Decay follows the step, which it shortens too: a times the norm of a decay before it."""
    l2 = 10.0
    _, drifts, d = run(tmp_path, 25, NOISES[name], regularisers=[AnchoredDecay(l2=l2)])
    a = 1 - LR * l2
    settled = LR * math.sqrt(d / N) * a / math.sqrt(1 - a**2)
    assert drifts[12:] == pytest.approx([settled] * 13, rel=WITHIN)
    way = [settled * math.sqrt(1 - a ** (2 * t)) for t in range(1, 26)]
    assert drifts == pytest.approx(way, rel=WITHIN)
