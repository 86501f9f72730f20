"""The commands that LightningCLI does not have: ``fetch``, ``replay`` and ``ui``."""

import json
import logging
import os
import sys
from inspect import signature
from pathlib import Path
from typing import NoReturn

from jsonargparse import ArgumentParser

from es_lightning.cli.console import stop
from es_lightning.cli.suggest import with_suggestion
from es_lightning.journal import replay as replaying
from es_lightning.models.embedded import fetch_embedded
from es_lightning.tracking.logger import MLFLOW_RUN, TRACKING_URI
from es_lightning.tracking.secrets import without_password

log = logging.getLogger(__name__)


class Parser(ArgumentParser):
    """Reports errors on one line, and suggests the nearest option."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print one line and stop."""
        options = signature(replaying.replay).parameters
        stop(with_suggestion(message, dict.fromkeys(options, object), ()))


TRAINING = "?workflowType=machine_learning"  # selects one of the two views of MLflow's pages


class UIParser(ArgumentParser):
    """Reports errors on one line."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print one line and stop."""
        stop(with_suggestion(message, dict.fromkeys(("host", "port", "runs"), object), ()))


def ui(arguments: list[str]) -> None:
    """Print links to the newest runs, then serve MLflow's pages until Ctrl-C.

    A tracking server serves its pages itself; then this only prints the links.

    Args:
        arguments: the command line's arguments after ``ui``.
    """
    parser = UIParser(prog="es-lightning ui", description="MLflow in a browser, on the runs made here.")
    parser.add_argument("--host", type=str, default="127.0.0.1", help="Address to listen at.")
    parser.add_argument("--port", type=int, default=5000, help="Port to listen at.")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="Folder of the runs' folders.")
    options = parser.parse_args(arguments)
    uri = os.environ.get("MLFLOW_TRACKING_URI") or TRACKING_URI
    served = uri.startswith(("http://", "https://"))
    address = without_password(uri).rstrip("/") if served else f"http://{options.host}:{options.port}"
    for line in run_links(options.runs, uri, address):
        log.info("%s", line)
    log.info(
        "%-24s %s/#/experiments%s%s", "all runs", address, TRAINING, "" if served else "   (Ctrl-C ends it)"
    )
    if served:
        return
    command = ["-m", "mlflow", "ui", "--backend-store-uri", uri]
    place = ["--host", options.host, "--port", str(options.port)]
    os.execv(sys.executable, [sys.executable, *command, *place])  # not a child: Ctrl-C goes to MLflow itself


def run_links(folder: Path, uri: str, address: str, count: int = 5) -> list[str]:
    """Return a line with the name and the page of each of the newest runs that a tracking server has.

    Args:
        folder: folder that holds the runs' folders.
        uri: the tracking server's URI.
        address: where its pages are served.
        count: how many runs.
    """
    files = sorted(folder.glob(f"*/{MLFLOW_RUN}"), key=lambda path: path.stat().st_mtime, reverse=True)
    known = [(path.parent.name, json.loads(path.read_text(encoding="utf-8"))) for path in files]
    return [
        f"{name:24} {address}/#/experiments/{run['experiment_id']}/runs/{run['run_id']}{TRAINING}"
        for name, run in known
        if run["tracking_uri"] == without_password(uri)  # the file has the URI in this form
    ][:count]


def fetch() -> None:
    """Download the embedded model, unless that was done before."""
    log.info("embedded model: %s", fetch_embedded())


def replay(arguments: list[str]) -> None:
    """Rebuild a model from its base model and a journal.

    Args:
        arguments: the command line's arguments after ``replay``.
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
