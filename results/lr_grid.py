"""Learning rates of the headline's two arms, each chosen on a seed that no other run of the results has.

    python -m results.lr_grid                 everything that is missing, and the table
    python -m results.lr_grid --arms grpo     one of the two

Half as many updates as a run of the results has, on sums. A run works in runs/lr_grid/LR, and its files are
kept in results/rates/LR.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import numpy as np

from es_lightning.cli.console import quiet
from es_lightning.journal.evaluations import read_evaluations
from results.suite import HERE, Run, Suite

log = logging.getLogger("results")

TASK, SEED, UPDATES = "sums", 5, 4
RATES = {"es": (0.003, 0.006, 0.012, 0.024), "grpo": (1e-5, 3e-5, 1e-4)}
"""Learning rates that are tried, by arm. If the best is the first or the last, the next beyond is added."""


def run_of(arm: str, rate: float) -> Run:
    """Return the run of an arm with a learning rate.

    Args:
        arm: one of ``RATES``.
        rate: its learning rate.
    """
    overrides = {
        "fit": ["--model.optimizer.init_args.lr", str(rate), "--trainer.max_steps", str(UPDATES)],
        "baseline": ["--baseline.lr", str(rate), "--baseline.updates", str(UPDATES)],
    }
    work, kept = Path("runs/lr_grid") / str(rate), HERE / "rates" / str(rate)
    return Run(Suite([HERE], work, kept, overrides=overrides), TASK, arm, SEED)


def validated(run: Run) -> list[float]:
    """Return the mean reward of every validation, in order; the first is the base model's where it has one.

    Args:
        run: one that has ended.
    """
    return [float(np.mean(each.rewards)) for each in read_evaluations(run.kept) if each.split == "val"]


def score(run: Run) -> float:
    """Return what decides between learning rates: the mean of the last two validations.

    Args:
        run: one that has ended.
    """
    return float(np.mean(validated(run)[-2:]))


def main() -> None:
    """Run what is missing, and log one line for each learning rate."""
    parser = argparse.ArgumentParser(
        prog="python -m results.lr_grid",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--arms", nargs="+", choices=RATES, default=list(RATES))
    given = parser.parse_args()
    quiet()
    for arm in given.arms:
        for rate in RATES[arm]:
            run = run_of(arm, rate)
            run.complete()
            each = ", ".join(f"{reward:.3f}" for reward in validated(run))
            log.info("%s, lr %g: %.3f; validations %s", arm, rate, score(run), each)


if __name__ == "__main__":
    main()
