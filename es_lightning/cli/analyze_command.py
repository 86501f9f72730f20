"""The first steps of ``analyze``: options and help, before Lightning is imported."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from es_lightning.cli.parsers import FitOptionsParser
from es_lightning.system.signals import ending_at_once

EXAMPLE = "es-lightning analyze runs/demo -c configs/analyze/demo.yaml"
ANALYZE_SECTION = f"""
options of the analysis, in a config below `analyze:` (defaults in brackets):
  --analyze.tasks            prior tasks by name, as in the callback Forgetting (none)
  --analyze.sample N         problems of each of them, or null for all (200)
  --analyze.seed INT         of the choice of these problems (0)
  --analyze.split NAME       test or val (test)
  --analyze.max_tokens N     most new tokens of a completion on them (the config's limit)
  --analyze.kl_prompts N     problems of the config's task for the divergence (50)
  --analyze.kl_max_tokens N  most new tokens of a completion for it (the config's limit)
  --analyze.kl_seed INT      of the choice of these problems, and of the sampler (0)
  --analyze.thresholds [X,X] sparsity is the share of entries that changed no more ([1e-6,1e-4])
  --analyze.top N            tensors listed in analysis.json, by change (20)
All options of fit that concern the model, the data and the devices work as well.

Example: {EXAMPLE}
"""


def analyze(arguments: list[str]) -> None:
    """Measure what tuning has done to a model, whoever tuned it.

    Args:
        arguments: the command line's arguments after ``analyze``: the model, own options, and those of
            ``fit``.
    """
    parser = analyze_parser()
    if arguments and not arguments[0].startswith("-"):
        arguments = ["--tuned", *arguments]

    def check(options: Namespace) -> None:
        if not options.tuned:
            parser.error(f"give the tuned model first, as in {EXAMPLE}")

    options, rest = parser.read_beside_fit(arguments, "configs/analyze/demo.yaml", check)
    if options.base:
        rest += ["--model.base", options.base]
    with ending_at_once():  # it takes seconds
        from es_lightning.cli import analyze as analyzing
    analyzing.analyze(options, rest)


def analyze_parser() -> FitOptionsParser:
    """Return the parser of the options that ``analyze`` has beside those of ``fit`` and its own section."""
    parser = FitOptionsParser(
        "analyze",
        "Measure a tuned model beside its base, whoever tuned it: how far its weights and its distributions "
        "have moved, what it earns on the config's task, and what it has forgotten of prior tasks. "
        "Both models get the same problems. An analysis that was stopped goes on if it is started again.",
        ANALYZE_SECTION,
    )
    parser.usage = (
        "es-lightning analyze MODEL -c FILE [--base MODEL] [--base_from FOLDER] [--split NAME] "
        "[--output FOLDER]"
    )
    parser.option(
        "--tuned",
        metavar="MODEL",
        help="a Hugging Face folder or hub id, the folder of a run or a baseline, or RUN:GENERATION; may "
        "stand first",
    )
    parser.option("--base", metavar="MODEL", help="what it was tuned from (model.base of the config)")
    parser.option(
        "--base_from",
        type=Path,
        metavar="FOLDER",
        help="an analysis of another model with the same settings; its measurements of the base are taken",
    )
    parser.option("--split", choices=("val", "test"), default="test", help="problems of the task (test)")
    parser.option("--output", type=Path, help="folder of table and numbers (runs/analysis-NAME)")
    return parser
