"""The machine that a run was made on, what its CPU is good at, and the commit of the working folder."""

import os
import platform
import subprocess
from pathlib import Path

import torch

from es_lightning.system.affinity import allowed

# Multiplication of bfloat16 numbers in hardware: two sets of instructions on x86, one on Arm.
BFLOAT16_INSTRUCTIONS = ("amx_bf16", "avx512_bf16", "bf16")
INSTRUCTIONS = ("avx2", "avx512_f", *BFLOAT16_INSTRUCTIONS)


def computes_in_bfloat16() -> bool:
    """Tell whether this machine's CPU has instructions for bfloat16; without them float32 is faster."""
    return any(name in BFLOAT16_INSTRUCTIONS for name in instructions())


def instructions() -> list[str]:
    """Return those of the CPU's sets of instructions that decide how fast it multiplies matrices."""
    has = torch.cpu.get_capabilities()
    return [name for name in INSTRUCTIONS if has.get(name)]


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
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cores = len(allowed())
    words = f"{cores} CPU core{'s' if cores > 1 else ''} of {names[0] if names else platform.machine()}"
    return f"{words} with {', '.join(instructions())}" if instructions() else words


def _memory_gib() -> float:
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) / 2**30


def free_memory(device: torch.device) -> int:
    """Return the bytes that are free, or that the system can make free, of an accelerator or of this machine.

    Args:
        device: the accelerator, or a CPU.
    """
    if device.type == "cuda":
        free, _ = torch.accelerator.get_memory_info(device)
        return int(free)
    info = Path("/proc/meminfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    told = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return told[0] if told else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
