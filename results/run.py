"""Every run behind docs/results.md: what is missing is run, what was stopped goes on, what has ended is kept.

    python results/run.py                     everything, task by task, seed by seed
    python results/run.py --list              what has been done, and the command of everything else
    python results/run.py --arms es grpo --tasks sums --seeds 0

A run works in runs/results/NAME. Once it has ended, what replays and compares it is copied to
results/runs/NAME: config, journal, evaluations and summary, some hundred kilobytes. The models are not kept;
a journal makes them again (es-lightning replay).
"""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from es_lightning.cli.console import quiet

log = logging.getLogger("results")

HERE = Path(os.path.relpath(Path(__file__).parent))  # so that commands are as they are typed
WORK, KEPT = Path("runs/results"), HERE / "runs"
TASKS = ("sums", "conciseness")
HEADLINE = ("es", "grpo")
BASELINES = ("grpo", "dr_grpo")
ARMS = (
    *HEADLINE,
    "dr_grpo",
    "shuffled",
    "adapters",
    "antithetic",
    "raw",
    "random_search",
    "mezo",
    "half_precision",
    "correlated",
    "anchored",
)
SEEDS, HEADLINE_SEEDS = range(3), range(5)
FILES = ("config.yaml", "journal.jsonl", "updates.jsonl", "evaluations.jsonl", "summary.json")


@dataclass(frozen=True)
class Run:
    """One run of an arm on a task.

    Args:
        task: a file of results/tasks.
        arm: a file of results/arms.
        seed: of the run.
    """

    task: str
    arm: str
    seed: int

    @property
    def name(self) -> str:
        """Name of its folders."""
        return f"{self.task}-{self.arm}-{self.seed}"

    @property
    def ended(self) -> bool:
        """Whether its files are kept."""
        return (KEPT / self.name / "summary.json").exists()

    def command(self) -> list[str]:
        """Return the arguments of es-lightning; those that go on with it if it was stopped."""
        folder = WORK / self.name
        names = (f"tasks/{self.task}", f"arms/{self.arm}", f"arms/{self.arm}-{self.task}")
        found = [HERE / f"{name}.yaml" for name in names if (HERE / f"{name}.yaml").exists()]
        files = [word for file in found for word in ("-c", str(file))]
        if self.arm in BASELINES:
            seed = ["--seed_everything", str(self.seed), "--baseline.seed", str(self.seed)]
            begun = ["--overwrite", "true"] if folder.exists() else []
            return ["baseline", *files, *seed, "--output", str(folder), *begun]
        seed = ["--seed_everything", str(self.seed), "--trainer.default_root_dir", str(folder)]
        begun = ["--ckpt_path", "last"] if (folder / "journal.jsonl").exists() else []
        return ["fit", *files, *seed, *begun]

    def complete(self) -> None:
        """Run it to its end, and keep its files.

        Raises:
            CalledProcessError: it failed; its own last lines say why.
        """
        subprocess.run([sys.executable, "-m", "es_lightning", *self.command()], check=True)
        kept = KEPT / self.name
        kept.mkdir(parents=True, exist_ok=True)
        for file in FILES:  # the summary last: it is the sign that all are there
            if (WORK / self.name / file).exists():
                shutil.copy(WORK / self.name / file, kept / file)


def runs(tasks: list[str], arms: list[str], seeds: list[int] | None) -> Iterator[Run]:
    """Yield the runs that were asked for, one seed of all arms after the other."""
    for task in tasks:
        for seed in HEADLINE_SEEDS:
            for arm in arms:
                wanted = HEADLINE_SEEDS if arm in HEADLINE else SEEDS
                if seed in (wanted if seeds is None else seeds):
                    yield Run(task, arm, seed)


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=Path(__file__).stem)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, help="0 to 2, and to 4 of es and grpo, if not given")
    parser.add_argument("--list", action="store_true", help="run nothing")
    arguments = parser.parse_args()
    quiet()
    for run in runs(arguments.tasks, arguments.arms, arguments.seeds):
        if run.ended or arguments.list:
            log.info(
                "%-28s %s", run.name, "ended" if run.ended else shlex.join(["es-lightning", *run.command()])
            )
        else:
            run.complete()


if __name__ == "__main__":
    main()
