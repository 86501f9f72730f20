"""What a measurement of UpdateGeometry costs, on the embedded model.

    python benchmarks/geometry.py

The centre is the base model with Gaussian noise of 0.001 on every weight. Seconds are wall-clock, on as many
threads as torch takes; memory is the rise of this process's anonymous memory while it measures.
"""

import argparse
import logging
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from es_lightning.algorithm.noise import GaussianNoise
from es_lightning.analysis.geometry import changes, total
from es_lightning.cli.console import quiet
from es_lightning.models import BaseModel
from es_lightning.models.snapshot import Snapshot
from es_lightning.system.memory import trim_heap

log = logging.getLogger("geometry")

SIGMA, THRESHOLDS = 0.001, (1e-6, 1e-4)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=Path(__file__).stem)
    parser.add_argument("--base", default="embedded", help="a model, as in --model.base")
    arguments = parser.parse_args()
    quiet()
    model = BaseModel(arguments.base)
    base, centre, noise = model.weights, model.load(), GaussianNoise(compile=False)
    with torch.no_grad():
        for name, parameter in centre.named_parameters():
            noise.accumulate_(1, name, parameter, SIGMA)
    size = sum(parameter.numel() for parameter in centre.parameters())
    log.info("%d parameters, %d threads", size, torch.get_num_threads())
    trim_heap()

    def measure(*more: Any) -> Any:
        return changes(centre.named_parameters(), base, THRESHOLDS, *more)

    for _ in range(2):
        found = timed("a measurement", measure)
    norm = total(found.values()).norm
    log.info("norm %.4f, expected sigma * sqrt(d) = %.4f", norm, SIGMA * size**0.5)
    timed("with a direction (here the base itself)", lambda: measure(None, base))
    with tempfile.TemporaryDirectory() as scratch:
        snapshot = Snapshot(Path(scratch) / "centre")
        timed("writing the copy that steps needs", lambda: snapshot.write(centre.named_parameters()))
        timed("a measurement with steps", lambda: measure(snapshot))


def timed(what: str, function: Callable[[], Any]) -> Any:
    """Run, and print seconds and memory."""
    before, peak, done = anonymous(), [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            peak[0] = max(peak[0], anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = time.perf_counter()
    result = function()
    seconds = time.perf_counter() - started
    done.set()
    watcher.join()
    log.info("%s: %.2f s, memory +%.0f MiB", what, seconds, max(0.0, peak[0] - before))
    return result


def anonymous() -> float:
    """Anonymous resident memory in MiB, without mapped files."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


if __name__ == "__main__":
    main()
