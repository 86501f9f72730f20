"""The first steps of ``compare``: options and help, before anything slow is imported."""

from __future__ import annotations

import logging
from argparse import Namespace
from math import isfinite
from pathlib import Path

from es_lightning.cli.console import quiet
from es_lightning.cli.parsers import Parser
from es_lightning.errors import UsageError
from es_lightning.system.signals import ending_at_once

log = logging.getLogger(__name__)

EXAMPLES = """examples:
  es-lightning compare runs/es-* runs/grpo-*
  es-lightning compare "ours=runs/es-*" "GRPO=runs/grpo-*" --output compared/sums
  es-lightning compare --experiment es_lightning
"""


def compare(arguments: list[str]) -> None:
    """Compare runs, and write a report.

    Args:
        arguments: the command line's arguments after ``compare``.
    """
    options = compare_parser().read(arguments)
    _check(options)
    log.info("starting es-lightning compare ...")
    with ending_at_once():  # it takes seconds
        from es_lightning.cli.compared import compared
    quiet()  # again, since libraries set the levels of their loggers when they are imported
    compared(options)


def compare_parser() -> Parser:
    """Return the parser of ``compare``."""
    parser = Parser(
        "compare",
        "Runs of one task side by side, fits and baselines alike: one HTML page, a Markdown table, and its "
        "figures as PNG and SVG. Runs that differ in their seeds alone are one arm; the first arm is the one "
        "that the others are compared with.",
        EXAMPLES,
    )
    parser.add_argument(
        "runs",
        nargs="*",
        metavar="RUN",
        help="folder of a run, or LABEL=FOLDER to name its arm; a FOLDER may have * in it",
    )
    parser.option("--experiment", metavar="NAME", help="all runs of an experiment in MLflow")
    parser.option("--task", metavar="NAME", help="of the experiment, the runs of this task alone")
    parser.option(
        "--output", type=Path, default=Path("compared"), metavar="FOLDER", help="for the report (compared)"
    )
    parser.option(
        "--kl_limit",
        type=float,
        default=1.0,
        metavar="X",
        help="nats per token from the base model from which on a run is suspected (%(default)g)",
    )
    return parser


def _check(options: Namespace) -> None:
    if bool(options.runs) == (options.experiment is not None):
        raise UsageError(
            "give either the folders of runs, such as runs/es-* runs/grpo-*, or --experiment NAME."
        )
    if options.task is not None and options.experiment is None:
        raise UsageError("--task chooses among the runs of an experiment: give --experiment NAME with it.")
    if not (isfinite(options.kl_limit) and options.kl_limit > 0):
        raise UsageError(f"--kl_limit is {options.kl_limit}: give a number above 0.")
    if options.output.exists() and not options.output.is_dir():
        raise UsageError(f"--output is {options.output}, which is a file: give a folder.")
