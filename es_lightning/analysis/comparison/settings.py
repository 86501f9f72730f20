"""What a run was made with, flat: what decides it, without its seed and without the places of its files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

SEEDS = ("seed_everything", "baseline.seed", "model.seed", "data.seed")
"""Where configurations and journals tell the seed; runs of one arm differ in these."""

# Where things are, what is shown, and what is left behind.
_PLACES = ("config", "ckpt_path", "overwrite", "output", "checkpoint", "report")
_MORE_TESTS = "data.test_with_val"
_TRAINER = ("default_root_dir", "logger", "enable_", "log_every_n_steps")
# Callbacks that change nothing of a training.
_WATCHING = {
    *("ExportHF", "Forgetting", "GenerationBar", "GenerationTimer", "KLDrift", "PopulationHealth"),
    *("RolloutTable", "RunRecord", "RunReport", "UpdateGeometry", "ModelCheckpoint", "LearningRateMonitor"),
}


def flat_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten a configuration into dotted names; a class stands at the name of what it is for.

    What is null is left out: some commands save it, others do not.

    Args:
        config: what config.yaml holds.

    Example::

        flat_config({"model": {"optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}}})
        # {"model.optimizer": "torch.optim.SGD", "model.optimizer.lr": 0.1}
    """
    return {name: value for name, value in _flat("", config) if value is not None}


def deciding(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out seeds, places of files, and callbacks that only watch.

    Args:
        settings: by dotted names, from a configuration or a journal.
    """
    return {name: value for name, value in settings.items() if name not in SEEDS and not _is_aside(name)}


def seed_of(settings: Mapping[str, Any]) -> str | None:
    """Return the run's seed, and after a slash a second one that is not the same; None if none is told."""
    found = dict.fromkeys(str(settings[name]) for name in SEEDS if settings.get(name) is not None)
    return "/".join(found) or None


def _is_aside(name: str) -> bool:
    section, _, rest = name.partition(".")
    if name == _MORE_TESTS or section in _PLACES or (section == "trainer" and rest.startswith(_TRAINER)):
        return True
    return section == "trainer" and rest.startswith("callbacks.") and rest.split(".")[1] in _WATCHING


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and "class_path" in value:
        yield name, str(value["class_path"])
        yield from _flat(name, value.get("init_args") or {})
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flat(f"{name}.{key}" if name else str(key), item)
    elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        for index, item in enumerate(value):
            kind = str(item.get("class_path", index)).rpartition(".")[2]
            yield from _flat(f"{name}.{kind}", item)
    elif isinstance(value, list | tuple):
        yield name, json.dumps(list(value), default=str)
    else:
        yield name, value
