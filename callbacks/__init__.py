"""Monitors: one callback per file, each reads ``outputs["generation"]`` and logs or stops."""

if __name__ == "callbacks":  # a second identity of every class, found from the repository root
    raise ModuleNotFoundError("import es_lightning.callbacks, not callbacks")

from es_lightning.callbacks.generation_bar import GenerationBar
from es_lightning.callbacks.graceful_stop import GracefulStop
from es_lightning.callbacks.monitor import Monitor
from es_lightning.callbacks.run_record import RunRecord
from es_lightning.callbacks.run_report import RunReport

__all__ = ["GenerationBar", "GracefulStop", "Monitor", "RunRecord", "RunReport"]
