"""The command line: LightningCLI with a run folder, MLflow by default, and one-line errors."""

from __future__ import annotations

import json
import os
import sys
from argparse import RawDescriptionHelpFormatter
from pathlib import Path
from typing import Any, NoReturn

import lightning.pytorch as pl
from jsonargparse import DefaultHelpFormatter
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities import rank_zero_only

from es_lightning import (
    callbacks,  # noqa: F401  (so that the parser knows its classes by their short names)
    tasks,  # noqa: F401
)
from es_lightning.algorithm.noise import Noise
from es_lightning.callbacks import GenerationBar, GracefulStop, RunRecord, RunReport
from es_lightning.cli import commands
from es_lightning.cli.console import quiet, stop
from es_lightning.cli.run_folder import remove_unchanged, stamps
from es_lightning.cli.suggest import with_suggestion
from es_lightning.datamodule import TaskDataModule
from es_lightning.errors import RankError, RewardError, StorageError, UsageError
from es_lightning.module import EvolutionStrategies
from es_lightning.rollout import RolloutEngine
from es_lightning.system.checkpoint import newest
from es_lightning.system.files import check_folder, replacing
from es_lightning.system.memory import return_freed_tensors
from es_lightning.system.signals import Interrupted
from es_lightning.task import Task
from es_lightning.tracking.artifacts import log_artifact
from es_lightning.tracking.logger import MLFLOW_RUN, TRACKING_URI, DurableMLFlowLogger
from es_lightning.tracking.parameters import deciding
from es_lightning.tracking.secrets import masked

USAGE = """Fine-tune language models by evolution strategies.

es-lightning fit -c configs/demo.yaml --model.sigma 0.002   tune, evaluate before and after, export
es-lightning validate|test -c configs/demo.yaml              evaluate a model
es-lightning fit -c configs/demo.yaml --ckpt_path last       go on with a run that was stopped
es-lightning replay --journal runs/demo/journal.jsonl --output m   a model from base and journal alone
es-lightning ui                                              MLflow in a browser, on the runs made here
es-lightning fetch                                           get the embedded model, once
"""


SECTIONS: dict[str, type] = {
    "trainer": pl.Trainer,
    "model": EvolutionStrategies,
    "data": TaskDataModule,
    "report": RunReport,
    "checkpoint": ModelCheckpoint,
}


class Parser(LightningArgumentParser):
    """Reports errors on one line, and suggests the nearest valid name."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print one line and stop."""
        stop(with_suggestion(message, SECTIONS, (RolloutEngine, Task, Noise)))


class HelpFormatter(DefaultHelpFormatter, RawDescriptionHelpFormatter):
    """Keeps the lines of the description as they are."""


class SaveConfig(SaveConfigCallback):
    """Writes the resolved configuration into the run folder, and what decides the run to the logger.

    Neither shows a password or a token in an address.
    """

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Make sure that the run folder can be written, and note the files of an older run.

        Those stay on disk until this run has passed its checks.
        """
        root = Path(trainer.default_root_dir)
        if stage == "fit" and trainer.is_global_zero:
            check_folder(root)
        replaces = stage == "fit" and self.config.overwrite and not self.config.ckpt_path
        self.older = stamps(root) if replaces and (root / "config.yaml").exists() else {}

    @rank_zero_only
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Delete an older run, now that this one has passed its checks; then save and log config.yaml."""
        root = Path(trainer.default_root_dir)
        path = root / "config.yaml"
        remove_unchanged(root, self.older)
        path.parent.mkdir(parents=True, exist_ok=True)
        config = self.config.clone()
        config.ckpt_path = None  # the file describes the whole run, wherever this process resumed it
        with replacing(path) as file:
            file.write(masked(self.parser.dump(config)).encode())
        self._log_parameters(trainer)
        log_artifact(trainer.loggers, path)

    @rank_zero_only
    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log what decides an evaluation."""
        self._log_parameters(trainer)

    @rank_zero_only
    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log what decides an evaluation; a fit has logged it before its first validation."""
        if trainer.state.fn == "validate":
            self._log_parameters(trainer)

    def _log_parameters(self, trainer: pl.Trainer) -> None:
        # As JSON, functions and classes are there by their names.
        config = json.loads(masked(self.parser.dump(self.config, format="json")))
        usual = self.parser.get_defaults(skip_validation=True)
        defaults = json.loads(self.parser.dump(usual, format="json", skip_validation=True))
        for logger in trainer.loggers:
            logger.log_hyperparams(deciding(config, defaults))


class CommandLine(LightningCLI):
    """``fit``, ``validate`` and ``test`` on a task."""

    def __init__(self, **options: Any) -> None:
        self.resumes = False
        super().__init__(
            EvolutionStrategies,
            TaskDataModule,
            save_config_callback=SaveConfig,
            parser_class=Parser,
            parser_kwargs={"description": USAGE, "formatter_class": HelpFormatter, "allow_abbrev": False},
            seed_everything_default=0,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            trainer_defaults={
                "strategy": "population",
                "use_distributed_sampler": False,  # every rank and every member must see the same prompts
                "inference_mode": False,
                "num_sanity_val_steps": 0,
                "enable_model_summary": False,
                "log_every_n_steps": 1,
                "check_val_every_n_epoch": None,
            },
            **options,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return the subcommands, each with the arguments of its Trainer method that are not options."""
        skip = {"model", "dataloaders", "train_dataloaders", "val_dataloaders", "datamodule"}
        return {"fit": skip, "validate": skip, "test": skip}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options that a run needs besides trainer, model and data."""
        parser.add_argument("--overwrite", type=bool, default=False, help="Replace a run in the same folder.")
        parser.add_lightning_class_args(RunReport, "report")
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.set_defaults({"checkpoint.filename": "generation-{step}"})
        for target in ("model.seed", "data.seed"):
            parser.link_arguments("seed_everything", target, compute_fn=_run_seed)

    def before_instantiate_classes(self) -> None:
        """Choose the run folder, and refuse to mix two runs in it."""
        config = self.config[self.subcommand]
        if config.trainer.max_epochs is None:
            # max_steps alone sets the length, also when a finished run is extended. Without it: one epoch.
            config.trainer.max_epochs = -1 if config.trainer.max_steps > 0 else 1
        root = Path(config.trainer.default_root_dir or Path("runs") / _config_name(config))
        config.trainer.default_root_dir = str(root)
        config.checkpoint.dirpath = config.checkpoint.dirpath or str(root / "checkpoints")
        if config.ckpt_path == "last":
            # Lightning's own "last" follows a link. If a crash has removed the link, Lightning starts a new
            # run without a warning.
            checkpoint = newest(Path(config.checkpoint.dirpath))
            config.ckpt_path = None if checkpoint is None else str(checkpoint)
            self.resumes = True
        base, exported = Path(config.model.base), (root / "model").resolve()
        if config.overwrite and base.exists() and base.resolve().is_relative_to(exported):
            raise UsageError(
                f"--overwrite true would delete the base model {config.model.base}: copy it elsewhere, or "
                "choose another folder with --trainer.default_root_dir."
            )
        resumes_or_replaces = config.overwrite or config.ckpt_path or self.resumes
        if self.subcommand == "fit" and not resumes_or_replaces and (root / "config.yaml").exists():
            raise UsageError(
                f"{root} already holds a run: resume it with --ckpt_path last, replace it with "
                "--overwrite true, or choose another folder with --trainer.default_root_dir."
            )

    def instantiate_classes(self) -> None:
        """Let a resumed run that has no checkpoint yet continue from its journal."""
        super().instantiate_classes()
        if self.resumes:
            self.model.history.saved = []

    def instantiate_trainer(self, **options: Any) -> pl.Trainer:
        """Log to MLflow and show a progress bar, unless told otherwise."""
        config = self.config_init[self.subcommand].trainer
        if config.logger in (None, True):
            root = Path(config.default_root_dir)
            uri = os.environ.get("MLFLOW_TRACKING_URI") or TRACKING_URI
            options["logger"] = DurableMLFlowLogger(
                run_name=root.name, tracking_uri=uri, spool=root / "mlflow-spool.jsonl"
            )
        own = config.callbacks or []
        added: list[pl.Callback] = [GracefulStop(self.config_init[self.subcommand].checkpoint.dirpath)]
        added.append(RunRecord(_config_name(self.config_init[self.subcommand])))
        if config.enable_progress_bar is not False and not any(isinstance(c, ProgressBar) for c in own):
            added.append(GenerationBar())
        options["callbacks"] = [*own, *added]
        trainer: pl.Trainer = super().instantiate_trainer(**options)
        for logger in trainer.loggers if self.subcommand == "fit" else ():
            if isinstance(logger, DurableMLFlowLogger):
                resumes = self.resumes or bool(self.config_init[self.subcommand].ckpt_path)
                logger.remember(Path(config.default_root_dir) / MLFLOW_RUN, resumes)
        return trainer


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; errors that the user can fix end with one line and exit code 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    quiet()
    return_freed_tensors()
    # So that class_path finds the user's own tasks and callbacks. Appended, so that they shadow nothing.
    sys.path.append(os.getcwd())
    try:
        if arguments[:1] == ["fetch"]:
            commands.fetch()
        elif arguments[:1] == ["ui"]:
            commands.ui(arguments[1:])
        elif arguments[:1] == ["replay"]:
            commands.replay(arguments[1:])
        else:
            CommandLine(args=arguments)
    except (UsageError, RewardError) as error:
        stop(str(error))
    except ValueError as error:
        if not isinstance(error.__cause__, UsageError):
            raise
        stop(str(error.__cause__))  # the constructor's own words, without what the parser adds
    except (RankError, StorageError) as error:
        stop(str(error), exit_code=1)
    except Interrupted as interrupted:
        stop(str(interrupted), exit_code=interrupted.exit_code)


def _run_seed(seed: bool | int) -> int:
    if isinstance(seed, bool):
        raise UsageError(f"seed_everything is {seed}: give an integer, it keys all noise of the run.")
    return seed


def _config_name(config: Any) -> str:
    files = config.get("config") or []
    return "-".join(Path(str(file)).stem for file in files) or "default"
