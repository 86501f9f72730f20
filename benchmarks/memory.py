"""Peak memory of a generation over the loaded engine: one float32 centre plus two of its largest tensors.

To these come at most 32 MiB, whatever the model's size: two pieces of noise of 8 MiB, and what the heap and
the engine keep of the first generations.

    python benchmarks/memory.py                    SmolLM2-135M, vLLM
    python benchmarks/memory.py --engine hf

Linux only: resident memory is read from /proc/self/status, its peak reset through /proc/self/clear_refs.
"""

import argparse
import logging
from pathlib import Path

import torch

from es_lightning.algorithm.noise import GaussianNoise
from es_lightning.algorithm.population import Population
from es_lightning.algorithm.update import apply_update
from es_lightning.cli.console import quiet
from es_lightning.models import BaseModel
from es_lightning.models.base_model import resolve
from es_lightning.models.weights import BaseWeights
from es_lightning.records import Prompt
from es_lightning.rollout import HFEngine, RolloutEngine, Sampling, VLLMEngine, encode
from es_lightning.system.memory import return_freed_tensors, trim_heap

MIB = 2**20
PIECES = 32 * MIB
log = logging.getLogger("memory")


def resident(kind: str) -> int:
    """Bytes of resident memory: ``VmRSS`` now, ``VmHWM`` at its peak."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{kind}:"))


def reset_peak() -> None:
    """Let the peak start again from now."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


@torch.no_grad()
def generation(
    engine: RolloutEngine, folder: Path, prompts: list[Prompt], sampling: Sampling
) -> tuple[int, int]:
    """Load the centre and run two generations of two members.

    Returns:
        Bytes of the centre, and of its largest tensor.
    """
    centre, noise = BaseModel(folder).load(), GaussianNoise()
    report("centre loaded")
    optimizer = torch.optim.SGD(centre.parameters(), lr=1e-6)
    for index in range(2):
        members = Population(2).members(index)
        for member in members:
            engine.load_weights(
                (name, noise.perturbed(member.seed, name, tensor, 1e-3, engine.dtype))
                for name, tensor in centre.named_parameters()
            )
            trim_heap()
            engine.generate(prompts, sampling)
        report(f"generation {index}: members evaluated")
        weights = torch.tensor([1.0, -1.0], dtype=torch.float64)
        apply_update(optimizer, centre.named_parameters(), members, weights, noise, BaseWeights(folder))
        trim_heap()
        report(f"generation {index}: updated")
    sizes = [4 * parameter.numel() for parameter in centre.parameters()]
    return sum(sizes), max(sizes)


def report(moment: str) -> None:
    """Log resident memory and its peak so far."""
    log.info("%-34s %7.0f MiB, peak %7.0f MiB", moment, resident("VmRSS") / MIB, resident("VmHWM") / MIB)


def main() -> None:
    """Measure and compare with the bound."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", default="embedded")
    parser.add_argument("--engine", choices=("vllm", "hf"), default="vllm")
    arguments = parser.parse_args()
    quiet()
    return_freed_tensors()
    folder, sampling = resolve(arguments.base), Sampling(max_tokens=16)
    prompts = encode([Prompt(str(i), f"What is {i} + {i}?") for i in range(16)], BaseModel(folder).tokenizer)
    engine: RolloutEngine = (
        HFEngine() if arguments.engine == "hf" else VLLMEngine(enforce_eager=True, kv_cache_gib=1)
    )
    engine.start(folder, 128)
    engine.generate(prompts, sampling)
    warm = GaussianNoise(compile=True)  # compiling the noise costs memory once, whatever the model
    warm.perturbed(0, "warm", torch.zeros(4096), 1.0, engine.dtype)
    warm.accumulate_(0, "warm", torch.zeros(4096), 1.0)
    weights = BaseWeights(folder)  # what the engine keeps of a first reload is its own
    names = [name for name, _ in BaseModel(folder).load().named_parameters()]
    engine.load_weights((name, weights.read(name).to(engine.dtype)) for name in names)
    trim_heap()
    reset_peak()
    loaded = resident("VmRSS")
    report("engine loaded")
    centre, largest = generation(engine, folder, prompts, sampling)
    extra, bound = resident("VmHWM") - loaded, centre + 2 * largest + PIECES
    log.info("centre %.0f MiB, largest tensor %.0f MiB", centre / MIB, largest / MIB)
    log.info("peak over the loaded engine: %.0f MiB; bound: %.0f MiB", extra / MIB, bound / MIB)
    raise SystemExit(extra > bound)


if __name__ == "__main__":
    main()
