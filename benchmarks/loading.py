"""Seconds of a load of weights into vLLM, by its reload and in place, and what matrices as loaded cost.

    python benchmarks/loading.py [--base embedded] [--dtype auto] [--prompts 16,64,128] [--tokens 16]

On CPUs vLLM packs its matrices, and can only be reloaded; the same model is measured once more with matrices
as they were loaded, which is how GPUs have them, and CPUs where vLLM finds no oneDNN. ``stream`` makes the
tensors alone, which every load includes. ``tokens/s`` counts forced completions, prompts read included.
Figures are medians. Nothing else may run meanwhile.
"""

import argparse
import logging
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

from torch import Tensor, nn

from es_lightning.cli.console import quiet
from es_lightning.models import BaseModel
from es_lightning.records import Prompt
from es_lightning.rollout import VLLMEngine, encode
from es_lightning.system.hardware import instructions
from es_lightning.system.memory import return_freed_tensors, trim_heap

log = logging.getLogger("benchmarks.loading")
ROUNDS = 5


def seconds(work: Callable[[], Any], rounds: int = ROUNDS) -> float:
    """Return the median of how long a call takes, after one that does not count."""
    work()
    found = []
    for _ in range(rounds):
        begun = time.perf_counter()
        work()
        found.append(time.perf_counter() - begun)
    return median(found)


def loads(engine: VLLMEngine, centre: nn.Module) -> None:
    """Log the seconds of each way that the engine has."""

    def stream() -> Iterator[tuple[str, Tensor]]:
        for name, parameter in centre.named_parameters():
            yield name, parameter.detach().to(engine.dtype, copy=True)

    def load() -> None:
        engine.load_weights(stream())
        trim_heap()

    log.info("  stream    %6.3f s", seconds(lambda: [None for _ in stream()]))
    for in_place in (False, True) if engine.may_write_in_place else (False,):
        engine.in_place = in_place
        log.info("  %-9s %6.3f s", "in place" if in_place else "reload", seconds(load))


def speeds(engine: VLLMEngine, prompts: list[Prompt], counts: list[int], tokens: int) -> None:
    """Log tokens per second for some numbers of prompts."""
    from vllm import SamplingParams

    params = SamplingParams(max_tokens=tokens, min_tokens=tokens, ignore_eos=True, temperature=0)
    for count in counts:
        ids = [prompt.token_ids for prompt in prompts[:count]]

        def generate(ids: list[Any] = ids) -> None:
            engine.llm.reset_prefix_cache()
            engine._run(ids, params)

        log.info("  %4d prompts %6.0f tokens/s", count, count * tokens / seconds(generate, 3))


def main() -> None:
    """Measure vLLM as it is, and on a CPU with matrices as loaded, too."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--base", default="embedded")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--prompts", default="16,64,128")
    parser.add_argument("--tokens", type=int, default=16)
    given = parser.parse_args()
    quiet()
    return_freed_tensors()
    base, counts = BaseModel(given.base), [int(count) for count in given.prompts.split(",")]
    centre = base.load()
    texts = [
        f"What is {number} + {number * 7 % 50}? Answer with one number." for number in range(max(counts))
    ]
    prompts = encode([Prompt(text, text) for text in texts], base.tokenizer)
    for is_as_loaded in (False, True):
        if is_as_loaded:
            import vllm._custom_ops

            vllm._custom_ops._supports_onednn = False
        engine = VLLMEngine(dtype=given.dtype, enforce_eager=True, kv_cache_gib=0.5)
        engine.start(base.folder, 256)
        is_done = not is_as_loaded and engine.may_write_in_place  # nothing is packed on this device
        layout = "as loaded" if engine.may_write_in_place else "packed"
        log.info("%s, %s, matrices %s", ", ".join(instructions()) or "no vectors", engine.dtype, layout)
        loads(engine, centre)
        speeds(engine, prompts, counts, given.tokens)
        engine.close()
        if is_done:
            break


if __name__ == "__main__":
    main()
