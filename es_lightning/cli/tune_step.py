"""The options of ``es-lightning tune-step``, without what takes seconds to import."""

from __future__ import annotations

from argparse import ArgumentTypeError, Namespace
from pathlib import Path

from es_lightning.cli.parsers import FitOptionsParser
from es_lightning.errors import UsageError
from es_lightning.system.signals import ending_at_once

LEAST = {"pairs": 4, "prompts": 4}
LEAST_SIGMAS = 3


def tune_step(arguments: list[str]) -> None:
    """Probe a model with antithetic pairs, and advise sigma, the learning rate and the population.

    Args:
        arguments: the command line's arguments after ``tune-step``: its own options, and those of ``fit``.
    """
    options, rest = tune_step_parser().read_beside_fit(arguments, "demo.yaml", check_tune_step)
    with ending_at_once():
        from es_lightning.cli import tune_step_run
    tune_step_run.run(options, rest)


def tune_step_parser() -> FitOptionsParser:
    """Return the parser of the options that ``tune-step`` has beside those of ``fit``."""
    parser = FitOptionsParser(
        "tune-step",
        "Which sigma, learning rate and population a fit should have: one short probe with antithetic pairs "
        "at several sigmas, the expected gain of a z-scored update, and of a run of trainer.max_steps of "
        "them, at every learning rate with its interval, and what it pays to double the population. It takes "
        "the options of fit as well, such as -c FILE. A probe that was stopped goes on when its command is "
        "given again.",
    )
    parser.option("--pairs", type=int, default=24, help="antithetic pairs, the same at every sigma (24)")
    parser.option(
        "--sigmas",
        type=_numbers,
        help="noise scales, such as 0.001,0.002,0.004 (half, once and twice model.sigma)",
    )
    parser.option("--prompts", type=int, help="training prompts of the probe (4 times those of a generation)")
    parser.option("--output", type=Path, help="folder of the probe (runs/tune-step-NAME, after the config)")
    return parser


def check_tune_step(options: Namespace) -> None:
    """Refuse numbers that no probe can have, before anything slow is imported.

    Raises:
        UsageError: one is out of its range.
    """
    for name, least in LEAST.items():
        value = getattr(options, name)
        if value is not None and value < least:
            raise UsageError(f"--{name} is {value}: give {least} or more.")
    sigmas = options.sigmas
    if sigmas is not None and (len(set(sigmas)) < LEAST_SIGMAS or not all(0 < each < 1e9 for each in sigmas)):
        raise UsageError(
            f"--sigmas is {','.join(map(str, sigmas))}: give {LEAST_SIGMAS} or more different numbers "
            "above 0."
        )


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.strip("[]").split(",")]
    except ValueError:
        raise ArgumentTypeError(f"{text!r} are no numbers: give such as 0.001,0.002,0.004") from None
