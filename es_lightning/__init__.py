"""Fine-tune language models by evolution strategies: one Lightning module, a population, no gradients."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from es_lightning.data import TaskDataModule
    from es_lightning.generation import Completion, Generation, Member, Prompt
    from es_lightning.module import EvolutionStrategies
    from es_lightning.noise import Noise
    from es_lightning.task import Task

__version__ = "0.1.0"
__all__ = [
    "Completion",
    "EvolutionStrategies",
    "Generation",
    "Member",
    "Noise",
    "Prompt",
    "Task",
    "TaskDataModule",
]

_HOMES = {
    "data": ["TaskDataModule"],
    "generation": ["Completion", "Generation", "Member", "Prompt"],
    "module": ["EvolutionStrategies"],
    "noise": ["Noise"],
    "task": ["Task"],
}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used, so that a task alone needs neither Lightning nor a model."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"es_lightning.{home}"), name)
    raise AttributeError(f"module 'es_lightning' has no attribute {name!r}")
