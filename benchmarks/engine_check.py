"""What the check of the engine costs before a run's first generation.

    python benchmarks/engine_check.py

Seconds are wall-clock. The first check of a process compiles the noise, as the first members would otherwise.
"""

import argparse
import logging
import time
from pathlib import Path

from es_lightning.algorithm.noise import GaussianNoise
from es_lightning.cli.console import quiet
from es_lightning.evaluation import Rollouts
from es_lightning.evaluation.engine_check import EngineCheck
from es_lightning.models import BaseModel
from es_lightning.records import Prompt
from es_lightning.rollout import HFEngine, RolloutEngine, VLLMEngine

log = logging.getLogger("engine_check")

ENGINES = {"vllm": lambda: VLLMEngine(enforce_eager=True, kv_cache_gib=1), "hf": HFEngine}
PROMPTS = [Prompt(f"sum/{k}", f"What is {k} + 3? Answer in one word, please.") for k in range(8)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=Path(__file__).stem)
    parser.add_argument("--base", default="embedded", help="a model, as in --model.base")
    parser.add_argument("--engine", choices=ENGINES, default="vllm")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    quiet()
    base, noise = BaseModel(arguments.base), GaussianNoise()
    centre = base.load()
    engine: RolloutEngine = ENGINES[arguments.engine]()
    rollouts = Rollouts(engine)
    rollouts.reserve(base, PROMPTS)
    rollouts.start(base)
    for _ in range(arguments.rounds):
        began = time.perf_counter()
        found = EngineCheck(rollouts, noise).run(centre)
        seconds = time.perf_counter() - began
        log.info(
            "%.2f s; %d tokens, difference %g of %g nats",
            seconds,
            found["tokens"],
            found["difference"],
            found["bound"],
        )


if __name__ == "__main__":
    main()
