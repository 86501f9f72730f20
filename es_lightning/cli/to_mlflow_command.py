"""The first steps of ``to-mlflow``: options and help, before anything slow is imported."""

from __future__ import annotations

import logging

from es_lightning.cli.console import quiet
from es_lightning.cli.parsers import Parser
from es_lightning.system.signals import ending_at_once

log = logging.getLogger(__name__)

EXAMPLES = """examples:
  es-lightning to-mlflow runs/es-0 runs/grpo-0
  es-lightning to-mlflow "results/runs/*" --experiment results
"""


def to_mlflow(arguments: list[str]) -> None:
    """Put runs into MLflow.

    Args:
        arguments: the command line's arguments after ``to-mlflow``.
    """
    options = to_mlflow_parser().read(arguments)
    log.info("starting es-lightning to-mlflow ...")
    with ending_at_once():  # it takes seconds
        from es_lightning.cli.to_mlflow import put
    quiet()  # again, since libraries set the levels of their loggers when they are imported
    put(options.runs, options.experiment)


def to_mlflow_parser() -> Parser:
    """Return the parser of ``to-mlflow``."""
    parser = Parser(
        "to-mlflow",
        "Put fits and baselines that ran without MLflow into it, from what their folders hold: settings, "
        "metrics by step, files. A run that is there already is left out. MLflow's address is "
        "MLFLOW_TRACKING_URI, or mlflow.db of the working folder.",
        EXAMPLES,
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run; it may have * in it")
    parser.option(
        "--experiment",
        default="es_lightning",
        metavar="NAME",
        help="in MLflow, made if missing (%(default)s)",
    )
    return parser
