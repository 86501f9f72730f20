"""The model of a probe's candidate, made again from its seed."""

from __future__ import annotations

from pathlib import Path

import torch

from es_lightning.algorithm.noise import noise_of
from es_lightning.algorithm.tensors import checksum
from es_lightning.errors import UsageError
from es_lightning.landscape.probing.results import Candidate, ProbeResults
from es_lightning.models import BaseModel
from es_lightning.models.export import export


def write_candidate(
    probe: Path, number: int, output: Path, base: str | None = None, trust_remote_code: bool = False
) -> Candidate:
    """Write theta + sign * sigma * eps as a Hugging Face folder, in the precision of the probe's engine.

    Its tensors have the bits that the engine was given in the probe.

    Args:
        probe: folder of a finished probe.
        number: of the candidate.
        output: folder to write; must not exist yet.
        base: where the base model is, if it is no longer where the probe had it.
        trust_remote_code: run Python code that comes with the model.

    Returns:
        The candidate.

    Raises:
        UsageError: there is no such candidate, or the base model is another one.
    """
    if output.exists():
        raise UsageError(f"{output} exists already: give another --output, or remove it.")
    results = ProbeResults.read(probe)
    candidate, header = results.candidate(number), results.header
    model = BaseModel(base or header["base"], trust_remote_code)
    centre = model.load()
    if (found := checksum(centre.named_parameters())) != header["checksum"]:
        raise UsageError(
            f"{model.name} has checksum {found}, and the centre of {probe} had {header['checksum']}: give "
            "the base model of the probe with --base."
        )
    noise, scale = noise_of(header["noise"]), candidate.sign * candidate.sigma
    with torch.no_grad():
        for name, theta in centre.named_parameters():
            theta.copy_(noise.perturbed(candidate.seed, name, theta, scale, torch.float32))
    card = (
        f"# Candidate {number} of {probe.name}\n\n{header['base']} + {scale:g} * eps, eps being "
        f"{header['noise']} with seed {candidate.seed}. Reward in the probe: "
        f"{sum(candidate.rewards) / len(candidate.rewards):.6g}, task {header['task']}.\n"
    )
    export(centre, model.folder, output, getattr(torch, header["dtype"]), card)
    return candidate
