"""Tokens per second of a population: the base alone, members as adapters, and whole weights in turn.

Run: python benchmarks/adapters.py [--sizes 8x16,16x32] [--tokens 64] [--base embedded] [--rank 1] [--plain]
[--rounds 3] [--no-swaps].
A size is members x prompts. Every completion has the same length, so that all ways do the same work:

- ``base``: as many requests in one batch, with the base model's weights alone, as ``VLLMEngine`` runs them;
- ``beside``: the same in the engine of adapters, without an adapter: on CPUs it compiles nothing;
- ``adapters``: each member is an adapter; ``generate`` alone, and with the time that handing them over takes;
- ``swap``: each member's whole weights are loaded in turn; ``generate`` alone, and with loading.

``share`` is adapters over base, with and without what is not generating; ``speedup`` is adapters over swap.
Figures are medians of the rounds. ``--plain`` takes vLLM's own kernel on CPUs. Nothing else may run
meanwhile.
"""

import argparse
import json
import logging
import time
from collections.abc import Callable
from statistics import median
from typing import Any

from torch import nn

from es_lightning.algorithm.noise import LowRankNoise, Noise
from es_lightning.algorithm.population import Population
from es_lightning.evaluation import Rollouts
from es_lightning.evaluation.members import adapters
from es_lightning.models import BaseModel
from es_lightning.records import Prompt
from es_lightning.rollout import Sampling, VLLMAdapterEngine, VLLMEngine
from es_lightning.system.hardware import instructions

log = logging.getLogger("benchmarks.adapters")
SIGMA = 0.002
Times = dict[str, tuple[float, float]]


def seconds(work: Callable[[], Any]) -> float:
    """Return how long a call takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def forced(engine: VLLMEngine, prompts: list[Prompt], tokens: int, **more: Any) -> Callable[[], Any]:
    """Generate the same number of tokens for every prompt, whatever a model says."""
    from vllm import SamplingParams

    ids = [prompt.token_ids for prompt in prompts]
    params = SamplingParams(max_tokens=tokens, min_tokens=tokens, ignore_eos=True, temperature=0)
    return lambda: engine._run(ids, [params] * len(ids), **more)


def measured(
    rollouts: Rollouts,
    centre: nn.Module,
    noise: Noise,
    prompts: list[Prompt],
    members: int,
    tokens: int,
    swaps: bool = True,
) -> Times:
    """Return the seconds of generating and of all, once for each way that the engine has."""
    engine, population = rollouts.engine, Population(members).members(0)
    assert isinstance(engine, VLLMEngine)
    rollouts.forget()
    rollouts.hold_centre(centre)
    whole = seconds(forced(engine, prompts * members, tokens))
    if isinstance(engine, VLLMAdapterEngine):
        found: Times = {"beside": (whole, whole)}
        before = seconds(lambda: engine.load_adapters(adapters(centre, population, noise, SIGMA)))
        requests = [request for request in engine._held for _ in prompts]
        generating = seconds(forced(engine, prompts * members, tokens, lora_request=requests))
        return found | {"adapters": (generating, generating + before)}
    if not swaps:
        return {"base": (whole, whole)}
    generating = loading = 0.0
    for member in population:
        loading += seconds(lambda m=member: rollouts.load(rollouts.perturbed(centre, m, noise, SIGMA)))
        generating += seconds(forced(engine, prompts, tokens))
    return {"base": (whole, whole), "swap": (generating, generating + loading)}


def started(
    engine: VLLMEngine, base: BaseModel, centre: nn.Module, noise: Any, most: int, tokens: int
) -> Any:
    """Return an engine with room for all, the noise that it can hold, and the prompts."""
    texts = [f"What is {number} + {number * 7 % 50}? Answer with one number." for number in range(64)]
    rollouts = Rollouts(engine, Sampling(max_tokens=tokens))
    limited = rollouts.limited(noise, base, centre, most)
    prompts = rollouts.reserve(base, [Prompt(text, text) for text in texts])
    rollouts.start(base)
    return rollouts, limited, prompts


def main() -> None:
    """Print a line per size and way, and one of JSON at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sizes", default="8x16,16x32")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--base", default="embedded")
    parser.add_argument("--rank", type=int, default=1)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--kv-cache-gib", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-swaps", action="store_true", help="leave out whole weights in turn")
    parser.add_argument("--plain", action="store_true", help="vLLM's own kernel for adapters on CPUs")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sizes = [tuple(map(int, size.split("x"))) for size in given.sizes.split(",")]
    if given.plain:
        from es_lightning.rollout import vllm_adapter

        vllm_adapter.use_thin_products = lambda *given: None
    base = BaseModel(given.base)
    centre = base.load()
    options = {"dtype": given.dtype, "enforce_eager": True, "kv_cache_gib": given.kv_cache_gib}
    noise, most = LowRankNoise(given.rank, "frozen"), max(members for members, _ in sizes)
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for kind in (VLLMEngine, VLLMAdapterEngine):
        engine = kind(**options)
        rollouts, limited, prompts = started(engine, base, centre, noise, most, given.tokens)
        measured(rollouts, centre, limited, prompts[:2], 2, 4)  # what the first call alone takes
        for _ in range(given.rounds):
            for members, count in sizes:
                chosen = (prompts[:count], members, given.tokens, not given.no_swaps)
                times = measured(rollouts, centre, limited, *chosen)
                for way, pair in times.items():
                    found.setdefault((f"{members}x{count}", way), []).append(pair)
        engine.close()
    results: dict[str, dict[str, float]] = {}
    for (size, way), pairs in found.items():
        members, count = map(int, size.split("x"))
        tokens = members * count * given.tokens
        row = results.setdefault(size, {})
        row[way], row[f"{way}_with_loading"] = (tokens / median(each) for each in zip(*pairs, strict=True))
    for row in results.values():
        row["share"] = row["adapters"] / row["base"]
        row["share_with_loading"] = row["adapters_with_loading"] / row["base"]
        if not given.no_swaps:
            row["speedup"] = row["adapters_with_loading"] / row["swap_with_loading"]
    for size, row in results.items():
        log.info("%s: %s", size, ", ".join(f"{name} {value:.4g}" for name, value in row.items()))
    machine = {"instructions": instructions(), "dtype": given.dtype, "base": given.base, "rank": given.rank}
    log.info("%s", json.dumps({"machine": machine, "plain": given.plain, "results": results}))


if __name__ == "__main__":
    main()
