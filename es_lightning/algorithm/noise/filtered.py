"""Any kind of noise on some of the parameters; all others are frozen."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Self

import torch
from torch import Tensor

from es_lightning.algorithm.noise.base import Device, Noise, noise_of, require_float32
from es_lightning.algorithm.noise.table import GaussianNoise
from es_lightning.errors import UsageError


class FilteredNoise(Noise):
    """Noise on the parameters whose names match; the others keep the base model's bits.

    Patterns are those of file names: ``*`` is any text, ``?`` any character, ``[01]`` one of some. A
    parameter is perturbed if a pattern of ``include`` matches its Hugging Face name and none of ``exclude``
    does.

    Args:
        noise: the kind of noise; None takes independent Gaussian noise.
        include: patterns of the parameters to perturb; None takes all.
        exclude: patterns of the parameters to freeze.

    Raises:
        UsageError: there are no patterns, or they are no lists of texts.

    Example::

        FilteredNoise(exclude=["*norm*", "*embed_tokens*"])  # norms and embeddings frozen
        FilteredNoise(include=["model.layers.1?.*"])  # layers 10 to 19 alone
    """

    version = "filtered-1"

    def __init__(
        self,
        noise: Noise | None = None,
        include: list[str] | None = None,
        exclude: list[str] | None = None,
    ) -> None:
        if not include and not exclude:
            raise UsageError("FilteredNoise has no patterns: give include, exclude or both.")
        for patterns in (include or [], exclude or []):
            if not isinstance(patterns, list) or not all(isinstance(each, str) for each in patterns):
                raise UsageError(f"FilteredNoise has {patterns} for patterns: give a list of texts.")
        self.noise = noise or GaussianNoise()
        self.include, self.exclude = list(include or ["*"]), list(exclude or [])
        self.rank = self.noise.rank

    def settings(self) -> dict[str, Any]:
        """Return the identity of the noise, and the patterns."""
        return {"noise": self.noise.identity, "include": self.include, "exclude": self.exclude}

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        """Make the noise that has these settings."""
        return cls(noise_of(str(settings["noise"])), settings["include"], settings["exclude"])

    def perturbs(self, name: str, shape: Sequence[int]) -> bool:
        """Tell whether the patterns let a parameter through, and the kind of noise perturbs it."""
        chosen = _matches(name, self.include) and not _matches(name, self.exclude)
        return chosen and self.noise.perturbs(name, shape)

    def check(self, shapes: Mapping[str, Sequence[int]]) -> None:
        """Refuse a model of which nothing would be perturbed, and a pattern that matches nothing.

        Raises:
            UsageError: the message names the pattern.
        """
        for pattern in self.include + self.exclude:
            if not any(_matches(name, [pattern]) for name in shapes):
                raise UsageError(
                    f"the pattern {pattern} of model.noise matches none of the {len(shapes)} parameters, "
                    f"which are called {_some(list(shapes))}: mend or remove it."
                )
        super().check(shapes)

    def sample(self, seed: int, name: str, shape: Sequence[int], device: Device = "cpu") -> Tensor:
        """See ``Noise.sample``; zeros for a parameter that is frozen."""
        if self.perturbs(name, shape):
            return self.noise.sample(seed, name, shape, device)
        return torch.zeros(tuple(shape), device=device)

    def factors(
        self, seed: int, name: str, shape: Sequence[int], device: Device = "cpu"
    ) -> tuple[Tensor, Tensor]:
        """See ``Noise.factors``; of a parameter that is perturbed."""
        return self.noise.factors(seed, name, shape, device)

    def all_factors(
        self, seed: int, shapes: Mapping[str, Sequence[int]], device: Device = "cpu"
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """See ``Noise.all_factors``; of parameters that are perturbed."""
        return self.noise.all_factors(seed, shapes, device)

    def perturbed(self, seed: int, name: str, centre: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
        """See ``Noise.perturbed``."""
        if self.perturbs(name, centre.shape):
            return self.noise.perturbed(seed, name, centre, scale, dtype)
        require_float32(centre)
        return centre.detach().to(dtype, copy=True).contiguous()

    def accumulate_(self, seed: int, name: str, total: Tensor, weight: float) -> None:
        """See ``Noise.accumulate_``."""
        if self.perturbs(name, total.shape):
            self.noise.accumulate_(seed, name, total, weight)

    def accumulate_all_(
        self, seeds: Sequence[int], name: str, total: Tensor, weights: Sequence[float]
    ) -> None:
        """See ``Noise.accumulate_all_``."""
        if self.perturbs(name, total.shape):
            self.noise.accumulate_all_(seeds, name, total, weights)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _some(names: list[str]) -> str:
    """Name the first, the middle and the last of the parameters."""
    return ", ".join(dict.fromkeys((names[0], names[len(names) // 2], names[-1]))) if names else "nothing"
