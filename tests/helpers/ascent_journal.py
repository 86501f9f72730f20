"""The journal of a run on a quadratic with noisy rewards, made by populations as the code makes them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from es_lightning.journal.entry import JOURNAL, Entry
from es_lightning.records import Member

HEADER: dict[str, Any] = {
    "es_lightning_journal": 1,
    "versions": {"es_lightning": "0.1.0"},
    "base": "toy",
    "base_files": {"model.safetensors": "0" * 64},
    "dtype": "float32",
    "noise": "gaussian-1",
    "optimizer": {
        "class": "torch.optim.sgd.SGD",
        "settings": {"lr": 0.3, "momentum": 0.0, "weight_decay": 0.0},
        "groups": 1,
    },
    "task": "Toy",
    "settings": {"shaping": "z_score", "antithetic": False, "population": 8},
}


def entries_of(
    seed: int,
    generations: int = 800,
    members: int = 8,
    soft: int = 40,
    antithetic: bool = False,
    noise: float = 0.5,
) -> list[Entry]:
    """Generations of an ascent in 4 stiff directions, which start away from the maximum, and in soft ones."""
    generator = np.random.default_rng(seed)
    curvatures = np.concatenate([np.full(4, 6.0), np.full(soft, 0.6)])
    place = np.concatenate([np.full(4, 0.6), np.zeros(soft)])
    lr, sigma = 0.15, 0.05
    found = []
    for generation in range(generations):
        if antithetic:
            half = generator.standard_normal((members // 2, len(place)))
            eps = np.repeat(half, 2, axis=0)
            signs = np.tile([1, -1], members // 2)
        else:
            eps, signs = generator.standard_normal((members, len(place))), np.ones(members, dtype=int)
        centres = place + sigma * signs[:, None] * eps
        rewards = 1 - 0.5 * centres**2 @ curvatures + noise * generator.standard_normal(members)
        weights = (rewards - rewards.mean()) / rewards.std()
        seeds = np.repeat(np.arange(members // 2), 2) if antithetic else np.arange(members)
        found.append(
            Entry(
                generation,
                tuple(
                    Member(n, int(seeds[n]) + 1000 * generation, 1 if signs[n] > 0 else -1)  # type: ignore[arg-type]
                    for n in range(members)
                ),
                torch.from_numpy(weights),
                sigma,
                {"lr": lr},
                {
                    "mean": float(rewards.mean()),
                    "std": float(rewards.std()),
                    "min": float(rewards.min()),
                    "max": float(rewards.max()),
                },
                {},
                0,
                {},
                False,
                0.0,
                "0" * 16,
            )
        )
        place = place + lr / members * (weights * signs) @ eps
    return found


def write_journal(folder: Path, entries: list[Entry], **header: Any) -> None:
    """Write a run's folder with nothing but a journal."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(HEADER | header, separators=(",", ":")), *(entry.line() for entry in entries)]
    (folder / JOURNAL).write_text("".join(f"{line}\n" for line in lines))
