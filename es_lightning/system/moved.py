"""Old names of what has moved: user code, YAML and checkpoints may still use them."""

from __future__ import annotations

import warnings
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType

TYPE_CHECKING = False  # the import of typing would cost more than all the rest
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

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
    "grading_nursery": "grading.forker",
    "grading_pool": "grading.pool",
    "grading_process": "grading.worker",
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
    "restore": "journal.restore",
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
"""Old name of a module -> its new name, both below ``es_lightning``."""

NAMES = {
    "centre": {"BaseWeights": "models.weights.BaseWeights"},
    "checkpoint": {"read": "system.checkpoint.read_checkpoint"},
    "grading": {
        name: f"grading.grade.{name}" for name in ("FAILED", "Answer", "FailureKind", "Grade", "answer_of")
    },
    "grading_nursery": {"Nursery": "grading.forker.Forker"},
    "journal": {
        "FORMAT": "journal.entry.FORMAT",
        "describe_optimizer": "journal.hyper.describe_optimizer",
        "differences": "journal.header.differences",
        "hyper_parameters": "journal.hyper.hyper_parameters",
        "read": "journal.entry.read_journal",
        "set_hyper_parameters": "journal.hyper.set_hyper_parameters",
    },
    "keep": {
        "keep_artifact": "tracking.artifacts.log_artifact",
        "keep_table": "tracking.artifacts.log_table",
    },
    "landscape.peak": {"Verdict": "analysis.peak.PeakVerdict"},
    "landscape.quadratic": {
        "TwoModes": "analysis.two_modes.TwoModes",
        "fit_two_modes": "analysis.two_modes.fit_two_modes",
        "peak_of_two_modes": "analysis.two_mode_curve.peak_of_two_modes",
    },
    "mlflow_logger": {name: f"tracking.places.{name}" for name in ("MLFLOW_RUN", "TRACKING_URI")},
    "model_io": {"export": "models.export.export"},
    "population": {"Lane": "distributed.ranks.Lane", "lane_of": "distributed.ranks.lane_of"},
    "restore": {"distance": "algorithm.tensors.drift"},
    "shards": {"compare_centres": "distributed.ranks.compare_centres"},
    "sigma_sweep": {"Verdict": "analysis.sigma_sweep.SweepVerdict"},
    "spool": {"Entry": "tracking.outbox.Parcel", "one_line": "tracking.secrets.without_password"},
    "suggest": {"one_line": "cli.explain.explained"},
    "tasks.data.sources": {"read": "tasks.datasets.sources.read_rows"},
}
"""Old module -> what was in it and is elsewhere now, or has another name."""

ATTRIBUTES = {
    "after": "history.parent",
    "base": "base_model.name",
    "base_stream": "rollouts.hold_base(module.base_model, module.centre)",
    "base_weights": "base_model.weights",
    "centre_has_changed": "rollouts.forget()",
    "check_ranks": "ranks.check(module.population.size)",
    "complete": "rollouts.complete",
    "encode": "reserve",
    "engine": "rollouts.engine",
    "evaluate_members": "evaluator.members",
    "evaluate_population": "evaluator.members",
    "exchange": "ranks.exchange",
    "export": "base_model.export(module.centre, folder, card)",
    "export_dtype": "base_model.dtype",
    "folder": "base_model.folder",
    "lane": "ranks.lane",
    "load": "rollouts.load",
    "load_base": "rollouts.hold_base(module.base_model, module.centre)",
    "load_centre": "rollouts.hold_centre(module.centre)",
    "logprobs": "evaluator.logprobs",
    "perturbed": "rollouts.perturbed(module.centre, member, module.noise, module.sigma)",
    "replays": "history.knows(module.generation)",
    "retry_member": "rollouts.retry_member",
    "run_journal": "history",
    "sample": "evaluator.sample",
    "sampling": "rollouts.sampling",
    "saved_journal": "history.saved",
    "shared_rollout": "evaluator.evaluate",
    "tokenizer": "base_model.tokenizer",
    "unperturbed": "rollouts.unperturbed(module.centre)",
}
"""Old attribute of ``EvolutionStrategies`` -> where it is now, behind ``module.``."""


def refuse_old_attribute(name: str) -> None:
    """Say where an attribute of the module has gone; an assignment to its old name would have no effect.

    Raises:
        AttributeError: the name is an old one.
    """
    if name in ATTRIBUTES:
        raise AttributeError(f"module.{name} of version 0.1.0 is module.{ATTRIBUTES[name]} now.")


def names_of(module: str) -> Callable[[str], Any]:
    """Make the ``__getattr__`` of a module that has kept its own name, but not all names in it.

    Args:
        module: below ``es_lightning``.
    """

    def __getattr__(name: str) -> Any:
        if name not in NAMES[module]:
            raise AttributeError(f"module 'es_lightning.{module}' has no attribute {name!r}")
        return _moved(module, name)

    return __getattr__


def _moved(module: str, name: str) -> Any:
    home, _, new = NAMES[module][name].rpartition(".")
    message = f"es_lightning.{module}.{name} is es_lightning.{NAMES[module][name]} now: import that."
    warnings.warn(message, DeprecationWarning, stacklevel=3)
    return getattr(import_module(f"es_lightning.{home}"), new)


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
        old = spec.name.partition(".")[2]
        new = f"es_lightning.{MOVED[old]}"
        module = import_module(new)
        self._spec = module.__spec__
        warnings.warn(f"{spec.name} is {new} now: import that.", DeprecationWarning, stacklevel=2)
        for name, path in NAMES.get(old, {}).items():
            home, _, renamed = path.rpartition(".")
            vars(module).setdefault(name, getattr(import_module(f"es_lightning.{home}"), renamed))
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Run nothing, since the module is loaded; put back its spec, which Python has replaced."""
        module.__spec__ = self._spec
