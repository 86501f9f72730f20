"""Fine-tune language models by evolution strategies: one Lightning module, a population, no gradients."""

import sys
from importlib import import_module

from es_lightning.system.moved import OldNames

TYPE_CHECKING = False  # the import of typing would cost more than all the rest
if TYPE_CHECKING:
    from typing import Any

    from es_lightning.algorithm.noise import Noise
    from es_lightning.datamodule import TaskDataModule
    from es_lightning.module import EvolutionStrategies
    from es_lightning.records import Completion, Generation, Member, Prompt
    from es_lightning.system.folders import new_folder
    from es_lightning.system.version import __version__
    from es_lightning.task import Task

__all__ = [
    "Completion",
    "EvolutionStrategies",
    "Generation",
    "Member",
    "Noise",
    "Prompt",
    "Task",
    "TaskDataModule",
    "__version__",
    "new_folder",
]

_HOMES = {
    "datamodule": ["TaskDataModule"],
    "records": ["Completion", "Generation", "Member", "Prompt"],
    "module": ["EvolutionStrategies"],
    "algorithm.noise": ["Noise"],
    "system.folders": ["new_folder"],
    "system.version": ["__version__"],
    "task": ["Task"],
}

# First in the list: under a package's old name, Python's own finder would load its modules a second time.
sys.meta_path.insert(0, OldNames)


def __getattr__(name: str) -> "Any":
    """Load a public name when it is first used, so that a task alone needs neither Lightning nor a model."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"es_lightning.{home}"), name)
    raise AttributeError(f"module 'es_lightning' has no attribute {name!r}")
