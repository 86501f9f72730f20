"""The first steps of ``probe``: options and help, before Lightning is imported."""

from __future__ import annotations

from pathlib import Path

from es_lightning.cli.parsers import FitOptionsParser
from es_lightning.system.signals import ending_at_once

PROBE_SECTION = """
options of the probe, in a config below `probe:` (defaults in brackets):
  --probe.sigmas [X,X,...]   noise scales, in units of the weights ([0.001,0.002,0.004,0.008])
  --probe.members M          candidates of a batch at each sigma (240)
  --probe.batches S          independent batches (3); a larger S goes on with a finished probe
  --probe.prompts P          prompts, the same for all candidates (64)
  --probe.split NAME         train, val or test (train)
  --probe.pool_seed INT      which of the split's problems are taken (0)
  --probe.seed INT           of the candidates' noise (1234)
  --probe.antithetic true    candidates in pairs with opposite signs (false)
  --probe.largest N          best-of-N up to this N (50)
All options of fit that concern the model, the data and the devices work as well.
"""


def probe(arguments: list[str]) -> None:
    """Perturb a model at random and report what the rewards around it look like.

    Args:
        arguments: the command line's arguments after ``probe``.
    """
    parser = probe_parser()
    if "--report" in arguments:
        options, rest = parser.read(arguments), list[str]()
        parser.announce()
    else:
        options, rest = parser.read_beside_fit(arguments, "configs/probe/demo.yaml")
    with ending_at_once():  # it takes seconds
        if options.report:
            from es_lightning.cli.probe_report import report
        else:
            from es_lightning.cli.probe import probe as run_probe
    if options.report:
        report(options.report, options.largest)
    else:
        run_probe(options.output, rest)


def probe_parser() -> FitOptionsParser:
    """Return the parser of the options that ``probe`` has beside those of ``fit`` and its own section."""
    parser = FitOptionsParser(
        "probe",
        "Evaluate random perturbations of a model at several noise scales on fixed prompts: how many "
        "improve, how much the best of N gains, also on prompts that did not choose it, and whether chance "
        "alone looks like that. A probe that was stopped goes on when its command is given again.",
        PROBE_SECTION,
    )
    parser.option("--output", type=Path, help="folder of the probe (runs/probe-NAME, after the config)")
    parser.option(
        "--report",
        type=Path,
        nargs="+",
        metavar="FOLDER",
        help="write the reports of finished probes anew, and compare several",
    )
    parser.option("--largest", type=int, help="with --report: best-of-N up to this N (50)")
    return parser
