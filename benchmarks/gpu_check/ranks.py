"""Two ranks on two devices: they end with one centre, whether or not they share the update."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.gpu_check.generation import arguments
from benchmarks.gpu_check.rows import AGREES, DIFFERS, MEASURED, Row, Settings, failed, skipped
from es_lightning.journal.entry import Entry, read_journal

WAYS = {"each rank makes the whole update": "false", "ranks share the update": "true"}


def rows(settings: Settings) -> Iterator[Row]:
    """Fit twice with two ranks; each fit compares its ranks' centres by itself, and stops if they differ."""
    if settings.device != "cpu" and torch.accelerator.device_count() < 2:
        yield skipped("two ranks", "one device")
        return
    found: list[list[Entry]] = []
    for what, shares in WAYS.items():
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "es_lightning", *_arguments(settings, Path(folder), shares)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
                yield failed(what, lines[-1])
                continue
            found.append(read_journal(Path(folder) / "journal.jsonl")[1])
        last = found[-1][-1]
        if all(entry.skipped for entry in found[-1]):
            yield failed(what, "all members earned the same, so that nothing was updated")
            continue
        result = f"both ranks end with {last.checksum}, an update takes {last.seconds['update']:.3f} s"
        yield Row(what, result, AGREES)
    if len(found) == len(WAYS):
        yield _verdict(*found)


def _arguments(settings: Settings, folder: Path, shares: str) -> list[str]:
    strategy = {
        "trainer.devices": "2",
        "trainer.strategy": "PopulationStrategy",
        "trainer.strategy.share_update": shares,
        "model.engine": "HFEngine",
    }
    if settings.device == "cpu":
        strategy["trainer.strategy.threads_per_rank"] = "1"
    return arguments(settings, folder, strategy)


def _verdict(plain: list[Entry], shared: list[Entry]) -> Row:
    """Compare both fits; where an engine gave other rewards, the updates were others as well."""
    what = "shared and plain update"
    pairs = list(zip(plain, shared, strict=True))
    if not all(torch.equal(one.weights, other.weights) for one, other in pairs):
        return Row(what, "cannot be compared: the engine gave other rewards the second time", MEASURED)
    result = f"{plain[-1].checksum}, {shared[-1].checksum}"
    same = all(one.checksum == other.checksum for one, other in pairs)
    return Row(what, result, AGREES if same else DIFFERS)
