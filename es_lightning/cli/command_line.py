"""The commands of LightningCLI, with a run folder, MLflow by default, and one-line errors."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn

import lightning.pytorch as pl
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities import rank_zero_only

from es_lightning import (
    callbacks,  # noqa: F401  (so that the parser knows its classes by their short names)
    tasks,  # noqa: F401
)
from es_lightning.algorithm.noise import GaussianNoise
from es_lightning.callbacks import GenerationBar, GracefulStop, RunRecord, RunReport
from es_lightning.cli.configs import with_packaged
from es_lightning.cli.console import stop, without_loading_bars
from es_lightning.cli.entry import main
from es_lightning.cli.explain import explained
from es_lightning.cli.given import Given, given
from es_lightning.cli.long_help import HelpFormatter
from es_lightning.cli.refusals import check_settings, refused_by_lightning, trainer_made
from es_lightning.cli.run_folder import check_base_stays, holds_baseline, remove_unchanged, stamps
from es_lightning.cli.short_names import read_short_names, with_full_names
from es_lightning.datamodule import TaskDataModule
from es_lightning.distributed.folder import is_first_rank
from es_lightning.errors import UsageError
from es_lightning.journal.start import check_start
from es_lightning.module import EvolutionStrategies
from es_lightning.rollout import VLLMEngine
from es_lightning.system.checkpoint import newest
from es_lightning.system.files import replacing
from es_lightning.system.folders import check_writable
from es_lightning.system.lock import hold
from es_lightning.system.memory import return_freed_tensors
from es_lightning.tracking.artifacts import log_artifact
from es_lightning.tracking.logger import DurableMLFlowLogger
from es_lightning.tracking.parameters import deciding
from es_lightning.tracking.places import MLFLOW_RUN, TRACKING_URI
from es_lightning.tracking.plain_logger import prepare
from es_lightning.tracking.secrets import masked

__all__ = ["CommandLine", "main", "run"]

SECTIONS: dict[str, type] = {
    "trainer": pl.Trainer,
    "model": EvolutionStrategies,
    "data": TaskDataModule,
    "report": RunReport,
    "checkpoint": ModelCheckpoint,
}


COMMANDS = ("fit", "validate", "test")
NO_OPTIONS = {"model", "dataloaders", "train_dataloaders", "val_dataloaders", "datamodule"}
"""Arguments of their Trainer methods that the user does not give."""

OPTIONS = (
    "help",
    "config",
    "seed_everything",
    "overwrite",
    "ckpt_path",
    "verbose",
    "weights_only",
    "print_config",
)
"""Options that are in no section."""

DEFAULT_CLASSES = {"model.engine": VLLMEngine, "model.noise": GaussianNoise}
"""Plug-ins that the module makes itself when none is given; then their options may come without a class."""


class Parser(LightningArgumentParser):
    """Reports errors on one line, and suggests the nearest valid name."""

    given: Sequence[Given] = ()
    """What the user gave, so that a message can say where a mistake stands."""
    sections: Mapping[str, type] = SECTIONS
    """First parts of the options, so that a message can suggest the nearest."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print one line and stop; a parser within this one, for the options of a class, tells this one."""
        if not self.exit_on_error:
            super().error(message, ex)
        stop(explained(message, self.sections, OPTIONS, self.given))


class SaveConfig(SaveConfigCallback):
    """Writes the resolved configuration into the run folder, and what decides the run to the logger.

    Neither shows a password or a token in an address.
    """

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Note the files of an older run; they stay on disk until this run has passed its checks."""
        root = Path(trainer.default_root_dir)
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
    """``fit``, ``validate`` and ``test`` on a task.

    Args:
        args: a command and its options.
        run: whether the first of them is a command, which is run.
    """

    def __init__(self, args: Sequence[str], run: bool = True) -> None:
        self.resumes = False
        self.given = given(args)
        self.command = next(iter(args), None)
        _refuse_lists(self.given)
        with ExitStack() as self.until_end:
            super().__init__(
                EvolutionStrategies,
                TaskDataModule,
                save_config_callback=SaveConfig,
                parser_class=Parser,
                parser_kwargs={"formatter_class": HelpFormatter, "allow_abbrev": False},
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
                args=list(args),
                run=run,
            )

    def init_parser(self, **options: Any) -> LightningArgumentParser:
        """Let a parser know what the user gave."""
        parser = super().init_parser(**options)
        assert isinstance(parser, Parser)
        parser.given = self.given
        return parser

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]  # Lightning asks the instance
        """Return the subcommands, each with the arguments of its Trainer method that are not options.

        Where the user gave one, it is the only one: each takes a parser, and that a tenth of a second.
        """
        return dict.fromkeys([self.command] if self.command in COMMANDS else COMMANDS, NO_OPTIONS)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options that a run needs besides trainer, model and data."""
        parser.add_argument("--overwrite", type=bool, default=False, help="Replace a run in the same folder.")
        parser.add_lightning_class_args(RunReport, "report")
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.set_defaults({"checkpoint.filename": "generation-{step}"})
        for target in ("model.seed", "data.seed"):
            parser.link_arguments("seed_everything", target, compute_fn=_run_seed)
        for key, plug_in in DEFAULT_CLASSES.items():
            if self._lacks_class(key):
                parser.set_defaults({key: {"class_path": f"{plug_in.__module__}.{plug_in.__name__}"}})

    def _lacks_class(self, key: str) -> bool:
        """Whether the user gave options of a plug-in, and never its class."""
        keys = {each.key for each in self.given if each.value is not None}
        return not keys & {key, f"{key}.class_path"} and any(name.startswith(f"{key}.") for name in keys)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Refuse settings that no run can use, before anything is made or read."""
        super().parse_arguments(parser, args)
        command = self.config.subcommand
        check_settings(self.config[command], resumes=command == "fit")

    def before_instantiate_classes(self) -> None:
        """Choose the run folder, and refuse to mix two runs in it."""
        config = self.config[self.subcommand]
        if config.trainer.max_epochs is None:
            # max_steps alone sets the length, also when a finished run is extended. Without it: one epoch.
            config.trainer.max_epochs = -1 if config.trainer.max_steps > 0 else 1
        folder = config.trainer.default_root_dir or Path("runs") / _config_name(config)
        check_writable(folder, "trainer.default_root_dir")
        root = Path(folder)
        config.trainer.default_root_dir = str(root)
        if self.subcommand == "fit" and not config.trainer.fast_dev_run and is_first_rank():
            self.until_end.callback(hold(root))  # before anything of the folder is read or written
        config.checkpoint.dirpath = config.checkpoint.dirpath or str(root / "checkpoints")
        check_writable(config.checkpoint.dirpath, "checkpoint.dirpath")
        if config.ckpt_path == "last":
            # Lightning's own "last" follows a link. If a crash has removed the link, Lightning starts a new
            # run without a warning.
            checkpoint = newest(Path(config.checkpoint.dirpath))
            config.ckpt_path = None if checkpoint is None else str(checkpoint)
            self.resumes = True
            if checkpoint is not None:
                check_start(checkpoint, resumes=self.subcommand == "fit")
        if config.overwrite:
            check_base_stays(config.model.base, root, "--trainer.default_root_dir")
        if self.subcommand == "fit":
            self._refuse_to_mix(config, root)

    def _refuse_to_mix(self, config: Any, root: Path) -> None:
        """Refuse a fit beside another run in the same folder."""
        if holds_baseline(root) and (config.ckpt_path or not config.overwrite):
            raise UsageError(
                f"{root} holds a baseline, which a fit cannot go on with: replace it with --overwrite true "
                "and no --ckpt_path, or choose another folder with --trainer.default_root_dir."
            )
        resumes_or_replaces = config.overwrite or config.ckpt_path or self.resumes
        if not resumes_or_replaces and (root / "config.yaml").exists():
            raise UsageError(
                f"{root} already holds a run: resume it with --ckpt_path last, replace it with "
                "--overwrite true, or choose another folder with --trainer.default_root_dir."
            )

    def instantiate_classes(self) -> None:
        """Open MLflow first; let a resumed run that has no checkpoint yet continue from its journal."""
        if is_first_rank():
            prepare(self.config[self.subcommand].trainer.logger)
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
        own = [own] if isinstance(own, pl.Callback) else own  # one callback, given without a dash before it
        added: list[pl.Callback] = [GracefulStop(self.config_init[self.subcommand].checkpoint.dirpath)]
        added.append(RunRecord(_config_name(self.config_init[self.subcommand])))
        if config.enable_progress_bar is not False and not any(isinstance(c, ProgressBar) for c in own):
            added.append(GenerationBar())
        options["callbacks"] = [*own, *added]
        with trainer_made(config):
            trainer: pl.Trainer = super().instantiate_trainer(**options)
        for logger in trainer.loggers if self.subcommand == "fit" else ():
            if isinstance(logger, DurableMLFlowLogger):
                resumes = self.resumes or bool(self.config_init[self.subcommand].ckpt_path)
                logger.remember(Path(config.default_root_dir) / MLFLOW_RUN, resumes)
        return trainer


def run(arguments: list[str]) -> None:
    """Run a command of LightningCLI.

    Args:
        arguments: what stands after ``es-lightning``.
    """
    without_loading_bars()
    return_freed_tensors()
    read_short_names()
    try:
        CommandLine(args=with_full_names(with_packaged(arguments)))
    except (MisconfigurationException, ValueError) as error:
        said = None if isinstance(error.__cause__, UsageError) else refused_by_lightning(error)
        if said is None:
            raise
        raise UsageError(said) from error


def _refuse_lists(options: Sequence[Given]) -> None:
    """The parser would pass over a list in the place of a section without a word."""
    for each in options:
        section, _, rest = each.key.partition(".")
        if section in SECTIONS and rest.isdigit():
            raise UsageError(f"{each.place}{section} holds a list: write name: value, without dashes.")


def _run_seed(seed: bool | int) -> int:
    return int(seed)  # check_settings refuses what is no seed


def _config_name(config: Any) -> str:
    files = config.get("config") or []
    return "-".join(Path(str(file)).stem for file in files) or "default"
