"""Kinds of noise. All are imported here: ``noise_of`` finds a version among the kinds that exist."""

from es_lightning.algorithm.noise.base import Device, Noise, member_seed, noise_of
from es_lightning.algorithm.noise.table import CorrelatedNoise, GaussianNoise, TableNoise

__all__ = ["CorrelatedNoise", "Device", "GaussianNoise", "Noise", "TableNoise", "member_seed", "noise_of"]
