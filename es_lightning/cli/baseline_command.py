"""The first steps of ``baseline``: options and help, before Lightning is imported."""

from __future__ import annotations

from pathlib import Path

from es_lightning.cli.parsers import FitOptionsParser
from es_lightning.system.signals import ending_at_once

BASELINE_SECTION = """
options of the baseline, in a config below `baseline:` (defaults in brackets):
  --baseline.method NAME       grpo, dr_grpo, dapo or rloo (grpo)
  --baseline.updates N         policy updates (50)
  --baseline.group G           completions of each prompt (8)
  --baseline.lr X              learning rate of AdamW (1e-6)
  --baseline.beta X            price of a nat from the base model (0)
  --baseline.epsilon X         clip of the probability ratio (0.2)
  --baseline.temperature X     of the sampled completions (1.0)
  --baseline.passes N          how often an update goes through its completions (1)
  --baseline.steps_per_pass N  optimizer steps of a pass, each on its share of them (1)
  --baseline.minibatch N       completions of one backward pass (16)
  --baseline.max_grad_norm X   gradients of a larger norm are scaled down (1.0)
  --baseline.precision NAME    of gradients: float32, bfloat16, or that of the engine (auto)
  --baseline.evaluate_every N  updates between two validations (10)
  --baseline.seed INT          of the samples (that of --seed_everything)
All options of fit that concern the model, the data and the devices work as well; an update has
data.prompts_per_generation prompts.
"""


def baseline(arguments: list[str]) -> None:
    """Train a policy by reinforcement learning.

    Args:
        arguments: the command line's arguments after ``baseline``.
    """
    options, rest = baseline_parser().read_beside_fit(arguments, "configs/baselines/grpo.yaml")
    with ending_at_once():  # it takes seconds
        from es_lightning.cli.baseline import baseline as run
    run(options.output, options.overwrite == "true", rest)


def baseline_parser() -> FitOptionsParser:
    """Return the parser of the options that ``baseline`` has beside those of ``fit`` and its own section."""
    parser = FitOptionsParser(
        "baseline",
        "Train a model by reinforcement learning through TRL, on the task, prompts, splits and rewards of a "
        "fit, evaluated and exported by the same code.",
        BASELINE_SECTION,
    )
    parser.option("--output", type=Path, help="folder of the run (runs/NAME, after the config)")
    parser.option("--overwrite", choices=("true", "false"), default="false", help="replace a run (false)")
    return parser
