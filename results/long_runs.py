"""Rise and decay: 200 generations at N = 4 and 16, and from each peak 60 more: on, shuffled, and annealed.

    python -m results.long_runs                    everything that is missing
    python -m results.long_runs --populations 4    one of the two

If the decay is diffusion, a run whose rewards are shuffled from the peak on falls at least as fast as the
one that goes on, and one whose noise and step shrink does not fall. All three begin at the same centre, as it
was exported, with the same new noise, so that they differ in nothing else. The run itself went on from a
float32 centre. A run works in runs/results/NAME, and its files are kept in results/runs/NAME.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import numpy as np

from es_lightning.cli.console import quiet
from es_lightning.journal.evaluations import read_evaluations
from results.suite import HERE, keep, run_command

log = logging.getLogger("results")

GENERATIONS, SEED = 200, 0
BRANCH_GENERATIONS = 60
POPULATIONS, BRANCHES = (4, 16), ("on", "shuffled", "annealed")
WORK, KEPT = Path("runs/results"), HERE / "runs"
CONFIG = HERE / "long" / "run.yaml"
SMOOTHED = 5
"""Validations in the stretch whose mean decides on the peak; the best single one would be a lucky one."""


def peak_of(folder: Path) -> int:
    """Return how many generations the centre in the middle of the best stretch of validations had seen.

    Args:
        folder: of a run that has ended.
    """
    validations = [each for each in read_evaluations(folder) if each.split == "val"]
    rewards = np.array([np.mean(each.rewards) for each in validations])
    means = np.convolve(rewards, np.ones(SMOOTHED) / SMOOTHED, mode="valid")
    return validations[int(means.argmax()) + SMOOTHED // 2].step


def ended(name: str) -> bool:
    """Return whether a run's files are kept."""
    return (KEPT / name / "summary.json").exists()


def fit(name: str, population: int, *more: str) -> Path:
    """Run a fit that is missing, or go on with it, and return the folder of its files."""
    folder, kept = WORK / name, KEPT / name
    if ended(name):
        log.info("%-24s ended", name)
        return kept
    begun = ["--ckpt_path", "last"] if (folder / "journal.jsonl").exists() else []
    settings = ["--model.population", str(population), "--trainer.default_root_dir", str(folder)]
    run_command(["fit", "-c", str(CONFIG), *more, *settings, *begun])
    early_peak = "tables/early_peak.json"
    keep(folder, kept, "config.yaml", "journal.jsonl", "evaluations.jsonl", early_peak, "summary.json")
    return kept


def branch(population: int, kept: Path, kind: str) -> None:
    """Run what is missing of a branch from the peak of a run."""
    name, peak = f"long-{population}-{kind}", peak_of(kept)
    if ended(name):  # its start need not be made again
        log.info("%-24s ended", name)
        return
    left = min(BRANCH_GENERATIONS, GENERATIONS - peak)
    start = WORK / f"long-{population}-peak"
    if not start.exists():
        journal = ["--journal", str(kept / "journal.jsonl")]
        # The centre after ``peak`` generations is that after generation peak - 1, which count from 0.
        run_command(["replay", *journal, "--generation", str(peak - 1), "--output", str(start)])
    options = [
        "--model.base",
        str(start),
        "--trainer.max_steps",
        str(left),
        "--seed_everything",
        str(SEED + 1),
    ]
    configs = {"shuffled": HERE / "arms" / "shuffled.yaml", "annealed": HERE / "long" / "annealed.yaml"}
    if kind == "annealed":
        options += ["--model.lr_scheduler.init_args.T_max", str(left)]
        options += ["--model.sigma_schedule.init_args.generations", str(left)]
    files = ["-c", str(configs[kind])] if kind in configs else []
    fit(name, population, *files, *options)


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(
        prog="python -m results.long_runs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--populations", nargs="+", type=int, choices=POPULATIONS, default=list(POPULATIONS))
    given = parser.parse_args()
    quiet()
    for population in given.populations:
        kept = fit(f"long-{population}", population, "--seed_everything", str(SEED))
        for kind in BRANCHES:
            branch(population, kept, kind)


if __name__ == "__main__":
    main()
