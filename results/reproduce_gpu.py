"""The table of docs/results.md for Qwen2.5-1.5B and 3B on Countdown and GSM8K; needs GPUs, not run by us.

    python -m results.reproduce_gpu                          what it would cost; nothing is run
    python -m results.reproduce_gpu --arms es grpo --seeds 0 --generations 100 --dollars 3
    python -m results.reproduce_gpu --arms es grpo --seeds 0 --generations 100 --go

The estimate multiplies what arXiv 2605.30148 reports for Countdown, 500 generations of 200 problems with 30
completions each on eight H200: 3 and 4 hours for evolution strategies at 1.5B and 3B, 14 and 20 for GRPO.
GSM8K is charged the same, whatever the length of its replies. Another device or engine will differ:
`es-lightning plan` computes a fit's time for a device.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from es_lightning.cli.console import quiet
from es_lightning.errors import UsageError
from results.run import ARMS
from results.suite import BASELINES, HERE, Run, Suite, complete

log = logging.getLogger("results")

TASKS = ("countdown-1.5b", "countdown-3b", "gsm8k-1.5b", "gsm8k-3b")
PUBLISHED_GENERATIONS, PUBLISHED_GPUS = 500, 8
PUBLISHED_HOURS = {("1.5b", False): 3, ("1.5b", True): 14, ("3b", False): 4, ("3b", True): 20}
"""Hours of eight H200 by size and whether gradients are taken (arXiv 2605.30148)."""
CHOICES = [arm for arm in ARMS if arm != "es_longer"]  # which all runs here are as long as
PAIRS_OF_MEZO = 15  # generations of one pair that have the rollouts of one generation of 30 members


def gpu_hours(run: Run, generations: int) -> float:
    """Estimate the hours of one H200 that a run takes."""
    size = run.task.rsplit("-", 1)[1]
    hours = PUBLISHED_HOURS[size, run.arm in BASELINES] * PUBLISHED_GPUS
    return hours * generations / PUBLISHED_GENERATIONS


def suite_of(generations: int, devices: int) -> Suite:
    """Return the suite at another length, on some devices.

    A fit spreads its members over the devices; a baseline trains on the first of them. The folders have the
    length in their names: a short trial must not count as the whole run.
    """
    validations = max(1, generations // 20)
    fit = ["--trainer.max_steps", str(generations), "--trainer.val_check_interval", str(validations)]
    baseline = ["--baseline.updates", str(generations), "--baseline.evaluate_every", str(validations)]
    baseline += ["--trainer.devices", "1"]
    return Suite(
        configs=[HERE, HERE / "gpu"],
        work=Path(f"runs/results-gpu-{generations}"),
        kept=HERE / "gpu" / f"runs-{generations}",
        analysed=dict.fromkeys(("es", "grpo", "shuffled", "anchored"), range(3)),
        forgetting=HERE / "gpu" / "forgetting.yaml",
        overrides={"fit": [*fit, "--trainer.devices", str(devices)], "baseline": baseline},
    )


def runs(
    tasks: Sequence[str], arms: Sequence[str], seeds: Sequence[int], generations: int, devices: int
) -> Iterator[Run]:
    """Yield the runs that were asked for, one seed of all arms after the other."""
    suite = suite_of(generations, devices)
    longer = suite_of(generations * PAIRS_OF_MEZO, 1)
    mezo = replace(longer, work=suite.work, kept=suite.kept)
    for task in tasks:
        for seed in seeds:
            for arm in arms:
                yield Run(mezo if arm == "mezo" else suite, task, arm, seed)


def estimate(wanted: list[Run], generations: int, dollars: float | None) -> str:
    """Return a table of GPU hours, and of dollars if an hour's price is known."""
    hours: dict[tuple[str, str], float] = {}
    for run in wanted:
        cost = 0.0 if run.ended else gpu_hours(run, generations)
        hours[run.task, run.arm] = hours.get((run.task, run.arm), 0.0) + cost
    lines = [f"{'all seeds of':<34}{'GPU hours':>10}"]
    lines += [f"{task + ' ' + arm:<34}{each:>10.1f}" for (task, arm), each in hours.items()]
    total = sum(hours.values())
    price = "" if dollars is None else f", {total * dollars:,.0f} dollars"
    return "\n".join([*lines, f"{'together':<34}{total:>10.1f}{price} (an estimate, for H200)"])


def require_gpu() -> None:
    """Refuse to start without a GPU.

    Raises:
        UsageError: PyTorch sees none.
    """
    if not torch.cuda.is_available():
        raise UsageError(
            "PyTorch sees no GPU, and these runs would take years without one: leave --go out to see "
            "what they cost, or run python -m results.run, which is made for CPUs."
        )


def main() -> None:
    """Say what it costs, and with --go run what is missing."""
    parser = argparse.ArgumentParser(
        prog="python -m results.reproduce_gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--arms", nargs="+", choices=CHOICES, default=["es", "grpo", "shuffled"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--generations", type=int, default=PUBLISHED_GENERATIONS)
    parser.add_argument("--devices", type=int, default=1, help="GPUs of a fit; a baseline has one")
    parser.add_argument("--dollars", type=float, help="price of a GPU hour")
    parser.add_argument(
        "--list", action="store_true", help="what has been done, and the commands of the rest"
    )
    parser.add_argument(
        "--go", action="store_true", help="run what is missing, or go on where it was stopped"
    )
    given = parser.parse_args()
    quiet()
    if given.generations < 1:
        parser.error("--generations: give at least 1")
    wanted = list(runs(given.tasks, given.arms, given.seeds, given.generations, given.devices))
    if given.list:
        complete(wanted, only_list=True)
        return
    log.info(estimate(wanted, given.generations, given.dollars))
    if not given.go:
        log.info("Nothing was run: add --go.")
        return
    try:
        require_gpu()
    except UsageError as error:
        parser.error(str(error))
    complete(wanted, only_list=False)


if __name__ == "__main__":
    main()
