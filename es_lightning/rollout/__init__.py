"""Rollout engines take weights and generate completions; they know nothing of evolution strategies."""

from es_lightning.rollout.adapters import AdapterEngine
from es_lightning.rollout.complete import complete, complete_each
from es_lightning.rollout.encode import encode
from es_lightning.rollout.engine import RolloutEngine, Sampling
from es_lightning.rollout.hf import HFEngine
from es_lightning.rollout.vllm import VLLMEngine
from es_lightning.rollout.vllm_adapter import VLLMAdapterEngine

__all__ = [
    "AdapterEngine",
    "HFEngine",
    "RolloutEngine",
    "Sampling",
    "VLLMAdapterEngine",
    "VLLMEngine",
    "complete",
    "complete_each",
    "encode",
]
