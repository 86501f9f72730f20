"""The parts that a fit's config names, without a fit: for commands that evaluate models."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from es_lightning.cli.command_line import SECTIONS, CommandLine, Parser
from es_lightning.cli.configs import with_packaged
from es_lightning.cli.console import quiet, without_loading_bars
from es_lightning.cli.planned import add_options_of_fit, check_as_fit
from es_lightning.cli.refusals import refused_by_lightning, trainer_made
from es_lightning.cli.short_names import read_short_names, with_full_names
from es_lightning.datamodule import TaskDataModule
from es_lightning.errors import UsageError
from es_lightning.evaluation.parts import Parts
from es_lightning.landscape.probing.probe import ProbeSettings
from es_lightning.module import EvolutionStrategies
from es_lightning.system.memory import return_freed_tensors
from es_lightning.tracking.secrets import masked

DEVICES = ("accelerator", "devices", "num_nodes", "strategy")
"""Options of the Trainer that say which ranks there are; the others are a fit's alone."""


class OpenedSettings(CommandLine):
    """The settings of a fit, with its module, its data, and a Trainer that only knows devices and ranks.

    Args:
        args: options of ``fit``, and of the sections.
        sections: name -> class of what a command takes beside them.
    """

    model: EvolutionStrategies
    datamodule: TaskDataModule

    def __init__(self, args: Sequence[str], sections: Mapping[str, type]) -> None:
        self.sections = sections
        super().__init__(args, run=False)

    def init_parser(self, **options: Any) -> LightningArgumentParser:
        """Let a parser know the command's own sections, for its messages."""
        parser = super().init_parser(**options)
        assert isinstance(parser, Parser)
        parser.sections = SECTIONS | dict(self.sections)
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Take what ``fit`` takes, and the command's own sections."""
        super().add_arguments_to_parser(parser)
        add_options_of_fit(parser)
        for name, kind in self.sections.items():
            parser.add_class_arguments(kind, name)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Refuse what a fit would refuse."""
        LightningCLI.parse_arguments(self, parser, args)
        check_as_fit(self.config)

    def before_instantiate_classes(self) -> None:
        """Choose no folder, and make no logger and no callback."""
        self.asked = self.config
        self.config = self.config.clone()
        for name in ("callbacks", "logger", "plugins", "profiler"):
            self.config.trainer[name] = None

    def instantiate_classes(self) -> None:
        """Make module, data and Trainer; nothing is opened or restored."""
        LightningCLI.instantiate_classes(self)

    def instantiate_trainer(self, **options: Any) -> pl.Trainer:
        """Make the Trainer whose strategy starts the ranks."""
        wanted = {name: self.config_init.trainer[name] for name in DEVICES}
        with trainer_made(wanted):
            return pl.Trainer(
                **wanted,
                max_steps=1,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )

    @property
    def plain(self) -> dict[str, Any]:
        """What the config asks for, defaults and its files' names included, as JSON; secrets are masked."""
        config: dict[str, Any] = json.loads(masked(self.parser.dump(self.asked, format="json")))
        files = [str(file) for file in self.asked.get("config") or []]
        return config | {"config": files}


def opened(arguments: Sequence[str]) -> Parts:
    """Parse a fit's options, join the other ranks, and return the parts, none of which is started yet.

    Options that only a fit or a probe has, such as an optimizer's, are checked and not used.

    Args:
        arguments: options of ``fit``, such as ``-c FILE`` and ``--model.base NAME``.

    Raises:
        UsageError: an option is wrong, or there are no such devices.
    """
    return opened_with(arguments, {"probe": ProbeSettings})[0]


def opened_with(arguments: Sequence[str], sections: Mapping[str, type]) -> tuple[Parts, dict[str, Any]]:
    """Do what ``opened`` does for a command that has sections of its own in the config.

    Args:
        arguments: options of ``fit``, and of the sections.
        sections: name -> class, such as ``{"probe": ProbeSettings}``: its arguments are the options.

    Returns:
        The parts, and an object for each section.

    Raises:
        UsageError: an option is wrong, or there are no such devices.
    """
    quiet()  # again, since Lightning sets the levels of its loggers when it is imported
    without_loading_bars()
    return_freed_tensors()
    read_short_names()
    try:
        settings = OpenedSettings(with_full_names(with_packaged(list(arguments))), sections)
    except (MisconfigurationException, ValueError) as error:
        said = None if isinstance(error.__cause__, UsageError) else refused_by_lightning(error)
        if said is None:
            raise
        raise UsageError(said) from error
    strategy = settings.trainer.strategy
    if strategy.launcher is None:
        strategy.setup_environment()
    else:
        strategy.launcher.launch(strategy.setup_environment)  # starts the other ranks, then joins them
    return _parts(settings), {name: settings.config_init[name] for name in sections}


def _parts(settings: OpenedSettings) -> Parts:
    module = settings.model
    return Parts(
        base=module.base_model,
        rollouts=module.rollouts,
        data=settings.datamodule,
        noise=module.noise,
        sigma=module.steering.sigma.at(0),
        population=module.steering.first_population,
        antithetic=module.antithetic,
        seed=module.steering.seed,
        strategy=settings.trainer.strategy,
        place=module.centre_place,
        check_engine=module.check_engine,
        config=settings.plain,
    )
