"""Elements per second of perturbing a whole model: this project's noise against torch.randn.

Run: python benchmarks/noise.py [--threads 2] [--rounds 7]. The tensors have the shapes of a 135M llama
(SmolLM2-135M). Contenders take turns, and the best round of each counts, so that a busy machine disturbs all
alike; the baseline reuses one buffer for its normals, so that it does not pay for fresh memory.
"""

import argparse
import logging
import time
from collections.abc import Callable

import torch
from torch import Tensor

from es_lightning.algorithm.noise import GaussianNoise, Noise, member_seed

log = logging.getLogger("benchmarks.noise")

HIDDEN, KEY_VALUE, INTERMEDIATE, VOCABULARY, LAYERS = 576, 192, 1536, 49152, 30
SIGMA, DTYPE = 0.001, torch.bfloat16


def model_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the 272 tensors, the embedding tied."""
    layer: dict[str, tuple[int, ...]] = {
        "self_attn.q_proj": (HIDDEN, HIDDEN),
        "self_attn.k_proj": (KEY_VALUE, HIDDEN),
        "self_attn.v_proj": (KEY_VALUE, HIDDEN),
        "self_attn.o_proj": (HIDDEN, HIDDEN),
        "mlp.gate_proj": (INTERMEDIATE, HIDDEN),
        "mlp.up_proj": (INTERMEDIATE, HIDDEN),
        "mlp.down_proj": (HIDDEN, INTERMEDIATE),
        "input_layernorm": (HIDDEN,),
        "post_attention_layernorm": (HIDDEN,),
    }
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN)}
    for index in range(LAYERS):
        shapes |= {f"model.layers.{index}.{name}.weight": shape for name, shape in layer.items()}
    return shapes | {"model.norm.weight": (HIDDEN,)}


def randn_baseline(centre: dict[str, Tensor]) -> Callable[[], None]:
    """``(theta + sigma * torch.randn) .to(bfloat16)`` tensor by tensor."""
    generator = torch.Generator().manual_seed(1)
    buffer = torch.empty(max(tensor.numel() for tensor in centre.values()))

    def run() -> None:
        for tensor in centre.values():
            eps = buffer[: tensor.numel()].view(tensor.shape)
            torch.randn(tensor.shape, generator=generator, out=eps)
            (tensor + SIGMA * eps).to(DTYPE)

    return run


def perturb(noise: Noise, centre: dict[str, Tensor]) -> Callable[[], None]:
    """``Noise.perturbed`` tensor by tensor."""
    seed = member_seed(0, 0, 0)

    def run() -> None:
        for name, tensor in centre.items():
            noise.perturbed(seed, name, tensor, SIGMA, DTYPE)

    return run


def accumulate(noise: Noise, centre: dict[str, Tensor]) -> Callable[[], None]:
    """One member's term of the update, ``Noise.accumulate_`` tensor by tensor."""
    seed = member_seed(0, 0, 0)
    totals = {name: torch.zeros_like(tensor) for name, tensor in centre.items()}

    def run() -> None:
        for name, total in totals.items():
            noise.accumulate_(seed, name, total, 0.5)

    return run


def best_seconds(contenders: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Fastest of ``rounds`` wall-clock times per contender, after one round to warm up."""
    best = dict.fromkeys(contenders, float("inf"))
    for index in range(rounds + 1):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            if index > 0:
                best[name] = min(best[name], time.perf_counter() - start)
    return best


def main() -> None:
    """Parse the arguments, run, log a table."""
    parser = argparse.ArgumentParser(description="Elements per second: Noise against torch.randn.")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds per contender")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(arguments.threads)

    centre = {name: torch.randn(shape) for name, shape in model_shapes().items()}
    elements = sum(tensor.numel() for tensor in centre.values())
    compiled, eager = GaussianNoise(compile=True), GaussianNoise(compile=False)
    start = time.perf_counter()
    compiled.perturbed(0, "warm-up", torch.zeros(1), SIGMA, DTYPE)
    compiled.sample(0, "warm-up", (1,))
    log.info("compiled both kernels in %.1f s (less with a warm inductor cache)", time.perf_counter() - start)

    seconds = best_seconds(
        {
            "torch.randn, add, cast": randn_baseline(centre),
            "perturbed": perturb(compiled, centre),
            "perturbed, eager": perturb(eager, centre),
            "accumulate_": accumulate(compiled, centre),
        },
        arguments.rounds,
    )
    baseline = seconds["torch.randn, add, cast"]
    log.info("%.1f M elements, %d tensors, %d threads", elements / 1e6, len(centre), arguments.threads)
    log.info("%-24s %8s %12s %8s", "", "seconds", "M elements/s", "ratio")
    for name, value in seconds.items():
        log.info("%-24s %8.3f %12.0f %8.2f", name, value, elements / value / 1e6, baseline / value)


if __name__ == "__main__":
    main()
