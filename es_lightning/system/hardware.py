"""The machine that a run was made on, and the commit of the working folder, in words."""

import os
import platform
import subprocess
from pathlib import Path

import torch


def machine(ranks: int = 1) -> str:
    """Describe this machine's accelerators or processor, its memory, and the number of ranks.

    Args:
        ranks: number of processes of the run, on all machines.
    """
    parts = [_accelerators() or _processor(), f"{_memory_gib():.0f} GiB"]
    return ", ".join(parts + ([f"{ranks} ranks"] if ranks > 1 else []))


def commit(folder: Path) -> dict[str, str]:
    """Return commit and branch of the repository around a folder, and whether tracked files have changed.

    Args:
        folder: where to look; outside a repository the result is empty.
    """
    head, branch = _git(folder, "rev-parse", "HEAD"), _git(folder, "rev-parse", "--abbrev-ref", "HEAD")
    if not head:
        return {}
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"commit": head, "branch": branch, "changed": "yes" if changed else "no"}


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _accelerators() -> str:
    if not torch.cuda.is_available():
        return ""
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))


def _processor() -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{cores} CPU cores of {names[0] if names else platform.machine()}"


def _memory_gib() -> float:
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) / 2**30
