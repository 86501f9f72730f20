"""Every run behind docs/results.md on the embedded model.

    python -m results.run                     everything, task by task, seed by seed
    python -m results.run --list              what has been done, and the commands of everything else
    python -m results.run --arms es grpo --tasks sums --seeds 0

A run works in runs/results/NAME. Once it has ended, what replays and compares it is copied to
results/runs/NAME: config, journal, evaluations and summary, some hundred kilobytes. The models are not kept;
a journal makes them again (es-lightning replay).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from es_lightning.cli.console import quiet
from results.suite import HERE, Run, Suite, complete

TASKS = ("sums", "conciseness", "hackable")
HEADLINE = ("es", "grpo")
ARMS = (
    *HEADLINE,
    "shuffled",
    "dr_grpo",
    "adapters",
    "antithetic",
    "raw",
    "random_search",
    "mezo",
    "half_precision",
    "correlated",
    "anchored",
    "es_longer",
)
SEEDS, HEADLINE_SEEDS = range(3), range(5)
ONLY = {"conciseness": ARMS[:-1], "hackable": ("es",)}
"""Arms of tasks that do not have all: `es_longer` asks what time buys, on one task; `hackable` compares no
methods and answers one question, whether `compare` notices a hacked reward."""
SUITE = Suite(
    configs=[HERE],
    work=Path("runs/results"),
    kept=HERE / "runs",
    analysed=dict.fromkeys(("es", "shuffled", "anchored"), SEEDS) | {"grpo": range(1, 4)},
    forgetting=HERE / "forgetting.yaml",
)


def runs(tasks: Sequence[str], arms: Sequence[str] | None, seeds: Sequence[int] | None) -> Iterator[Run]:
    """Yield the runs that were asked for, one seed of all arms after the other.

    Args:
        tasks: some of ``TASKS``.
        arms: some of ``ARMS``; None takes those that the results need of each task.
        seeds: None takes as many as the results need of each arm.
    """
    for task in tasks:
        for seed in HEADLINE_SEEDS:
            for arm in ONLY.get(task, ARMS) if arms is None else arms:
                wanted = HEADLINE_SEEDS if arm in HEADLINE and task != "hackable" else SEEDS
                if seed in (wanted if seeds is None else seeds):
                    yield Run(SUITE, task, arm, seed)


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(prog="python -m results.run", description=str(__doc__).split("\n")[0])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--arms", nargs="+", choices=ARMS, help="all, and es alone of hackable, if not given")
    parser.add_argument(
        "--seeds", nargs="+", type=int, help="0 to 2 if not given; to 4 of es and grpo, but not of hackable"
    )
    parser.add_argument("--list", action="store_true", help="run nothing")
    arguments = parser.parse_args()
    quiet()
    complete(runs(arguments.tasks, arguments.arms, arguments.seeds), arguments.list)


if __name__ == "__main__":
    main()
