"""Evaluating weights: generate completions, grade them, and gather the rewards of all ranks."""

from es_lightning.evaluation.evaluator import Evaluator
from es_lightning.evaluation.gather import Outcome
from es_lightning.evaluation.progress import Announcer, Progress, Stage
from es_lightning.evaluation.rollouts import Rollouts

__all__ = ["Announcer", "Evaluator", "Outcome", "Progress", "Rollouts", "Stage"]
