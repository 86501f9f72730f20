"""How close the learning rate that tune-step advises is to the best one of a grid, after one real update.

    python benchmarks/step_grid.py -c configs/demo.yaml --folder runs/step-grid --seeds 6
    python benchmarks/step_grid.py --folder runs/step-grid --only_report --reward runs/tune-reward

Where of a grid or of a map the table alone was kept, it is enough: grid.csv in the folder, and a CSV file of
expected gains in place of the tune-step.

Each seed is a generation of its own: the config's population on the config's prompts, z-scored, and the
update that a fit would make from it. All learning rates of a seed share the direction, so they are compared
on the same luck. The gain is measured on held-out problems (val and test), in the task's reward and in the
log-likelihood of right answers. Lines are on disk as soon as they are measured: a run that was stopped goes
on where it was.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.stats import t
from torch import Tensor, nn

from es_lightning.algorithm.population import Population
from es_lightning.algorithm.shaping import z_score
from es_lightning.algorithm.update import gradient
from es_lightning.cli.console import quiet
from es_lightning.cli.opened import opened
from es_lightning.evaluation.parts import Parts
from es_lightning.grading.scorer import Grading, Scorer
from es_lightning.records import Prompt
from es_lightning.reports.plots import PALETTE, QUIET, save, sheet
from es_lightning.rollout import encode
from es_lightning.system.files import Lines, read_lines, to_json
from es_lightning.task import Reward, Task
from es_lightning.tasks.log_likelihood import LogLikelihood

log = logging.getLogger("step_grid")

LRS = (0.003, 0.006, 0.012, 0.024, 0.048)
MEASURES = {"reward": "reward", "nats": "log-likelihood, nats per token"}
LINES, TABLE = "grid.jsonl", "grid.csv"


class HeldOut(Task):
    """A task whose training problems are the val and test problems of another."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def problems(self, split: str) -> list[Prompt]:
        """Return the held-out problems."""
        return [*self.task.problems("val"), *self.task.problems("test")]

    def answer(self, prompt: Prompt) -> str | None:
        """Return the right answer."""
        return self.task.answer(prompt)

    def reward(self, prompt: Prompt, completion: str) -> Reward:
        """Return the task's reward."""
        return self.task.reward(prompt, completion)


class Grid:
    """Measures gains of single updates.

    Args:
        parts: of a fit's config, not started.
        prompts: number of held-out problems; None takes all.
    """

    def __init__(self, parts: Parts, prompts: int | None) -> None:
        self.parts = parts
        task = HeldOut(parts.task)
        self.both = LogLikelihood(task)
        parts.prompts("train")
        dense, plain = self.both.problems("train")[:prompts], task.problems("train")[:prompts]
        self.held_out = {
            "reward": parts.rollouts.reserve(parts.base, plain),
            "nats": parts.rollouts.reserve(parts.base, dense),
        }
        self.centre: nn.Module = parts.start()
        self.scorer = Scorer(self.both, Grading(workers=0))
        self.scorer.start()

    def direction(self, seed: int) -> dict[str, Tensor]:
        """Return the update of one generation for a learning rate of 1."""
        parts = self.parts
        members = Population(parts.population, parts.seed, parts.antithetic).members(seed)
        prompts = encode(parts.data.batch(seed), parts.base.tokenizer, parts.rollouts.chat_template_kwargs)
        outcome = parts.evaluator(seed).members(self.centre, members, parts.noise, parts.sigma, prompts)
        weights = z_score(outcome.rewards)
        named = self.centre.named_parameters()
        return {name: -gradient(name, value.data, members, weights, parts.noise) for name, value in named}

    def measure(self, direction: Mapping[str, Tensor], lr: float) -> dict[str, list[float]]:
        """Return the rewards on the held-out problems of theta + lr * direction."""
        rollouts = self.parts.rollouts

        def moved(name: str, theta: Tensor) -> Tensor:
            return (theta + lr * direction[name] if lr else theta).to(rollouts.engine.dtype)

        rollouts.load(rollouts.stream(self.centre, moved))
        evaluator = self.parts.evaluator()
        return {
            name: list(evaluator.evaluate(prompts, self.scorer).rewards)
            for name, prompts in self.held_out.items()
        }


@torch.no_grad()
def measured(parts: Parts, folder: Path, lrs: Sequence[float], options: argparse.Namespace) -> None:
    """Measure what is missing; every line holds one seed and learning rate, lr 0 the base model.

    Args:
        parts: of a fit's config.
        folder: where the lines are.
        lrs: learning rates.
        options: seeds, prompts and the seconds after which to stop.
    """
    begun, path = time.monotonic(), folder / LINES
    lines = read_lines(path)
    known = {(row["seed"], row["lr"]) for row in map(json.loads, lines)}
    wanted = [(-1, 0.0), *((seed, lr) for seed in range(options.seeds) for lr in lrs)]
    if all(each in known for each in wanted):
        return
    folder.mkdir(parents=True, exist_ok=True)
    file, grid = Lines(path, lines), Grid(parts, options.prompts)
    of_seed, direction = -1, dict[str, Tensor]()
    for seed, lr in wanted:
        if (seed, lr) in known:
            continue
        if time.monotonic() - begun > options.seconds:
            log.info("stopped after %.0f s: give the same command to go on.", time.monotonic() - begun)
            return
        if seed != of_seed:
            of_seed, direction = seed, grid.direction(seed)
        found = grid.measure(direction, lr)
        file.append(to_json({"seed": seed, "lr": lr, "sigma": parts.sigma, "n": parts.population, **found}))
        log.info("seed %d, lr %g: %s", seed, lr, {name: float(np.mean(each)) for name, each in found.items()})


def table(folder: Path) -> pd.DataFrame:
    """Return per seed and learning rate the gains over the base model, and write them as CSV.

    A folder that has the CSV alone is one of which the rewards of single problems were not kept.
    """
    if not (folder / LINES).exists():
        return pd.read_csv(folder / TABLE)
    rows = [json.loads(line) for line in read_lines(folder / LINES)]
    base = next(row for row in rows if row["lr"] == 0)
    gains = [
        {"seed": row["seed"], "lr": row["lr"], "n": row["n"], "sigma": row["sigma"]}
        | {name: float(np.mean(row[name]) - np.mean(base[name])) for name in MEASURES}
        for row in rows
        if row["lr"] > 0
    ]
    frame = pd.DataFrame(gains)
    frame.to_csv(folder / TABLE, index=False)
    return frame


def compared(frame: pd.DataFrame, advised: Mapping[str, Path], folder: Path) -> None:
    """Print gains beside their predictions, and draw both.

    Args:
        frame: of ``table``.
        advised: measure -> what ``predicted`` reads; without any, all measures are shown alone.
        folder: where the picture goes.
    """
    shown = {name: label for name, label in MEASURES.items() if name in advised or not advised}
    figure, panels = sheet("One update: measured on held-out problems, and expected", columns=len(shown))
    for axes, (measure, label) in zip(panels, shown.items(), strict=True):
        by_lr = frame.groupby("lr")[measure]
        mean, seeds = by_lr.mean(), by_lr.count()
        error = by_lr.std() / seeds**0.5
        reach = error * t.ppf(0.975, seeds - 1)  # nan for one seed, which has no error
        told = f"measured, {seeds.min()} generations, 95 % interval (Student's t)"
        axes.errorbar(mean.index, mean, reach, color=PALETTE[1], marker="o", ms=4, capsize=3, label=told)
        log.info("%s, %d seeds, measured best lr %g", measure, seeds.min(), mean.idxmax())
        found = predicted(advised.get(measure), int(frame["n"].iloc[0]))
        if found is not None:
            found.to_csv(folder / f"expected_{measure}.csv", index=False)
            axes.fill_between(
                found["lr"], found["gain_low"], found["gain_high"], color=PALETTE[0], alpha=0.13, lw=0
            )
            axes.plot(found["lr"], found["gain"], color=PALETTE[0], label="expected by tune-step, 5 to 95 %")
            best = found["lr"][found["gain"].idxmax()]
            told = f"best lr expected, {best:.2g}"
            axes.axvline(best, color=PALETTE[0], ls="--", lw=1.0, label=told)
        for lr in mean.index:
            curve = ([0.0], [np.nan]) if found is None else (found["lr"], found["gain"])
            expected = np.interp(lr, *curve, right=np.nan)
            log.info("  lr %g: %+.4f +- %.4f measured, %+.4f expected", lr, mean[lr], error[lr], expected)
        reach = reach.fillna(0.0)
        bottom, top = float((mean - reach).min()), float((mean + reach).max() + 1e-9)
        axes.set_ylim(bottom - 0.3 * (top - bottom), top + 0.5 * (top - bottom))
        axes.axhline(0, color=QUIET, lw=0.8)
        axes.set_xscale("log")
        axes.set_xlim(mean.index.min() / 2, mean.index.max() * 2)
        axes.set_xticks(list(mean.index), [f"{lr:g}" for lr in mean.index])
        axes.minorticks_off()
        axes.set_xlabel("learning rate (units of the weights)")
        axes.set_ylabel(f"gain, {label}")
        axes.legend(fontsize=7)
    save(figure, folder / "step_grid.png")


def predicted(source: Path | None, population: int) -> pd.DataFrame | None:
    """Return the expected gains of one update of a population.

    Args:
        source: a finished tune-step, or a CSV file of its gains; None if there is none.
        population: N.
    """
    if source is None:
        return None
    frame = pd.read_csv(source / "report" / "gain.csv" if source.is_dir() else source)
    once = frame[frame["updates"] == 1] if "updates" in frame else frame  # an early map had no runs
    return once[once["population"] == population].reset_index(drop=True)


def main() -> None:
    """Measure what is missing, then print and draw what there is."""
    parser = argparse.ArgumentParser(description=Path(__file__).stem)
    parser.add_argument("--folder", type=Path, required=True, help="of the lines, the table and the picture")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--lrs", type=float, nargs="+", default=LRS)
    parser.add_argument("--prompts", type=int, help="held-out problems (all)")
    parser.add_argument("--seconds", type=float, default=1e9, help="begin nothing new after this")
    parser.add_argument("--reward", type=Path, help="tune-step's folder or gains for the reward")
    parser.add_argument("--nats", type=Path, help="the same for the log-likelihood")
    parser.add_argument("--only_report", action="store_true", help="measure nothing")
    options, rest = parser.parse_known_args()
    quiet()
    if not options.only_report:
        with opened(rest) as parts:
            measured(parts, options.folder, options.lrs, options)
    advised = {name: getattr(options, name) for name in MEASURES if getattr(options, name) is not None}
    compared(table(options.folder), advised, options.folder)


if __name__ == "__main__":
    main()
