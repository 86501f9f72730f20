"""The first steps of ``vote``: options and help, before Lightning is imported."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from es_lightning.cli.parsers import FitOptionsParser
from es_lightning.system.signals import ending_at_once

EXAMPLE = "es-lightning vote runs/probe-demo -c configs/probe/demo.yaml --top 5"


def vote(arguments: list[str]) -> None:
    """Let the best candidates of a probe vote on prompts that did not choose them.

    Args:
        arguments: the command line's arguments after ``vote``: the probe's folder, own options, and those of
            ``fit``.
    """
    parser = vote_parser()
    if arguments and not arguments[0].startswith("-"):
        arguments = ["--probe", *arguments]

    def check(options: Namespace) -> None:
        if options.probe is None:
            parser.error(f"give the folder of a finished probe first, as in {EXAMPLE}")
        if options.top < 1:
            parser.error(f"--top is {options.top}: give at least 1.")

    options, rest = parser.read_beside_fit(arguments, "configs/probe/demo.yaml: that of the probe", check)
    with ending_at_once():  # it takes seconds
        from es_lightning.cli import vote as voting
    voting.vote(options, rest)


def vote_parser() -> FitOptionsParser:
    """Return the parser of the options that ``vote`` has beside those of ``fit``."""
    parser = FitOptionsParser(
        "vote",
        "Let the best candidates of a finished probe answer held-out prompts greedily, and count the answer "
        "of the majority: one table of the centre, the best candidate, and the best 2 to K together. Takes "
        "the config of the probe. A vote that was stopped goes on if it is started again.",
        f"Example: {EXAMPLE}",
    )
    parser.usage = "es-lightning vote FOLDER -c FILE [--top K] [--sigma X] [--split NAME] [--output FOLDER]"
    parser.option("--probe", type=Path, metavar="FOLDER", help="a finished probe's folder; may stand first")
    parser.option("--top", type=int, default=5, metavar="K", help="candidates that vote, the best ones (5)")
    parser.option("--sigma", type=float, help="candidates of this noise scale alone (of all)")
    parser.option("--split", choices=("val", "test"), default="val", help="held-out problems (val)")
    parser.option("--output", type=Path, help="folder of table and replies (vote-SPLIT, in the probe's)")
    return parser
