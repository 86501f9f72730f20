"""Where the centre of a run is: on the device beside the engine, or in host memory."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch
from torch import nn

from es_lightning.algorithm.noise import Noise
from es_lightning.analysis.cost import Device
from es_lightning.analysis.devices import this_cpu
from es_lightning.analysis.measured import size_for, slot_rank
from es_lightning.analysis.placement import Where, place
from es_lightning.analysis.room import Case, Engine
from es_lightning.distributed.ranks import Ranks
from es_lightning.distributed.shards import without_absent
from es_lightning.evaluation.rollouts import Rollouts
from es_lightning.models import BaseModel
from es_lightning.models.size import size_of
from es_lightning.rollout import AdapterEngine, RolloutEngine
from es_lightning.rollout.engine import model_dtype
from es_lightning.rollout.vllm_adapter import MOST
from es_lightning.system.page_lock import PageLock

log = logging.getLogger(__name__)
OPTIONS = ("memory_fraction", "kv_cache_gib", "batch_size", "tensor_parallel_size", "options")


class CentrePlace:
    """Keeps the centre where ``model.centre_device`` wants it.

    Args:
        wanted: what it says.
    """

    def __init__(self, wanted: Where) -> None:
        self.wanted: Where = wanted
        self.device: torch.device | None = None
        """That tensors pass through on their way out of host memory; None if the centre is on the device."""
        self._lock: PageLock | None = None

    def decide(self, case: Case, device: torch.device, ranks: Ranks) -> int:
        """Decide where the centre is, before anything is loaded; all ranks have to call it.

        It is in the same place on all ranks, since optimizers may round otherwise on other devices.

        Args:
            case: what the device has to hold, with the centre on it.
            device: that this rank computes on.
            ranks: of the run; the first one writes it into the log.

        Returns:
            The bytes of the device that loads and updates need beside the centre and the engine.
        """
        on_host, why = place(case, self.wanted)
        others = ranks.exchange(b"host" if on_host else b"device")
        if not on_host and b"host" in others:
            on_host, why = True, f"the device of rank {others.index(b'host')} has no room for it"
        self.device = device if on_host else None
        if ranks.rank == 0:
            log.info("The centre is %s: %s.", "in host memory" if on_host else "on the device", why)
        decided = replace(case, on_host=on_host)
        return int(decided.optimizer + decided.passing)

    def put(self, centre: nn.Module, device: torch.device) -> None:
        """Put the centre in its place.

        Args:
            centre: in host memory, or in its place already.
            device: that the run computes on.

        Raises:
            UsageError: the system refuses to lock so much memory.
        """
        if self.device is None:
            with without_absent(centre):
                centre.to(device)
        elif device.type == "cuda" and self._lock is None:
            self._lock = PageLock(held for held in centre.parameters() if not held.is_meta)

    def release(self) -> None:
        """Unlock the centre's memory."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None


def case_of(
    rollouts: Rollouts,
    base: BaseModel,
    noise: Noise,
    state: float,
    prompts: int,
    members: int,
    device: torch.device,
    shards: int = 1,
) -> Case:
    """Return what a device has to hold in a run, with the centre on it, as ``es-lightning plan`` computes it.

    Args:
        rollouts: whose prompts have been reserved.
        base: the base model, of which only the configuration is read.
        noise: of the run.
        state: bytes per parameter of the optimizer's state.
        prompts: P of a generation.
        members: of this lane.
        device: that the run computes on.
        shards: ranks of a lane that hold the centre together.
    """
    engine, samples = rollouts.engine, rollouts.sampling.n
    place = this_cpu() if device.type == "cpu" else _accelerator(device)
    as_adapters = isinstance(engine, AdapterEngine)
    dtype = model_dtype(engine.dtype_name, base.dtype, device)
    takes = Engine.of(_options(engine), place, samples)
    if as_adapters:
        held = min(members, getattr(engine, "max_loras", None) or MOST)
        takes = takes.with_adapters(held, slot_rank(noise.rank))
    longest = float(rollouts.longest)
    return Case(
        size=size_for(size_of(base.config, base.blueprint), noise, dtype, as_adapters),
        device=place,
        engine=takes,
        state=state,
        sequences=prompts * samples * max(takes.adapters, 1),
        tokens=longest,
        context=longest,
        longest=longest,
        shards=shards,
    )


def _options(engine: RolloutEngine) -> dict[str, object]:
    return {name: getattr(engine, name) for name in OPTIONS if hasattr(engine, name)}


def _accelerator(device: torch.device) -> Device:
    _, total = torch.accelerator.get_memory_info(device)
    return Device(device.type, "this machine", memory_gb=total / 1e9)
