"""What completions of different lengths cost, and whether their order matters.

Run: python benchmarks/stragglers.py [--members 3] [--tokens 64] [--slots 256].
A few members generate, and so do one and 64 sequences of the same length, which gives the time of a step with
b sequences as a + c b. From these times and lengths, batches are then computed, without reading the prompts:
sequences start as places become free, in the order given, or longest first, for which one would have to know
the lengths before. "no stragglers" is the time of as many tokens with all places taken.
"""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from os import _exit

from _generation import Bench, Order
from _jobs import SEED, SIGMA, straggling

from es_lightning.algorithm.population import Population
from es_lightning.distributed.ranks import Ranks
from es_lightning.rollout import Sampling

log = logging.getLogger("benchmarks.stragglers")
SHAPES = {  # members of one batch, and prompts of each
    "16 prompts": (1, 16),
    "64 prompts": (1, 64),
    "16 adapters x 16": (16, 16),
    "16 adapters x 64": (16, 64),
}


def seconds(lengths: Sequence[int], slots: int, least: float, each: float) -> float:
    """Return the time of a batch whose sequences start in this order, as soon as there is a place."""
    waiting, running, spent = list(lengths)[::-1], list[int](), 0.0
    while waiting or running:
        while waiting and len(running) < slots:
            running.append(waiting.pop())
        spent += least + each * len(running)
        running = [left - 1 for left in running if left > 1]
    return spent


def main() -> None:
    """Measure lengths and steps, then compute."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", default="embedded")
    parser.add_argument("--members", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--slots", type=int, default=256, help="sequences that the engine computes at once")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    order = Order(given.base, "auto", ["gaussian"], {}, [64], given.tokens, 2, "", {"kv_cache_gib": 1.0})
    bench = Bench(order, Ranks())
    steps = {count: count / bench.raw(count) for count in (1, 64)}
    each = (steps[64] - steps[1]) / 63
    least = steps[1] - each
    bench.engine.forced, lengths = False, list[list[int]]()
    for member in Population(given.members, SEED).members(1):
        noisy = bench.rollouts.perturbed(bench.centre, member, bench.noises["gaussian"], SIGMA)
        bench.rollouts.load(noisy)
        done = bench.engine.generate(bench.prompts, Sampling(max_tokens=given.tokens))
        lengths.append([len(completion.token_ids) for completion in done])
    found: dict[str, dict[str, float]] = {
        "milliseconds_of_a_step": {"least": 1e3 * least, "each": 1e3 * each}
    }
    for name, (members, prompts) in SHAPES.items():
        batch = [length for m in range(members) for length in lengths[m % len(lengths)][:prompts]]
        width = min(given.slots, len(batch))
        found[name] = {
            "straggling": straggling([batch]),
            "given_s": seconds(batch, given.slots, least, each),
            "longest_first_s": seconds(sorted(batch, reverse=True), given.slots, least, each),
            "no_stragglers_s": sum(batch) * (least / width + each),
        }
    log.info("%s", json.dumps(found, indent=1))
    sys.stdout.flush()
    _exit(0)  # as benchmarks/_generation.py


if __name__ == "__main__":
    main()
