"""Which settings of a configuration are parameters of its run in MLflow: those that decide the run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DECIDING = ("seed_everything", "model", "data")  # logged whole
ALWAYS = ("trainer/max_steps",)
# Where things are, and what says itself: the logger is the one that shows this.
NEVER = ("config", "ckpt_path", "overwrite", "trainer/logger", "trainer/max_epochs", "checkpoint/dirpath")


def deciding(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of the model, the data and the seed, and of the rest those that were changed.

    Args:
        config: a plain configuration, section by section.
        defaults: the same configuration with nothing set.
    """
    chosen = {}
    for section, settings in config.items():
        if section in DECIDING:
            chosen[section] = settings
        elif isinstance(settings, Mapping):
            usual = defaults.get(section) or {}
            names = [
                name for name in settings if _shown(f"{section}/{name}", settings[name], usual.get(name))
            ]
            chosen |= {section: {name: _short(settings[name]) for name in names}} if names else {}
        elif _shown(section, settings, defaults.get(section)):
            chosen[section] = settings
    return chosen


def _shown(name: str, value: Any, usual: Any) -> bool:
    return name not in NEVER and (name in ALWAYS or value != usual)


def _short(value: Any) -> Any:
    """Return the class of a part without its options: the parser adds all that were not given."""
    return value["class_path"] if isinstance(value, Mapping) and "class_path" in value else value
