"""Kinds of noise. Every kind must be imported here: ``noise_of`` searches the classes that are loaded."""

from es_lightning.algorithm.noise.base import Device, Noise, member_seed, noise_of
from es_lightning.algorithm.noise.filtered import FilteredNoise
from es_lightning.algorithm.noise.low_rank import LowRankNoise
from es_lightning.algorithm.noise.table import CorrelatedNoise, GaussianNoise, RademacherNoise, TableNoise

__all__ = [
    "CorrelatedNoise",
    "Device",
    "FilteredNoise",
    "GaussianNoise",
    "LowRankNoise",
    "Noise",
    "RademacherNoise",
    "TableNoise",
    "member_seed",
    "noise_of",
]
