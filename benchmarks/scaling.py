"""What a generation costs per parameter, and its peak memory, from 10 million to a billion parameters.

    python benchmarks/scaling.py                                    all sizes, about 15 minutes on 2 cores
    python benchmarks/scaling.py --sizes 10M,30M --output FILE      in pieces: FILE keeps what was measured

Llamas with random weights, made on the spot in a temporary folder. The centre is in host memory, in float32;
the engine is transformers. Every size has a process of its own. Linux only, see memory.py.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from memory import reset_peak, resident
from scipy import stats
from torch import nn

from es_lightning.algorithm.noise import GaussianNoise, Noise
from es_lightning.algorithm.population import Population
from es_lightning.algorithm.tensors import checksum, drift
from es_lightning.algorithm.update import apply_update
from es_lightning.cli.console import quiet, without_loading_bars
from es_lightning.evaluation import Rollouts
from es_lightning.models import BaseModel
from es_lightning.rollout import HFEngine
from es_lightning.system.memory import return_freed_tensors, trim_heap

VOCABULARY, HEAD, MEMBERS, SIGMA = 8192, 64, 4, 1e-3
PARTS = ("perturb", "load", "perturb and load", "update", "checksum", "drift")
NEAR = (0.9, 1.1)  # an exponent in here is called linear, however narrow its interval
WIDE = 0.3  # half of an interval that says no more than that times grow
ALLOWANCE = 12 * 2**20  # bytes of a piece of noise while it is made, 8 MiB, and what a heap keeps


@dataclass(frozen=True)
class Shape:
    """A Llama's layers; embedding and head are tied."""

    hidden: int
    intermediate: int
    layers: int

    @property
    def parameters(self) -> int:
        """How many numbers the model has."""
        layer = self.hidden * (4 * self.hidden + 3 * self.intermediate + 2)
        return self.layers * layer + (VOCABULARY + 1) * self.hidden

    @property
    def largest(self) -> int:
        """Numbers of the largest tensor."""
        return self.hidden * max(VOCABULARY, self.intermediate)


SHAPES = {
    "10M": Shape(256, 704, 10),
    "30M": Shape(384, 1024, 15),
    "100M": Shape(640, 1728, 19),
    "300M": Shape(1024, 2752, 23),
    "1B": Shape(1536, 4096, 35),
}


def make(shape: Shape, folder: Path) -> None:
    """Write a model with random weights in bfloat16, and the tokenizer of the tiny one."""
    from safetensors.torch import save_file
    from transformers import LlamaConfig

    BaseModel("tiny").tokenizer.save_pretrained(folder)
    LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=VOCABULARY,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.hidden // HEAD,
        num_key_value_heads=shape.hidden // HEAD,
        head_dim=HEAD,
        tie_word_embeddings=True,
        dtype="bfloat16",
    ).save_pretrained(folder)
    blueprint, random = BaseModel(folder).blueprint, torch.Generator().manual_seed(0)
    tensors = {
        name: torch.ones(parameter.shape, dtype=torch.bfloat16)
        if parameter.dim() == 1
        else torch.empty(parameter.shape, dtype=torch.bfloat16).normal_(0, 0.02, generator=random)
        for name, parameter in blueprint.named_parameters()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


class Subject:
    """A model with its engine and its centre, and the parts of a generation that do not generate.

    Args:
        folder: a Hugging Face model folder.
        noise: kind of noise.
    """

    def __init__(self, folder: Path, noise: Noise) -> None:
        self.base, self.noise = BaseModel(folder), noise
        self.centre: nn.Module = self.base.load()
        self.rollouts = Rollouts(HFEngine(device="cpu"))
        self.rollouts.engine.start(folder, 16)
        self.optimizer = torch.optim.SGD(self.centre.parameters(), lr=1e-6)
        self.members = Population(MEMBERS).members(0)
        self.rollouts.load(
            self.rollouts.unperturbed(self.centre)
        )  # what a first reload keeps is the engine's

    def perturb(self) -> None:
        """Make a member's weights, tensor by tensor, and throw them away."""
        for _ in self._perturbed():
            pass

    def load(self) -> None:
        """Load the centre into the engine."""
        self.rollouts.load(self.rollouts.unperturbed(self.centre))

    def perturb_and_load(self) -> None:
        """Make a member's weights, and load them."""
        self.rollouts.load(self._perturbed())

    def update(self) -> None:
        """Update the centre with all members."""
        weights = torch.linspace(-1, 1, MEMBERS, dtype=torch.float64)
        named = self.centre.named_parameters()
        apply_update(self.optimizer, named, self.members, weights, self.noise, measure_drift=False)

    def checksum(self) -> None:
        """Compute the centre's checksum."""
        checksum(self.centre.named_parameters())

    def drift(self) -> None:
        """Read the base model from its files, and compute the distance from it."""
        drift(self.base.weights, self.centre)

    def _perturbed(self) -> Any:
        return self.rollouts.perturbed(self.centre, self.members[0], self.noise, SIGMA)


def seconds(act: Callable[[], None], rounds: int) -> float:
    """Return the fastest of several wall-clock times, after one round to warm up."""
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        act()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def timed(subject: Subject, rounds: int) -> dict[str, float]:
    """Return the seconds of each part; the update's are those of one member."""
    found = {part: seconds(getattr(subject, part.replace(" ", "_")), rounds) for part in PARTS}
    return found | {"update": found["update"] / MEMBERS}


def peak(subject: Subject) -> int:
    """Return the bytes that two members and an update take beside centre and engine."""
    trim_heap()
    reset_peak()
    loaded = resident("VmRSS")
    for act in (subject.perturb_and_load, subject.perturb_and_load, subject.update, subject.drift):
        act()
        trim_heap()
    return resident("VmHWM") - loaded


def measure(shape: Shape, noise: Noise, rounds: int) -> dict[str, Any]:
    """Make a model, and measure it in this process."""
    return_freed_tensors()
    with tempfile.TemporaryDirectory() as folder:
        make(shape, Path(folder))
        subject = Subject(Path(folder), noise)
        found = {"parameters": shape.parameters, "seconds": timed(subject, rounds)}
        return found | {"peak": peak(subject), "promised": 2 * 4 * shape.largest}


def exponent(parameters: list[int], times: list[float]) -> tuple[float, float]:
    """Fit seconds = a * parameters^k.

    Returns:
        k, and half the width of its 95 % interval.
    """
    fit = stats.linregress([math.log(each) for each in parameters], [math.log(each) for each in times])
    return float(fit.slope), float(fit.stderr * stats.t.ppf(0.975, len(times) - 2))


def verdict(k: float, half: float) -> str:
    """Say what an exponent means; an interval wider than that says nothing."""
    if half > WIDE:
        return "open"
    if k - half <= 1 <= k + half or NEAR[0] <= k <= NEAR[1]:
        return "linear"
    return "less than linear" if k < 1 else "MORE than linear"


def table(measured: dict[str, Any]) -> str:
    """Return Markdown: nanoseconds per parameter, then exponents, if there are three sizes or more."""
    rows = [measured[size] for size in SHAPES if size in measured]
    lines = [
        "| parameters | " + " | ".join(f"{part}, ns" for part in PARTS) + " | peak, MiB | promised, MiB |",
        "|---:|" + "---:|" * (len(PARTS) + 2),
    ]
    for row in rows:
        each = [f"{1e9 * row['seconds'][part] / row['parameters']:.2f}" for part in PARTS]
        mark = "" if row["peak"] <= row["promised"] + ALLOWANCE else " TOO MUCH"
        memory = [f"{row['peak'] / 2**20:.0f}{mark}", f"{row['promised'] / 2**20:.0f}"]
        lines.append(f"| {row['parameters'] / 1e6:.0f} M | {' | '.join(each + memory)} |")
    if len(rows) > 2:
        counts = [row["parameters"] for row in rows]
        fits = [exponent(counts, [row["seconds"][part] for row in rows]) for part in PARTS]
        cells = [f"{k:.2f} ± {half:.2f}, {verdict(k, half)}" for k, half in fits]
        lines.append(f"| exponent | {' | '.join(cells)} | | |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", default=",".join(SHAPES), help=f"of {', '.join(SHAPES)} (all of them)")
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds, of which the fastest counts (3)")
    parser.add_argument("--output", type=Path, help="JSON file that keeps what other calls have measured")
    parser.add_argument("--here", action="store_true", help="measure one size in this process, print JSON")
    options = parser.parse_args()
    sizes = [size for size in options.sizes.split(",") if size]
    if unknown := [size for size in sizes if size not in SHAPES]:
        parser.error(f"--sizes has {unknown[0]}: give some of {', '.join(SHAPES)}")
    if options.here:
        quiet()
        without_loading_bars()
        found = measure(SHAPES[sizes[0]], GaussianNoise(compile=True), options.rounds)
        sys.stdout.write(json.dumps(found) + "\n")
        return
    kept = options.output.read_text("utf-8") if options.output and options.output.exists() else "{}"
    measured = json.loads(kept)
    for size in sizes:
        command = [sys.executable, __file__, "--here", "--sizes", size, "--rounds", str(options.rounds)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        measured[size] = json.loads(done.stdout.splitlines()[-1])
        if options.output:
            options.output.write_text(json.dumps(measured, indent=1) + "\n", "utf-8")
    sys.stdout.write(table(measured))


if __name__ == "__main__":
    main()
