"""Old names of modules that have moved: user code, YAML and checkpoints may still use them."""

import warnings
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "callbacks.probing": "callbacks.periodic",
    "centre": "algorithm.tensors",
    "checkpoint": "system.checkpoint",
    "commands": "cli.commands",
    "console": "cli.console",
    "cores": "system.cores",
    "counter": "algorithm.noise.threefry",
    "data": "datamodule",
    "diagnosis": "analysis.diagnosis",
    "divergence": "analysis.divergence",
    "embedded": "models.embedded",
    "files": "system.files",
    "generation": "records",
    "geometry": "analysis.geometry",
    "grading_pool": "grading.pool",
    "hardware": "system.hardware",
    "header": "journal.header",
    "health": "analysis.health",
    "interrupts": "system.signals",
    "keep": "tracking.artifacts",
    "landscape.curve_noise": "analysis.curve_noise",
    "landscape.peak": "analysis.peak",
    "landscape.peak_picture": "reports.peak_picture",
    "landscape.peak_watch": "analysis.peak_watch",
    "memory": "system.memory",
    "metrics": "evaluation.metrics",
    "mlflow_logger": "tracking.logger",
    "mlflow_sender": "tracking.sender",
    "model_card": "models.card",
    "model_io": "models.base_model",
    "noise": "algorithm.noise",
    "pages": "reports.rollout_page",
    "plots": "reports.plots",
    "population": "algorithm.population",
    "random_walk": "analysis.random_walk",
    "replay": "journal.replay",
    "run_folder": "cli.run_folder",
    "run_journal": "journal.run",
    "scoring": "grading.scorer",
    "shaping": "algorithm.shaping",
    "shards": "evaluation.gather",
    "sigma_sweep": "analysis.sigma_sweep",
    "snapshot": "models.snapshot",
    "spool": "tracking.outbox",
    "stopwatch": "system.stopwatch",
    "strategy": "distributed.strategy",
    "suggest": "cli.suggest",
    "tasks.data": "tasks.datasets",
    "tasks.data.choice_formats": "tasks.datasets.choice_formats",
    "tasks.data.rows": "tasks.datasets.rows",
    "tasks.data.sources": "tasks.datasets.sources",
    "update": "algorithm.update",
}
"""Old name -> new name, both below ``es_lightning``."""


class OldNames:
    """Finder and loader of ``sys.meta_path``: an old name leads to the module itself, with a warning."""

    @classmethod
    def find_spec(cls, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Return a spec if ``name`` is one of the old names."""
        package, _, old = name.partition(".")
        if package != "es_lightning" or old not in MOVED:
            return None
        return ModuleSpec(name, cls())  # type: ignore[arg-type]  # it has a Loader's methods; importlib.abc is slow

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Import the module under its new name."""
        new = f"es_lightning.{MOVED[spec.name.partition('.')[2]]}"
        module = import_module(new)
        self._spec = module.__spec__
        warnings.warn(f"{spec.name} is {new} now: import that.", DeprecationWarning, stacklevel=2)
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Run nothing, since the module is loaded; put back its spec, which Python has replaced."""
        module.__spec__ = self._spec
