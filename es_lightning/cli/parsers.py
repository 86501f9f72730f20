"""Parsers of the small commands: errors on one line, and own options apart from those of ``fit``."""

from __future__ import annotations

import logging
import os
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable
from textwrap import fill
from typing import Any, NoReturn

from es_lightning.cli.console import stop
from es_lightning.cli.suggest import suggestion

log = logging.getLogger(__name__)

FIT_OPTIONS = ("--config", "--seed_everything", "--overwrite", "--ckpt_path", "--weights_only")
"""Options of ``fit`` that are in no section."""


class Parser(ArgumentParser):
    """Reports errors on one line, and suggests the nearest option."""

    def __init__(self, command: str, description: str, below: str | None = None) -> None:
        super().__init__(
            prog=f"es-lightning {command}",
            description=fill(description, 100),
            epilog=below,
            formatter_class=RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.command, self.options = command, ["--help"]

    def option(self, name: str, short: str | None = None, **settings: Any) -> None:
        """Add an option, maybe with a short name such as ``-c``; ``settings`` are argparse's."""
        self.options.append(name)
        self.add_argument(*([short] if short else []), name, **settings)

    def read(self, arguments: list[str]) -> Namespace:
        """Parse arguments; of several mistakes, a mistyped option is named first."""
        for name in (word.partition("=")[0] for word in arguments if word.startswith("--")):
            if name not in self.options:
                self.error(f"there is no option {name}.{suggestion(name, self.options)}")
        return self.parse_args(arguments)

    def error(self, message: str) -> NoReturn:
        """Print one line and stop."""
        stop(f"{self.command}: {message}")

    def announce(self) -> None:
        """Say that the command starts, once: other ranks of a launcher are silent."""
        if os.environ.get("RANK", "0") == "0":
            log.info("starting es-lightning %s ...", self.command)


class FitOptionsParser(Parser):
    """Tells a command's own options from those of ``fit``; its own may have dashes inside, too."""

    def divide(self, arguments: list[str]) -> tuple[list[str], list[str]]:
        """Return the words that belong to this parser, and those that belong to ``fit``.

        Args:
            arguments: the command line after ``plan``.
        """
        own, rest = list[str](), list[str]()
        words = iter(arguments)
        for word in words:
            name, equals, _ = word.partition("=")
            known = f"--{name.removeprefix('--').replace('-', '_')}"
            if name == "-h" or (name.startswith("--") and known in self.options):
                own.append(word if name == "-h" else word.replace(name, known, 1))
                if not equals and known not in ("--json", "--help") and name != "-h":
                    own += [value for value in [next(words, None)] if value is not None]
            elif name.startswith("--") and "." not in name and name.rstrip("+") not in FIT_OPTIONS:
                candidates = [*self.options, *FIT_OPTIONS]
                self.error(f"there is no option {name}.{suggestion(name, candidates)}")
            else:
                rest.append(word)
        return own, rest

    def read_beside_fit(
        self, arguments: list[str], example: str, check: Callable[[Namespace], None] | None = None
    ) -> tuple[Namespace, list[str]]:
        """Parse a command's own options, and say on the first rank that the command starts.

        Args:
            arguments: the command line after the command.
            example: config that is named where there is none.
            check: refuses values that do not go together.

        Returns:
            The options, and the words that belong to ``fit``, of which there is at least one.
        """
        own, rest = self.divide(arguments)
        options = self.read(own)
        if check is not None:
            check(options)
        if not rest:
            self.error(f"give a config with -c FILE, such as -c {example}")
        self.announce()
        return options, rest
