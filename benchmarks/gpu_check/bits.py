"""Noise and updates of a device against those of one CPU thread in eager code: the same bits."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.gpu_check.measure import digest, one_thread, use_all_cores
from benchmarks.gpu_check.rows import AGREES, ALLOWED, DIFFERS, Row, Settings, attempted, compared
from es_lightning.algorithm.noise import (
    CorrelatedNoise,
    FilteredNoise,
    GaussianNoise,
    LowRankNoise,
    Noise,
    RademacherNoise,
    member_seed,
)
from es_lightning.algorithm.noise.threefry import EAGER_PIECE
from es_lightning.algorithm.population import Population
from es_lightning.algorithm.regularisers import ClipNorm, Regulariser
from es_lightning.algorithm.shares import Make, Shards
from es_lightning.algorithm.tensors import checksum
from es_lightning.algorithm.update import StepSize, apply_update, gradient
from es_lightning.models import BaseModel

NAME = "model.layers.0.mlp.up_proj.weight"
KINDS: dict[str, Callable[[bool], Noise]] = {
    "Gaussian": GaussianNoise,
    "Rademacher": RademacherNoise,
    "correlated": CorrelatedNoise,
    "rank 1": lambda compile: LowRankNoise(1, compile=compile),
    "rank 3, vectors frozen": lambda compile: LowRankNoise(3, "frozen", compile),
    "filtered": lambda compile: FilteredNoise(RademacherNoise(compile), include=["*layers*"]),
}
SHAPES = [(), (5,), (70, 100), (3, 40, 50), (1537, 2049)]
LARGE = (EAGER_PIECE // 4096 + 1, 4096)  # more than one piece of eager code on an accelerator
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "SGD": partial(torch.optim.SGD, lr=1e-3),
    "SGD with momentum": partial(torch.optim.SGD, lr=1e-3, momentum=0.9),
    "AdamW": partial(torch.optim.AdamW, lr=1e-4, weight_decay=0.1),
}
UPDATES, MEMBERS = 2, 4


def noise_rows(settings: Settings) -> Iterator[Row]:
    """Compare all kinds of noise, eager and compiled."""
    use_all_cores()
    for kind, make in KINDS.items():
        shapes = [*SHAPES, LARGE] if kind == "Gaussian" and settings.device != "cpu" else SHAPES
        with one_thread():
            expected = _draws(make(False), shapes, settings.seed, "cpu")
        for compile in (False, True):
            what = f"{kind}, {'compiled' if compile else 'eager'}"
            yield from attempted(
                what, partial(_compared, settings, what, expected, partial(make, compile), shapes)
            )


def _compared(
    settings: Settings,
    what: str,
    expected: dict[str, str],
    make: Callable[[], Noise],
    shapes: Sequence[tuple[int, ...]],
) -> Iterator[Row]:
    found = _draws(make(), shapes, settings.seed, settings.device)
    yield compared(what, _different(expected, found), len(expected))


def _draws(noise: Noise, shapes: Sequence[tuple[int, ...]], seed: int, device: str) -> dict[str, str]:
    """Return digests of what a member's tensors are, and of what they add to an update."""
    key, found = member_seed(seed, 0, 0), {}
    for shape in shapes:
        size = math.prod(shape)
        theta = (torch.arange(size, dtype=torch.float32) % 1009 / 8072 - 0.0625).view(shape).to(device)
        name = "x".join(map(str, shape)) or "scalar"
        found[f"eps of {name}"] = digest(noise.sample(key, NAME, shape, device))
        for dtype in DTYPES:
            found[f"member of {name} in {dtype}"] = digest(noise.perturbed(key, NAME, theta, 0.01, dtype))
        noise.accumulate_(key, NAME, theta, -0.37)
        found[f"sum of {name}"] = digest(theta)
    if noise.rank:
        drawn = noise.all_factors(key, {NAME: (70, 100), f"{NAME} too": (300, 40)}, device)
        found |= {f"{part} of {name}": digest(drawn[name][part]) for name in drawn for part in (0, 1)}
    return found


def _different(expected: dict[str, str], found: dict[str, str]) -> list[str]:
    return [name for name, each in expected.items() if found.get(name) != each]


def update_rows(settings: Settings) -> Iterator[Row]:
    """Compare checksum, gradients, norms and whole updates of a model."""
    use_all_cores()
    base = BaseModel(settings.base)
    host: nn.Module = base.load()
    there = deepcopy(host).to(settings.device)
    expected, found = checksum(host.named_parameters()), checksum(there.named_parameters())
    yield Row("checksum of the base model", f"{expected}, {found}", AGREES if found == expected else DIFFERS)
    members = Population(MEMBERS, settings.seed, antithetic=True).members(0)
    weights = torch.linspace(-1.3, 0.9, MEMBERS, dtype=torch.float64)
    for kind in ("Gaussian", "rank 1"):

        def compare(kind: str = kind) -> Iterator[Row]:
            sums = []
            for model in (host, there):
                noise = KINDS[kind](model is there and settings.device != "cpu")
                sums.append(
                    {
                        name: digest(gradient(name, each, members, weights, noise))
                        for name, each in model.named_parameters()
                    }
                )
            yield compared(f"gradients, {kind}", _different(*sums), len(sums[0]))

        yield from attempted(f"gradients, {kind}", compare)
    for name, make in OPTIMIZERS.items():
        for parts in ((), (ClipNorm(0.5),)) if name == "SGD" else ((),):
            title = f"{name}{', clipped' if parts else ''}"
            yield from attempted(title, partial(_updated, settings, base, host, title, make, parts))


def _updated(
    settings: Settings,
    base: BaseModel,
    host: nn.Module,
    name: str,
    make: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
    parts: Sequence[Regulariser],
) -> Iterator[Row]:
    """Make updates on the CPU and on the device, there in the order in which ranks share them as well."""

    def run(device: str, shards: Shards) -> tuple[str, StepSize]:
        model, noise = deepcopy(host).to(device), GaussianNoise(False)
        optimizer = make(list(model.parameters()))
        weights = torch.linspace(-1.3, 0.9, MEMBERS, dtype=torch.float64)
        for index in range(UPDATES):
            step = apply_update(
                optimizer,
                model.named_parameters(),
                Population(MEMBERS, settings.seed).members(index),
                weights,
                noise,
                base.weights,
                parts,
                shards=shards,
            )
        return checksum(model.named_parameters()), step

    with one_thread():
        centre, step = run("cpu", Shards())
    other, norms = run(settings.device, Shards())
    # Torch may fuse the product and the sum of an optimizer's step on one device and not on another.
    yield Row(f"{UPDATES} updates, {name}", f"{centre}, {other}", AGREES if centre == other else ALLOWED)
    if centre == other:
        yield Row(
            f"norm and drift of these, {name}",
            f"{step.update_norm!r}, {step.drift!r}; {norms.update_norm!r}, {norms.drift!r}",
            AGREES if step == norms else DIFFERS,
        )
    shared, _ = run(settings.device, Backwards())
    result = f"{other}, {shared}"
    yield Row(f"as ranks share them, {name}", result, AGREES if shared == other else DIFFERS)
    hosted, _ = run("cpu", Shards(device=torch.device(settings.device)))  # where the optimizer steps as well
    result = f"{centre}, {hosted}"
    yield Row(f"the centre in host memory, {name}", result, AGREES if hosted == centre else DIFFERS)


class Backwards(Shards):
    """Makes gradients in another order, as ranks do that divide the tensors among themselves."""

    def gradients(self, parameters: Mapping[str, Tensor], make: Make) -> Iterator[tuple[str, Tensor]]:
        """Yield the last one first."""
        for name in reversed(list(parameters)):
            yield name, make(name)
