"""The first steps of ``curvature`` and ``degenerate``: options and help, before Lightning is imported."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from es_lightning.cli.parsers import FitOptionsParser
from es_lightning.system.signals import ending_at_once

CURVATURE_SECTION = """
options of the measurement, in a config below `curvature:` (defaults in brackets):
  --curvature.sigmas [X,X,...]  noise scales, in units of the weights ([0.001,0.002])
  --curvature.pairs K           antithetic pairs, the same at every sigma (64)
  --curvature.prompts P         training problems, the same for all pairs (64)
  --curvature.pool_seed INT     which of the problems are taken (0)
  --curvature.seed INT          of the pairs' noise (1234)
  --curvature.rewards false     do without the task's reward of the same members (true)
  --curvature.likelihood false  measure the task's own reward alone: no right answers, no autograd (true)
  --curvature.products N        pairs whose curvature is computed by autograd as well (8)
  --curvature.hessian STEPS     Lanczos steps on true Hessian-vector products (20)
  --curvature.lanczos STEPS     Lanczos steps on those of evolution strategies (0)
  --curvature.seeds N           common seeds of these products (48)
  --curvature.step X            how far they look, as a multiple of a member's distance (1.0)
  --curvature.control false     do without permuted rewards (true)
All options of fit that concern the model, the data and the devices work as well.
"""
DEGENERATE_SECTION = """
options of the tests, in a config below `degenerate:` (defaults in brackets):
  --degenerate.sigmas [X,...]   noise scales that are tested (all)
  --degenerate.controls C       directions of permuted rewards, at least 20 (20)
  --degenerate.hessian STEPS    Lanczos steps on true Hessian-vector products; 0: the gradient alone (20)
  --degenerate.vectors N        Hessian vectors in the regression (10)
  --degenerate.seed INT         of permutations and of the division of the prompts (0)
The config has to be that of the probe or of the curvature run. Of a curvature run, data.objective says what
is tested: reward (if it was measured) or log_likelihood.
"""


def curvature(arguments: list[str]) -> None:
    """Measure slope and curvature from perturbations, and compare them with autograd's.

    Args:
        arguments: the command line's arguments after ``curvature``.
    """
    parser = FitOptionsParser(
        "curvature",
        "Slope and curvature of the log-likelihood of a task's right answers, from antithetic pairs of "
        "perturbations, beside what autograd knows of them; and the task's reward of the same members, or "
        "that reward alone. A measurement that was stopped goes on when its command is given again.",
        CURVATURE_SECTION,
    )
    parser.option("--output", type=Path, help="folder (runs/curvature-NAME, after the config)")
    options, rest = parser.read_beside_fit(arguments, "configs/curvature/sums.yaml")
    with ending_at_once():  # it takes seconds
        from es_lightning.cli import curvature as measuring
    measuring.curvature(options, rest)


def degenerate(arguments: list[str]) -> None:
    """Test whether improving candidates share what makes them improve.

    Args:
        arguments: the command line's arguments after ``degenerate``.
    """
    parser = FitOptionsParser(
        "degenerate",
        "Test whether the improving candidates of a probe, or the members of a curvature run's pairs, share "
        "what makes them improve: the reward along "
        "their mean direction against that of permuted rewards, on prompts that did not choose them; and how "
        "much the gradient and the top Hessian vectors explain of all changes.",
        DEGENERATE_SECTION,
    )
    parser.option("--probe", type=Path, metavar="FOLDER", help="folder of a finished probe or curvature run")
    parser.option("--output", type=Path, help="folder (degenerate, in the probe's)")

    def check(options: Namespace) -> None:
        if options.probe is None:
            parser.error("give the folder of a finished probe or curvature run with --probe FOLDER.")

    options, rest = parser.read_beside_fit(arguments, "configs/probe/demo.yaml: that of the probe", check)
    with ending_at_once():  # it takes seconds
        from es_lightning.cli import degenerate as testing
    testing.degenerate(options, rest)
