"""``es-lightning simulate``: its options, checked before anything slow is imported."""

from __future__ import annotations

import logging
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path

from es_lightning.cli.console import quiet
from es_lightning.cli.parsers import Parser
from es_lightning.errors import UsageError
from es_lightning.system.signals import ending_at_once
from es_lightning.tracking.places import MLFLOW_RUN

log = logging.getLogger(__name__)

MOST = {"dimension": 10_000, "steps": 100_000, "runs": 10_000}
"""What still takes minutes."""
SETTINGS: Mapping[str, tuple[type, float, str]] = {
    "dimension": (int, 128, "dimensions D of the space"),
    "active": (int, 16, "curved directions d, one half stiff and one half soft"),
    "stiff": (float, 1.0, "curvature of the stiff directions"),
    "soft": (float, 0.05, "curvature of the soft directions"),
    "start": (float, 0.3, "where each stiff direction starts; the maximum is at 0"),
    "alpha": (float, 0.1, "step size"),
    "sigma": (float, 2.0, "noise scale of the model"),
    "steps": (int, 600, "steps of each simulated run"),
    "runs": (int, 400, "simulated runs per population"),
    "seed": (int, 0, "seed of the simulations"),
}
"""Options of the simulation: type, default, meaning."""
SIMULATED = ("rise_and_decay", "steady_state", "double_well")
FITTED = ("fit",)
"""Names of the files that are left, without their endings."""


def simulate(arguments: list[str]) -> None:
    """Simulate ascents on landscapes whose answers are known, or fit a finished run with their curve.

    Args:
        arguments: the command line's arguments after ``simulate``.
    """
    options = simulate_parser().read(arguments)
    _check(options)
    log.info("starting es-lightning simulate ...")
    with ending_at_once():  # it takes seconds
        if options.fit is None:
            from es_lightning.cli.simulated import simulated as carry_out
        else:
            from es_lightning.cli.fitted import fitted as carry_out
    quiet()  # again, since libraries set the levels of their loggers when they are imported
    carry_out(options)
    _log(options)


def _log(options: Namespace) -> None:
    """Log the pictures and tables to the run that was fitted, if MLflow has it, or to a run of their own."""
    fits = options.fit is not None and (options.fit / MLFLOW_RUN).is_file()
    if not (options.mlflow or fits):
        return
    from es_lightning.cli.run_loggers import logged_before, logging_to, mlflow_logger
    from es_lightning.tracking.artifacts import log_artifact

    loggers = logged_before(options.fit) if fits else [mlflow_logger(options.output, "simulation")]
    given = (
        {} if fits else {f"simulate.{name}": getattr(options, name) for name in (*SETTINGS, "populations")}
    )
    with logging_to(loggers, given):
        for name in FITTED if options.fit is not None else SIMULATED:
            for file in sorted(options.output.glob(f"{name}.*")):
                log_artifact(loggers, file, "simulated")


def simulate_parser() -> Parser:
    """Return the parser of ``simulate``."""
    parser = Parser(
        "simulate",
        "Why a reward rises, peaks and decays: the quadratic model of arXiv 2602.00170, in closed form and "
        "simulated, the effective dimension from steady rewards, and escapes from a double well. With --fit, "
        "the model's curve is fitted to a finished run. The exit code is 0 with a result or an honest FAIL, "
        "2 for bad input.",
    )
    for name, (kind, default, meaning) in SETTINGS.items():
        parser.option(f"--{name}", type=kind, default=default, metavar="X", help=f"{meaning} ({default})")
    parser.option(
        "--populations",
        type=int,
        nargs="+",
        default=[10, 20, 40, 80, 160],
        metavar="N",
        help="numbers of members (10 20 40 80 160)",
    )
    parser.option(
        "--fit", type=Path, metavar="RUN", help="folder of a finished run; nothing is simulated then"
    )
    parser.option(
        "--rewards",
        choices=("population", "validation"),
        default="population",
        help="which curve of the run: the population's mean of each generation, or the centre's (population)",
    )
    parser.option(
        "--mlflow",
        action="store_true",
        help="log pictures and tables to MLflow; a fitted run's go to its own",
    )
    parser.option(
        "--output",
        type=Path,
        default=Path("simulated"),
        metavar="FOLDER",
        help="for pictures and CSV (simulated)",
    )
    return parser


def _check(options: Namespace) -> None:
    if options.fit is not None and not options.fit.is_dir():
        raise UsageError(
            f"--fit is {options.fit}, which is no folder: give the folder of a run, such as runs/demo."
        )
    if options.output.exists() and not options.output.is_dir():
        raise UsageError(f"--output is {options.output}, which is a file: give a folder.")
    least = {"dimension": 2, "steps": 2, "runs": 2}
    for name, most in MOST.items():
        if not least[name] <= getattr(options, name) <= most:
            raise UsageError(f"--{name} is {getattr(options, name)}: give {least[name]} to {most:,}.")
    if options.seed < 0:
        raise UsageError(f"--seed is {options.seed}: give at least 0.")
