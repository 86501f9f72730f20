"""Rollouts per second of one rank on all cores against several ranks on cores of their own.

Run: python benchmarks/ranks.py [--ranks 2] [--population 8] [--generations 4]. Both fit the embedded model as
configs/conciseness_cpu.yaml says, but with the paper's reward, in processes of their own, and must end with
the same rewards up to the thread count. The first generation, which warms up, does not count. A third fit
divides the noise of updates among the ranks (`share_update`).
"""

import argparse
import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from es_lightning.journal.entry import Entry, read_journal

log = logging.getLogger("benchmarks.ranks")
ROOT = Path(__file__).parents[1]
PROMPTS = 32


def fit(ranks: int, population: int, generations: int, shares: bool, folder: Path) -> list[Entry]:
    """Fit with some ranks; the journal's entries after the first."""
    strategy = "es_lightning.distributed.strategy.PopulationStrategy"
    settings = {
        "trainer.devices": ranks,
        "trainer.strategy": strategy,
        "trainer.strategy.init_args.share_update": str(shares).lower(),
        "trainer.max_steps": generations,
        "trainer.limit_val_batches": 0,
        "trainer.logger": "false",
        "trainer.default_root_dir": folder,
        "model.population": population,
        "data.task.wrong_costs": 0,
        "data.prompts_per_generation": PROMPTS,
        "report.held_out": "false",
        "report.export": "false",
    }
    arguments = [f"--{name}={value}" for name, value in settings.items()]
    config = ROOT / "configs" / "conciseness_cpu.yaml"
    command = [sys.executable, "-m", "es_lightning", "fit", "-c", str(config)]
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false"}
    subprocess.run([*command, *arguments], check=True, capture_output=True, env=environment, cwd=folder)
    return read_journal(folder / "journal.jsonl")[1][1:]


def report(name: str, entries: list[Entry]) -> float:
    """Log a line of results; rollouts per second."""
    seconds = sum(entry.seconds["total"] for entry in entries)
    updating = sum(entry.seconds["update"] for entry in entries)
    rollouts = sum(len(entry.members) for entry in entries) * PROMPTS
    tokens = sum(entry.tokens for entry in entries)
    rate = rollouts / (seconds - updating)
    log.info(
        "%s: %.2f rollouts/s and %.0f tokens/s before the update, %.2f rollouts/s with it "
        "(update %.1f s of %.1f s a generation)",
        name,
        rate,
        tokens / (seconds - updating),
        rollouts / seconds,
        updating / len(entries),
        seconds / len(entries),
    )
    return rate


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--population", type=int, default=8)
    parser.add_argument("--generations", type=int, default=4)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    rates = []
    for ranks, shares in ((1, False), (options.ranks, False), (options.ranks, True)):
        with tempfile.TemporaryDirectory() as folder:
            entries = fit(ranks, options.population, options.generations, shares, Path(folder))
        rates.append(report(f"{ranks} rank(s){', shared update' if shares else ''}", entries))
    log.info("%d ranks: %.2f times the rollouts/s of one", options.ranks, rates[1] / rates[0])


if __name__ == "__main__":
    main()
