"""The commands beside those of LightningCLI: ``fetch`` and ``replay``."""

import logging
from inspect import signature
from typing import NoReturn

from jsonargparse import ArgumentParser

from es_lightning import replay as replaying
from es_lightning.console import stop
from es_lightning.embedded import fetch_embedded
from es_lightning.suggest import one_line

log = logging.getLogger(__name__)


class Parser(ArgumentParser):
    """Reports errors on one line, with the nearest option."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print one line and stop."""
        options = signature(replaying.replay).parameters
        stop(one_line(message, dict.fromkeys(options, object), ()))


def fetch() -> None:
    """Get the embedded model, once."""
    log.info("embedded model: %s", fetch_embedded())


def replay(arguments: list[str]) -> None:
    """Rebuild a model from base and journal.

    Args:
        arguments: of the command line, behind ``replay``.
    """
    parser = Parser(
        prog="es-lightning replay",
        description="Rebuild the Hugging Face model of any generation from the base model and a run's "
        "journal, bit for bit and without rollouts.",
    )
    parser.add_function_arguments(replaying.replay)
    settings = parser.parse_args(arguments)
    entry = replaying.replay(**settings.as_dict())
    log.info(
        "%s holds the centre after generation %d, checksum %s as recorded.",
        settings.output,
        entry.generation,
        entry.checksum,
    )
