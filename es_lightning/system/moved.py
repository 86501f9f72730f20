"""Old names of modules that have moved: user code, YAML and checkpoints may still hold them."""

import warnings
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "centre": "algorithm.tensors",
    "counter": "algorithm.noise.threefry",
    "embedded": "models.embedded",
    "model_card": "models.card",
    "model_io": "models.base_model",
    "noise": "algorithm.noise",
    "population": "algorithm.population",
    "shaping": "algorithm.shaping",
    "snapshot": "models.snapshot",
    "update": "algorithm.update",
    "checkpoint": "system.checkpoint",
    "cores": "system.cores",
    "data": "datamodule",
    "files": "system.files",
    "generation": "records",
    "hardware": "system.hardware",
    "interrupts": "system.signals",
    "memory": "system.memory",
    "stopwatch": "system.stopwatch",
}
"""Old name -> new name, both below ``es_lightning``."""


class OldNames:
    """Finder and loader of ``sys.meta_path``: an old name leads to the module itself, with a warning."""

    @classmethod
    def find_spec(cls, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Tell that a module is known, if ``name`` is one of the old names."""
        package, _, old = name.partition(".")
        if package != "es_lightning" or old not in MOVED:
            return None
        return ModuleSpec(name, cls())  # type: ignore[arg-type]  # a Loader by its methods: importlib.abc is slow

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Import the module under its new name."""
        new = f"es_lightning.{MOVED[spec.name.partition('.')[2]]}"
        module = import_module(new)
        self._spec = module.__spec__
        warnings.warn(f"{spec.name} is {new} now: import that.", DeprecationWarning, stacklevel=2)
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to run: the module is complete. Python has put the old name's spec on it, which goes."""
        module.__spec__ = self._spec
