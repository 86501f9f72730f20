"""The centres of a finished run on all held-out problems, which are more than it was validated on.

    python benchmarks/held_out.py --run results/runs/long-4 --folder runs/long-4-held-out
    python benchmarks/early_peak.py --replay runs/long-4-held-out

The journal makes every centre again, and every one is asked all problems of val and test. Nothing of the
run is changed. Lines are on disk as soon as they are measured: a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

import torch
from torch import nn

from es_lightning.algorithm.noise import noise_of
from es_lightning.algorithm.tensors import checksum
from es_lightning.cli.console import quiet
from es_lightning.cli.opened import opened
from es_lightning.errors import UsageError
from es_lightning.evaluation.parts import Parts
from es_lightning.grading.scorer import Grading, Scorer
from es_lightning.journal.entry import lineage, read_journal
from es_lightning.journal.parts import optimizer_of, regulariser_of
from es_lightning.journal.replay import repeat
from es_lightning.system.files import Lines, read_lines, replacing, to_json

log = logging.getLogger("held_out")

LINES, TABLE = "points.jsonl", Path("tables", "early_peak.json")


@torch.no_grad()
def measured(parts: Parts, run: Path, folder: Path, every: int) -> None:
    """Measure what is missing; every line holds a generation and the rewards of its centre, in order.

    Args:
        parts: of the run's config, not started.
        run: its folder.
        folder: where the lines are.
        every: generations per measurement.
    """
    header, entries = read_journal(run / "journal.jsonl")
    parts.prompts("train")
    problems = [*parts.task.problems("val"), *parts.task.problems("test")]
    rollouts = parts.rollouts
    prompts = rollouts.reserve(parts.base, problems)
    centre: nn.Module = parts.start()
    optimizer, noise = optimizer_of(header["optimizer"], centre), noise_of(header["noise"])
    regularisers = [regulariser_of(each) for each in header.get("regularisers", [])]
    scorer = Scorer(parts.task, Grading(workers=0))
    scorer.start()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LINES
    lines = read_lines(path)
    points, file = [json.loads(line) for line in lines], Lines(path, lines)
    known = {point["generation"] for point in points}
    for entry in lineage(entries, len(entries) - 1):
        repeat(entry, centre, optimizer, noise, parts.base.weights, regularisers)
        generation = entry.generation + 1  # as many updates the centre has had
        if generation % every or generation in known:
            continue
        if checksum(centre.named_parameters()) != entry.checksum:
            raise UsageError(f"{run} cannot be repeated from its journal here: see es-lightning replay.")
        rollouts.load(rollouts.unperturbed(centre))
        rewards = list(parts.evaluator(generation).evaluate(prompts, scorer).rewards)
        points.append({"generation": generation, "value": sum(rewards) / len(rewards), "prompts": rewards})
        file.append(to_json(points[-1]))
        log.info("generation %d: %.3f of %d problems", generation, points[-1]["value"], len(rewards))
    (folder / TABLE).parent.mkdir(exist_ok=True)
    kept = to_json({"prompts": [prompt.id for prompt in prompts], "points": points})
    with replacing(folder / TABLE) as table:
        table.write(kept.encode())


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(description=Path(__file__).stem)
    parser.add_argument("--run", type=Path, required=True, help="folder of a run that has ended")
    parser.add_argument("--folder", type=Path, required=True, help="of the lines and the table")
    parser.add_argument("--every", type=int, default=2, help="generations per measurement")
    options, rest = parser.parse_known_args()
    quiet()
    with opened(["-c", str(options.run / "config.yaml"), *rest]) as parts:
        measured(parts, options.run, options.folder, options.every)


if __name__ == "__main__":
    main()
