"""Tokens per second of vLLM on CPUs with and without a busy process beside it, for several ways of waiting.

Run: python benchmarks/busy_neighbour.py [--prompts 16,64] [--tokens 40] [--settings default,ours,PASSIVE].
``ours`` is what a run does: it lets threads sleep from the first second on in which other processes use its
cores. A number is GOMP_SPINCOUNT, a word is OMP_WAIT_POLICY, ``default`` is neither. Each setting is a
process of its own, since OpenMP reads these variables once. Every figure is the median of several rounds.
Ratios are to the default in quiet: for ``ours`` in the same process, in turns with it, since processes on one
machine differ by a tenth or two. Nothing else may run meanwhile.
"""

import argparse
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import median

from es_lightning.models import BaseModel
from es_lightning.records import Prompt
from es_lightning.rollout import Sampling, VLLMEngine
from es_lightning.rollout.engine import DTypeName
from es_lightning.system.neighbours import OPENMP_VARIABLES, NeighbourWatch

log = logging.getLogger("benchmarks.busy_neighbour")
NEIGHBOUR = "while True: pass"
NOTICED_SECONDS = 3.0  # the watch looks once a second
Rates = dict[str, tuple[float, float, float]]
ROUNDS = 3


def environment(setting: str) -> dict[str, str]:
    """Return the variables of a process with a setting."""
    kept = {name: value for name, value in os.environ.items() if name not in OPENMP_VARIABLES}
    if setting in ("default", "ours"):
        return kept
    return {**kept, "GOMP_SPINCOUNT" if setting.isdigit() else "OMP_WAIT_POLICY": setting}


@contextmanager
def watching(watches: bool) -> Iterator[None]:
    """Watch for neighbours in this block, as a run does."""
    watch = NeighbourWatch(os.sched_getaffinity(0) if watches else ())
    watch.start()
    yield
    watch.stop()


def measure(prompts: Sequence[int], tokens: int, dtype: DTypeName, watches: bool) -> Rates:
    """Start an engine in this process; tokens per second by prompts, with one busy process and without.

    Returns:
        For each number of prompts the rate in quiet without the watch, then as a run has it, in quiet and
        beside the busy process.
    """
    engine = VLLMEngine(dtype=dtype, enforce_eager=True, kv_cache_gib=1)
    base = BaseModel("embedded")
    engine.start(base.folder, 256)
    ids = tuple(base.tokenizer("Tell me at length about the number of days in a year.")["input_ids"])
    sampling = Sampling(max_tokens=tokens)

    def rate(count: int) -> float:
        batch = [Prompt(str(i), "", token_ids=(*ids, i + 300)) for i in range(count)]
        start = time.perf_counter()
        done = engine.generate(batch, sampling)
        return sum(len(each.token_ids) for each in done) / (time.perf_counter() - start)

    rates: Rates = {}
    rate(min(prompts))
    for count in prompts:
        plain, quiet, busy = [], [], []
        for _ in range(ROUNDS):
            plain.append(rate(count))
            with watching(watches):
                quiet.append(rate(count) if watches else plain[-1])
                with subprocess.Popen([sys.executable, "-c", NEIGHBOUR]) as neighbour:
                    time.sleep(NOTICED_SECONDS)
                    busy.append(rate(count))
                    neighbour.kill()
        rates[str(count)] = (median(plain), median(quiet), median(busy))
    engine.close()
    return rates


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", default="16,64", help="prompts at once, separated by commas")
    parser.add_argument("--tokens", type=int, default=40, help="new tokens of a prompt")
    parser.add_argument("--dtype", default="auto", help="the engine's dtype")
    parser.add_argument("--settings", default="default,ours,PASSIVE", help="separated by commas")
    parser.add_argument("--one", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    prompts = [int(count) for count in options.prompts.split(",")]
    if options.one:
        sys.stdout.write(
            json.dumps(measure(prompts, options.tokens, options.dtype, options.one == "ours")) + "\n"
        )
        return
    titles = ("setting", "prompts", "quiet tokens/s", "ratio", "busy tokens/s", "ratio")
    log.info("%10s %8s %14s %8s %14s %8s", *titles)
    base: dict[str, float] = {}
    for setting in options.settings.split(","):
        command = [sys.executable, *sys.argv, "--one", setting]
        done = subprocess.run(
            command, env=environment(setting), check=True, stdout=subprocess.PIPE, text=True
        )
        rates: Rates = json.loads(done.stdout.splitlines()[-1])
        for count, (plain, quiet, busy) in rates.items():
            base.setdefault(count, plain)
            reference = plain if setting == "ours" else base[count]
            numbers = (quiet, quiet / reference, busy, busy / reference)
            log.info("%10s %8s %14.0f %8.2f %14.0f %8.2f", setting, count, *numbers)


if __name__ == "__main__":
    main()
