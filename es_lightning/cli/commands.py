"""The commands that LightningCLI does not have: ``fetch``, ``replay`` and ``ui``; none needs Lightning."""

import json
import logging
import os
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path
from typing import Any, NoReturn

from es_lightning.cli.console import stop, without_loading_bars
from es_lightning.cli.suggest import suggestion
from es_lightning.models.embedded import fetch_embedded
from es_lightning.tracking.places import MLFLOW_RUN, TRACKING_URI
from es_lightning.tracking.secrets import without_password

log = logging.getLogger(__name__)

TRAINING = "?workflowType=machine_learning"  # selects one of the two views of MLflow's pages


class Parser(ArgumentParser):
    """Reports errors on one line, and suggests the nearest option."""

    def __init__(self, command: str, description: str) -> None:
        super().__init__(prog=f"es-lightning {command}", description=description, allow_abbrev=False)
        self.command, self.options = command, ["--help"]

    def option(self, name: str, **settings: Any) -> None:
        """Add an option; ``settings`` are argparse's."""
        self.options.append(name)
        self.add_argument(name, **settings)

    def read(self, arguments: list[str]) -> Namespace:
        """Parse arguments; of several mistakes, a mistyped option is named first."""
        for name in (word.partition("=")[0] for word in arguments if word.startswith("--")):
            if name not in self.options:
                self.error(f"there is no option {name}.{suggestion(name, self.options)}")
        return self.parse_args(arguments)

    def error(self, message: str) -> NoReturn:
        """Print one line and stop."""
        stop(f"{self.command}: {message}")


def ui(arguments: list[str]) -> None:
    """Print links to the newest runs, then serve MLflow's pages until Ctrl-C.

    A tracking server serves its pages itself; then this only prints the links.

    Args:
        arguments: the command line's arguments after ``ui``.
    """
    parser = Parser("ui", "MLflow in a browser, on the runs made here.")
    parser.option("--host", default="127.0.0.1", help="address to listen at (%(default)s)")
    parser.option("--port", type=int, default=5000, help="port to listen at (%(default)s)")
    parser.option("--runs", type=Path, default=Path("runs"), help="folder of the runs' folders (runs)")
    options = parser.read(arguments)
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


def fetch(arguments: list[str]) -> None:
    """Download the embedded model, unless that was done before.

    Args:
        arguments: the command line's arguments after ``fetch``; none are known.
    """
    text = "Get the embedded model, SmolLM2-135M-Instruct (93 MB), unless that was done before."
    Parser("fetch", text).read(arguments)
    log.info("embedded model: %s", fetch_embedded())


def replay(arguments: list[str]) -> None:
    """Rebuild a model from its base model and a journal.

    Args:
        arguments: the command line's arguments after ``replay``.
    """
    settings = replay_parser().read(arguments)
    log.info("starting es-lightning replay ...")
    from es_lightning.journal import replay as replaying

    without_loading_bars()
    entry = replaying.replay(**vars(settings))
    log.info(
        "%s holds the centre after generation %d, checksum %s as recorded.",
        settings.output,
        entry.generation,
        entry.checksum,
    )


def replay_parser() -> Parser:
    """Return the parser of ``replay``, whose options are the arguments of ``journal.replay.replay``."""
    parser = Parser(
        "replay",
        "Rebuild the Hugging Face model of any generation from the base model and a run's journal, bit for "
        "bit and without rollouts.",
    )
    parser.option("--journal", type=Path, required=True, help="a run's journal.jsonl")
    parser.option("--output", type=Path, required=True, help="folder to write; must not exist yet")
    parser.option("--generation", type=int, help="the last generation to repeat (the journal's last)")
    parser.option("--base", help="where the base model is, if it is no longer where the run had it")
    parser.option(
        "--trust_remote_code",
        type=_true_or_false,
        default=False,
        metavar="true|false",
        help="run Python code that comes with the model, and optimizers from outside torch (false)",
    )
    return parser


def _true_or_false(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ArgumentTypeError(f"{text} is neither true nor false")
    return text.lower() == "true"
