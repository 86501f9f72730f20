"""Operations per tensor and member that a device is asked for, by torch's profiler."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn, profiler

from benchmarks.gpu_check.measure import synchronize
from benchmarks.gpu_check.rows import Row, Settings, attempted
from es_lightning.algorithm.noise import GaussianNoise, LowRankNoise, Noise
from es_lightning.algorithm.population import Population
from es_lightning.algorithm.tensors import checksum, drift
from es_lightning.algorithm.update import gradient
from es_lightning.models import BaseModel

KINDS: dict[str, Callable[[], Noise]] = {
    "Gaussian, eager": lambda: GaussianNoise(False),
    "Gaussian, compiled": lambda: GaussianNoise(True),
    "rank 1, eager": lambda: LowRankNoise(1, compile=False),
}


def rows(settings: Settings) -> Iterator[Row]:
    """Count what perturbing, updating, checksum and drift launch."""
    base = BaseModel(settings.base)
    centre: nn.Module = base.load().to(settings.device)
    named = dict(centre.named_parameters())
    member, weight = Population(2, settings.seed).members(0)[:1], torch.ones(1, dtype=torch.float64)
    for kind, make in KINDS.items():
        noise = make()

        def perturb(noise: Noise = noise) -> None:
            for name, theta in named.items():
                noise.perturbed(member[0].seed, name, theta, settings.sigma, torch.bfloat16)

        def update(noise: Noise = noise) -> list[Tensor]:
            return [gradient(name, theta, member, weight, noise) for name, theta in named.items()]

        for what, act in (("perturb", perturb), ("update", update)):
            title = f"{what}, {kind}, per tensor and member"
            yield from attempted(title, partial(_counted, settings, title, act, len(named)))
    for what, act in (
        ("checksum", lambda: checksum(named.items())),
        ("drift", lambda: drift(base.weights, centre)),
    ):
        title = f"{what}, per tensor"
        yield from attempted(title, partial(_counted, settings, title, act, len(named)))


def _counted(settings: Settings, title: str, act: Callable[[], object], tensors: int) -> Iterator[Row]:
    for _ in range(2):  # compiles, and makes tables
        act()
    synchronize(settings.device)
    with profiler.profile(activities=list(profiler.supported_activities())) as found:
        act()
        synchronize(settings.device)
    count, what = _operations(found, settings.device)
    yield Row(title, f"{count / tensors:.1f} {what}")


def _operations(found: profiler.profile, device: str) -> tuple[int, str]:
    """Count what runs on the device; on a CPU, operations of torch that no other one has called."""
    events = [event for event in found.events() or () if not event.is_user_annotation]
    if device == "cpu":
        own = [each for each in events if each.cpu_parent is None and each.name.startswith("aten::")]
        return len(own), "operations"
    return sum(each.device_type != profiler.DeviceType.CPU for each in events), "launches and copies"
