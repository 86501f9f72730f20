"""Devices by name, with the numbers of their makers' data sheets."""

import os
from dataclasses import replace

from es_lightning.analysis.cost import Device
from es_lightning.errors import UsageError
from es_lightning.system.affinity import allowed

PCIE_5 = 50.0  # GB/s of 63 in 16 lanes; what is of generation 4 has half of it, as all have by default
NVLINK = {3: 150.0, 4: 225.0, 5: 450.0}  # half of what each generation has in one direction
GPUS = {
    # Memory in GB, bandwidth in TB/s, dense (not sparse) bfloat16 TFLOP/s with float32 sums.
    "h100": Device(
        "h100", "NVIDIA H100 data sheet, SXM", 80, 3.35, tflops=989, host_link=PCIE_5, lane_network=NVLINK[4]
    ),
    "h100-pcie": Device("h100-pcie", "NVIDIA H100 data sheet, PCIe", 80, 2.0, tflops=756, host_link=PCIE_5),
    "h200": Device(
        "h200", "NVIDIA H200 data sheet, SXM", 141, 4.8, tflops=989, host_link=PCIE_5, lane_network=NVLINK[4]
    ),
    "b200": Device(
        "b200", "NVIDIA HGX B200 data sheet", 180, 8.0, tflops=2250, host_link=PCIE_5, lane_network=NVLINK[5]
    ),
    "a100-80": Device(
        "a100-80", "NVIDIA A100 data sheet, 80 GB SXM", 80, 2.039, tflops=312, lane_network=NVLINK[3]
    ),
    "a100-40": Device(
        "a100-40", "NVIDIA A100 data sheet, 40 GB SXM", 40, 1.555, tflops=312, lane_network=NVLINK[3]
    ),
    "l40s": Device("l40s", "NVIDIA L40S data sheet", 48, 0.864, tflops=362),
    "l4": Device("l4", "NVIDIA L4 data sheet", 24, 0.3, tflops=121),
    "rtx4090": Device("rtx4090", "NVIDIA Ada architecture white paper", 24, 1.008, tflops=165.2),
}
CPU = "cpu"

# Of a core of an x86 server with AVX-512 BF16; with them the demo takes about as long as it did there.
CORE_TFLOPS, CORE_NOISE_RATE, CORE_PACKING_RATE = 0.34, 0.15, 0.3
CPU_BANDWIDTH = 0.02
CPU_RESERVE_GB = 1.5  # Python, torch and vLLM


def named(name: str, ranks: int = 1) -> Device:
    """Return the device of a name.

    Args:
        name: of the table, or ``cpu`` for this machine's own.
        ranks: how many share a CPU.

    Raises:
        UsageError: the table has no such name.
    """
    if name == CPU:
        return this_cpu(ranks)
    if name not in GPUS:
        names = ", ".join([*GPUS, CPU])
        raise UsageError(
            f"--device is {name}: give one of {names}; or one of them with --memory_gb, --bandwidth and "
            "--tflops for another one."
        )
    return GPUS[name]


def like(name: str, memory: int) -> Device | None:
    """Return the device that a driver's name means, with the memory that it has; None if it is not here.

    Args:
        name: such as ``NVIDIA H100 80GB HBM3``.
        memory: in bytes.
    """
    words = name.lower().replace("-", " ").split()
    sizes = [one for one in GPUS if one.partition("-")[0] in words or one.replace("rtx", "") in words]
    near = sorted(sizes, key=lambda one: abs(GPUS[one].memory - memory))
    kind = next((one for one in near if ("pcie" in words) == one.endswith("pcie")), None)
    return None if kind is None else replace(GPUS[kind], memory_gb=memory / 1e9)


def this_cpu(ranks: int = 1) -> Device:
    """Return a rank's share of this machine's CPU and memory."""
    cores = len(allowed())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    mine = cores / ranks
    return Device(
        CPU,
        f"this machine with {cores} {'core' if cores == 1 else 'cores'}, whose speed is assumed",
        memory / ranks / 1e9,
        CPU_BANDWIDTH / ranks,
        tflops=CORE_TFLOPS * mine,
        noise_rate=CORE_NOISE_RATE * mine,
        packing_rate=CORE_PACKING_RATE * mine,
        reserve_gb=CPU_RESERVE_GB,
    )
