"""The command ``scan``: its options, checked before anything slow is imported."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from es_lightning.cli.console import quiet
from es_lightning.cli.parsers import FitOptionsParser
from es_lightning.errors import UsageError
from es_lightning.system.signals import ending_at_once

KINDS = ("line", "between", "radial", "plane")
MODELS = {"line": (1, 1), "between": (2, 2), "radial": (1, 1), "plane": (1, 2)}
"""Fewest and most tuned models of each kind."""
GRIDS = {
    "line": (-0.5, 2.0, 0.25),
    "between": (-0.25, 1.25, 0.125),
    "radial": (0.0, 2.0, 0.25),
    "plane": (-0.5, 1.5, 0.5),
}
"""Start, stop and step of each kind."""
SPLITS = ("train", "val", "test")


def scan(arguments: list[str]) -> None:
    """Measure the reward along a line, along rays, or over a plane of weight space.

    Args:
        arguments: the command line's arguments after ``scan``: its own options, and those of ``fit``.
    """
    options, rest = scan_parser().read_beside_fit(arguments, "demo.yaml", check_options)
    with ending_at_once():  # it takes seconds
        from es_lightning.cli import scanning
    quiet()  # again, since Lightning sets the levels of its loggers when it is imported
    scanning.scan(options, rest)


def check_options(options: Namespace) -> None:
    """Refuse what no scan can be made of, and fill in what a kind of scan has by default.

    Raises:
        UsageError: the message says which option to change.
    """
    from es_lightning.landscape.scans.scan import grid

    least, most = MODELS[options.kind]
    given = len(options.tuned or ())
    if not least <= given <= most:
        wanted = f"{least} or {most}" if least < most else str(least)
        raise UsageError(
            f"--kind {options.kind} takes {wanted} tuned model{'s' if most > 1 else ''}, and {given} "
            f"{'is' if given == 1 else 'are'} given: write --tuned MODEL for each."
        )
    for name, default in zip(("start", "stop", "step"), GRIDS[options.kind], strict=True):
        if getattr(options, name) is None:
            setattr(options, name, default)
    grid(options.start, options.stop, options.step)
    if options.kind == "radial" and options.directions < 2:
        raise UsageError(
            f"--directions is {options.directions}: give at least 2, so that they have a spread."
        )
    if options.prompts is not None and options.prompts < 2:
        raise UsageError(f"--prompts is {options.prompts}: give at least 2, since errors are over prompts.")
    if options.output is None:
        options.output = Path("scans", options.kind)


def scan_parser() -> FitOptionsParser:
    """Return the parser of the options that ``scan`` has beside those of ``fit``."""
    parser = FitOptionsParser(
        "scan",
        "Measure the reward along a line, along rays or over a plane of weight space: one picture, one CSV. "
        "It takes the options of fit as well, such as -c FILE: model, data and trainer say what is measured "
        "and on what. A scan that was stopped goes on if it is started again.",
    )
    parser.option(
        "--kind",
        choices=KINDS,
        default="line",
        help="line: base to tuned and beyond; between: two tuned models; radial: tuned against random "
        "directions; plane: two tuned models, or one and a random direction (line)",
    )
    parser.option(
        "--tuned",
        action="append",
        metavar="MODEL",
        help="a Hugging Face folder, a run's folder, or RUN:GENERATION; twice for two models",
    )
    parser.option("--start", type=float, help="the first point, in lengths of the tuned model's change")
    parser.option("--stop", type=float, help="the last one")
    parser.option("--step", type=float, help="from one to the next")
    parser.option("--split", choices=SPLITS, default="val", help="problems of the task (val)")
    parser.option("--prompts", type=int, help="how many of them, the first ones (all)")
    parser.option("--directions", type=int, default=5, help="random directions of a radial scan (5)")
    parser.option("--seed", type=int, default=0, help="of the random directions (0)")
    parser.option("--output", type=Path, help="folder for picture, CSV and measured rewards (scans/KIND)")
    return parser
