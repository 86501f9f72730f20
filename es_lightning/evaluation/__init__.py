"""Weights are evaluated: completions, rewards, and what all ranks learn of them."""

from es_lightning.evaluation.evaluator import Evaluator
from es_lightning.evaluation.gather import Outcome
from es_lightning.evaluation.rollouts import Rollouts

__all__ = ["Evaluator", "Outcome", "Rollouts"]
