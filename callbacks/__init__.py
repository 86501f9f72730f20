"""Callbacks, one per file: they watch a run, write its results, and some of them steer it."""

if __name__ == "callbacks":  # importable from the repository root, but then every class would exist twice
    raise ModuleNotFoundError("import es_lightning.callbacks, not callbacks")

from es_lightning.callbacks.best_model import BestModel
from es_lightning.callbacks.early_peak import EarlyPeak
from es_lightning.callbacks.export_hf import ExportHF
from es_lightning.callbacks.forgetting import Forgetting
from es_lightning.callbacks.generation_bar import GenerationBar
from es_lightning.callbacks.generation_timer import GenerationTimer
from es_lightning.callbacks.graceful_stop import GracefulStop
from es_lightning.callbacks.kl_drift import KLDrift
from es_lightning.callbacks.monitor import Monitor
from es_lightning.callbacks.periodic import Periodic
from es_lightning.callbacks.population_health import PopulationHealth
from es_lightning.callbacks.rollout_table import RolloutTable
from es_lightning.callbacks.run_record import RunRecord
from es_lightning.callbacks.run_report import RunReport
from es_lightning.callbacks.sigma_finder import SigmaFinder
from es_lightning.callbacks.update_geometry import UpdateGeometry

__all__ = [
    "BestModel",
    "EarlyPeak",
    "ExportHF",
    "Forgetting",
    "GenerationBar",
    "GenerationTimer",
    "GracefulStop",
    "KLDrift",
    "Monitor",
    "Periodic",
    "PopulationHealth",
    "RolloutTable",
    "RunRecord",
    "RunReport",
    "SigmaFinder",
    "UpdateGeometry",
]
