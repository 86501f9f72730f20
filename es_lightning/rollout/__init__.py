"""Rollout engines take weights and generate completions; they know nothing of evolution strategies."""

from es_lightning.rollout.complete import complete
from es_lightning.rollout.encode import encode
from es_lightning.rollout.engine import RolloutEngine, Sampling
from es_lightning.rollout.hf import HFEngine
from es_lightning.rollout.vllm import VLLMEngine

__all__ = ["HFEngine", "RolloutEngine", "Sampling", "VLLMEngine", "complete", "encode"]
