"""Every recipe on the embedded model, on two tasks, with as many rollouts each: held-out before and after.

    python benchmarks/recipes.py
    python benchmarks/recipes.py --tasks demo --seeds 0 --only paper_es openai_es

A run takes about as long as `make demo`. Runs that are finished in the folder are not run again, and one that
was cut goes on, so the table can be made in several sittings. The settings below stand behind each recipe's
YAML.
"""

import argparse
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

from es_lightning.cli.console import quiet

log = logging.getLogger("recipes")

# The steps that both tasks' files were tuned for, with z-scores: lr 0.012 for N = 16, sigma 0.004.
COMMON = ["--model.sigma", "0.004", "--model.population", "16", "--trainer.max_steps", "6"]
SGD = "--model.optimizer.init_args.lr"
ANCHOR = {"class_path": "AnchoredDecay", "init_args": {"l2": 4.0}}  # lr * l2 = 0.05 for six steps
SETTINGS: dict[str, list[str]] = {
    "paper_es": [SGD, "0.012"],
    "paper_es_correlated": [SGD, "0.012"],
    "openai_es": [SGD, "0.003"],  # 0.012 / sqrt(16): the step of paper_es per weight
    "eggroll": [SGD, "0.06"],
    # Its step grows with the differences of rewards, and so with sigma: both as docs/tasks.md has them.
    "mezo": [
        *(SGD, "0.02", "--model.sigma", "0.001"),
        *("--model.population", "2", "--trainer.max_steps", "48"),
    ],
    "anchored": [SGD, "0.012", "--model.regularisers", json.dumps([ANCHOR])],
    "sparse": [SGD, "0.012"],
    "annealed": [
        *(SGD, "0.012"),
        *("--model.population", "11", "--model.population_schedule.init_args.end", "2.1"),
        *("--model.population_schedule.init_args.generations", "6"),
        *("--model.sigma_schedule.init_args.generations", "6"),
        *("--model.lr_scheduler.init_args.T_max", "6", "--model.lr_scheduler.init_args.eta_min", "0.0012"),
    ],
}
# What is compared with the recipes, and is none itself.
OTHERS: dict[str, list[str]] = {
    "FixedScale": [
        *("--model.shaping", "es_lightning.algorithm.shaping.FixedScale"),
        *("--model.shaping.init_args.scale", "0.05"),
    ],
}
# The number that is compared on each task, and what a run of it needs beside its file.
TASKS: dict[str, tuple[str, list[str]]] = {
    "demo": ("accuracy", []),
    "conciseness_cpu": ("reward", ["--data.prompts_per_generation", "8"]),
}


def command(name: str, task: str, seed: int, folder: Path) -> list[str]:
    """The command line of a run."""
    recipe = ["-c", f"configs/recipes/{name}.yaml"] if name in SETTINGS else []
    options = TASKS[task][1] + COMMON + SETTINGS.get(name, []) + OTHERS.get(name, [])
    every = "24" if name == "mezo" else "3"
    place = [
        "--trainer.default_root_dir",
        str(folder),
        "--trainer.logger",
        "false",
        "--report.export",
        "false",
    ]
    go_on = ["--ckpt_path", "last"] if (folder / "journal.jsonl").exists() else []
    how = ["--seed_everything", str(seed), "--trainer.val_check_interval", every]
    fit = [sys.executable, "-m", "es_lightning", "fit", "-c", f"configs/{task}.yaml"]
    return fit + recipe + options + how + place + go_on


def result(folder: Path) -> dict[str, Any] | None:
    """What a run's summary says; None if it has not ended."""
    path = folder / "summary.json"
    return json.loads(path.read_text(encoding="utf-8")) if (folder / "ended").exists() else None


def run(name: str, task: str, seed: int, folder: Path) -> dict[str, Any]:
    """Run what is missing of a run; returns its summary."""
    if result(folder) is None:
        log.info("%s", " ".join(command(name, task, seed, folder)[1:]))
        subprocess.run(command(name, task, seed, folder), check=True, stdout=subprocess.DEVNULL)
        (folder / "ended").touch()
    found = result(folder)
    assert found is not None
    return found


def cell(found: dict[str, Any], what: str) -> str:
    """The held-out numbers before and after."""
    if what == "accuracy":
        before, after = (found["held_out_accuracy"][when] for when in ("before", "after"))
        return f"{before['right']} -> {after['right']} of {after['of']}"
    return f"{found['held_out_before']:.1f} -> {found['held_out_after']:.1f}"


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=Path(__file__).stem)
    parser.add_argument("--folder", type=Path, default=Path("runs/recipes"))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--only", nargs="+", choices=SETTINGS | OTHERS, default=list(SETTINGS | OTHERS))
    arguments = parser.parse_args()
    quiet()
    log.info("| task | recipe | %s |", " | ".join(f"seed {seed}" for seed in arguments.seeds))
    for task in arguments.tasks:
        for name in arguments.only:
            runs = [
                run(name, task, seed, arguments.folder / f"{task}-{name}-{seed}") for seed in arguments.seeds
            ]
            cells = " | ".join(cell(found, TASKS[task][0]) for found in runs)
            log.info("| %s | %s | %s |", task, name, cells)


if __name__ == "__main__":
    main()
