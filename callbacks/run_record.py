"""What MLflow keeps of a run besides its numbers: tags, data sets, and the journal while it grows."""

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only

from es_lightning.callbacks.monitor import Tuning, history_of, tuning
from es_lightning.journal.entry import JOURNAL
from es_lightning.journal.evaluations import EVALUATIONS
from es_lightning.records import Prompt
from es_lightning.system.hardware import commit, machine
from es_lightning.system.version import __version__
from es_lightning.tracking.artifacts import log_artifact
from es_lightning.tracking.logger import DurableMLFlowLogger, run_of

CONTEXTS = {"train": "training", "val": "validation", "test": "testing"}
SOURCE = "mlflow.source.git"  # MLflow's own tags, which its pages show


class RunRecord(Callback):
    """Tags MLflow's run with what made it, logs its problems as data sets, and uploads its journal.

    A ``test`` or ``validate`` is a run with a name of its own, below the run of the model that it evaluates.
    The command line adds this callback. Other MLflow loggers than ``DurableMLFlowLogger`` get only the
    journal.

    Args:
        recipe: name of the configuration, for the tag ``recipe``; None sets no such tag.
    """

    def __init__(self, recipe: str | None = None) -> None:
        self.recipe = recipe

    @rank_zero_only
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the run's tags and data sets, and watch the machine from here on."""
        self._record(trainer, pl_module, list(CONTEXTS))

    @rank_zero_only
    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the evaluation's name, tags and data set."""
        self._record(trainer, pl_module, ["test"])

    @rank_zero_only
    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the evaluation's name, tags and data set, unless this validation is part of a fit."""
        if trainer.state.fn == "validate":
            self._record(trainer, pl_module, ["val"])

    def _record(self, trainer: pl.Trainer, pl_module: pl.LightningModule, splits: list[str]) -> None:
        module, command = tuning(pl_module), _command(trainer)
        for logger in _durable(trainer):
            if command != "fit":
                places = [Path(place) for place in (trainer.ckpt_path, module.base_model.name) if place]
                logger.evaluates(command, run_of(places, logger.shown_uri))
            logger.log_tags(self.tags(trainer, pl_module))
            for split in splits:
                if split == "train" or module.data.has(split):
                    name = f"{module.data.task.name} {split}"
                    logger.log_dataset(_dataset(name, module.data.prompts(split)), CONTEXTS[split])
            logger.watch_system()

    def tags(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, str]:
        """Return the run's tags."""
        module = tuning(pl_module)
        tags = {
            "es.command": _command(trainer),
            "task": module.data.task.name,
            "base_model": module.base_model.name,
            "engine": _engine(module),
            "hardware": machine(trainer.world_size),
            "es_lightning": __version__,
        }
        if dropped := module.data.dropped:
            tags["dropped_problems"] = ", ".join(f"{split} {count}" for split, count in dropped.items())
        if self.recipe is not None:
            tags["recipe"] = self.recipe
        git = commit(Path.cwd())
        if git:
            tags |= {"git_commit": git["commit"], "git_changed_files": git["changed"]}
            tags |= {f"{SOURCE}.commit": git["commit"], f"{SOURCE}.branch": git["branch"]}
        return tags

    @rank_zero_only
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Upload the journal and the evaluations so far."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:  # its stage is a validation now
            self._keep_journal(trainer)

    @rank_zero_only
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Upload the whole journal, and the evaluations."""
        self._keep_journal(trainer)

    @rank_zero_only
    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Upload the journal so far; if this run failed its checks, the file is still an earlier run's."""
        history = history_of(tuning(pl_module))
        if history is not None and history.lines:
            self._keep_journal(trainer)

    def _keep_journal(self, trainer: pl.Trainer) -> None:
        for name in (JOURNAL, EVALUATIONS):
            if (path := Path(trainer.default_root_dir) / name).exists():
                log_artifact(trainer.loggers, path)


def _durable(trainer: pl.Trainer) -> list[DurableMLFlowLogger]:
    return [logger for logger in trainer.loggers if isinstance(logger, DurableMLFlowLogger)]


def _command(trainer: pl.Trainer) -> str:
    """Return what the trainer was asked to do: ``fit``, ``validate`` or ``test``."""
    assert trainer.state.fn is not None
    return str(trainer.state.fn.value)


def _engine(module: Tuning) -> str:
    """Describe the engine as ``settings`` does, which needs an optimizer, and so a fit."""
    engine = module.rollouts.engine
    return f"{type(engine).__name__}, {str(engine.dtype).removeprefix('torch.')}"


def _dataset(name: str, prompts: list[Prompt]) -> dict[str, Any]:
    """Describe a split's problems as ``mlflow.data`` describes a data set: digest, schema, size."""
    import pandas
    from mlflow.data.pandas_dataset import from_pandas

    rows = [(prompt.id, prompt.text, _as_text(prompt.reference)) for prompt in prompts]
    frame = pandas.DataFrame(rows, columns=["id", "text", "reference"])
    described: dict[str, Any] = from_pandas(frame, name=name).to_dict()
    return described


def _as_text(reference: Any) -> str:
    try:
        return json.dumps(reference, default=str)
    except (TypeError, ValueError):  # keys that JSON does not have, or a circular reference
        return repr(reference)
