"""What a run's machine is busy with: MLflow's own monitors of processors, memory, disk, network and GPUs.

MLflow's ``SystemMetricsMonitor`` sends to the server itself, and ends for good when the server is away once.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor

SECONDS = 10.0  # between two measurements, as in MLflow

log = logging.getLogger(__name__)


class SystemMetrics:
    """Measures from a thread of its own, and once more when it is stopped.

    Args:
        publish: called with the metrics of each measurement.
    """

    def __init__(self, publish: Callable[[Mapping[str, float]], None]) -> None:
        self._publish = publish
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread, once; what cannot be measured here is left out."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="system metrics", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Measure once more, and end the thread."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def _work(self) -> None:
        from mlflow.environment_variables import MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL

        try:
            monitors = _monitors()
            _measure(monitors)  # the use of processors is counted from here on
            seconds = MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL.get() or SECONDS
            while not self._stopped.wait(seconds):
                self._publish(_measure(monitors))
            self._publish(_measure(monitors))
        except Exception as error:  # a monitor's library may raise anything, and no run ends for that
            log.warning("The system is not watched any more: %s: %s", type(error).__name__, error)


def _measure(monitors: list[BaseMetricsMonitor]) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for monitor in monitors:
        monitor.collect_metrics()
        metrics |= {key: float(value) for key, value in monitor.aggregate_metrics().items()}
        monitor.clear_metrics()
    return metrics


def _monitors() -> list[BaseMetricsMonitor]:
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor
    from mlflow.system_metrics.metrics.rocm_monitor import ROCMMonitor

    monitors: list[BaseMetricsMonitor] = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    for kind in (GPUMonitor, ROCMMonitor):
        with suppress(Exception):  # no such GPU, or no library for it: MLflow tells the two by any exception
            monitors.append(kind())
            break
    return monitors
