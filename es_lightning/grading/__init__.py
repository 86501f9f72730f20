"""Rewards: separate processes grade completions, and are killed at their time-out."""

from es_lightning.system.moved import names_of

__getattr__ = names_of("grading")
