"""All that a measurement of curvature has found, as its report takes it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import numpy as np

from es_lightning.landscape.arrays import Array
from es_lightning.landscape.curvature.budget import SampledHessian
from es_lightning.landscape.curvature.curvature import (
    Curvature,
    Pairs,
    curvature,
    offset_per_pair,
    repeat_variance,
)
from es_lightning.landscape.curvature.edge import SamplingNoise
from es_lightning.landscape.curvature.settings import CurvatureSettings
from es_lightning.landscape.curvature.truth import Truth
from es_lightning.landscape.probing.results import ProbeResults
from es_lightning.landscape.probing.store import ABOUT

LIKELIHOOD, REWARD = "log-likelihood", "reward"


@dataclass(frozen=True)
class Measured:
    """All that was measured.

    Args:
        model: its name.
        task: its name.
        settings: of the run.
        results: of the pairs: the rewards of each prompt under each of ``objectives``.
        truth: by autograd; None where the log-likelihood was left out.
        sampled: Lanczos on common seeds, under ``seeds`` and ``control``.
    """

    model: str
    task: str
    settings: CurvatureSettings
    results: ProbeResults
    truth: Truth | None
    sampled: dict[str, SampledHessian]

    @property
    def objectives(self) -> list[str]:
        """What was measured, in the order of the results; slope and curvature are those of the first."""
        asked = ((LIKELIHOOD, self.settings.likelihood), (REWARD, self.settings.rewards))
        return [name for name, wanted in asked if wanted]

    @property
    def unit(self) -> str:
        """That of the first objective."""
        return "nats" if self.settings.likelihood else "reward"

    def pairs(self, sigma: float, objective: str) -> Pairs:
        """Return the pairs at a sigma under one objective, of a reward in steps with the centre's luck."""
        pairs = self._pairs(sigma, objective)
        return pairs if objective == LIKELIHOOD else replace(pairs, offset=self._offset())

    def _pairs(self, sigma: float, objective: str) -> Pairs:
        own = self._own(objective)
        rewards = self.results.rewards(sigma)[0][:, own]
        return Pairs(rewards[::2], rewards[1::2], self.results.centre[own], sigma)

    def _own(self, objective: str) -> slice:
        """Return which columns of the results are those of an objective."""
        count, place = self.settings.prompts, self.objectives.index(objective)
        return slice(place * count, (place + 1) * count)

    def _offset(self) -> Array:
        """Return how much more than the centre its neighbours earn, per pair, [K]; NaN of one sigma alone."""
        if self.knows_traces_of(REWARD):
            near, far = sorted(self.settings.sigmas)[:2]
            return offset_per_pair(self._pairs(near, REWARD), self._pairs(far, REWARD))
        return np.full(self.settings.pairs, np.nan)

    def knows_traces_of(self, objective: str) -> bool:
        """Whether tr H can be told from the centre's luck: of what is smooth, or at two sigmas."""
        return objective == LIKELIHOOD or len(self.settings.sigmas) > 1

    def curvature_at(self, sigma: float, objective: str, of_prompts: bool = False) -> Curvature:
        """Return slope and curvature of one objective, without the engine's noise.

        Args:
            sigma: one of the settings'.
            objective: one of ``objectives``.
            of_prompts: whether it is that of all prompts, from which these are drawn.
        """
        return curvature(self.pairs(sigma, objective), self.noise_of(objective), of_prompts)

    @property
    def at_largest(self) -> Curvature:
        """Slope and curvature at the largest sigma, that of Lanczos on common seeds."""
        return self.curvature_at(max(self.settings.sigmas), self.objectives[0])

    def noise(self, trace_square: float | None = None) -> SamplingNoise:
        """Return what the common seeds do to eigenvalues.

        Args:
            trace_square: tr H^2; None takes what the pairs say of it.
        """
        found = self.at_largest
        square = found.trace_square.value if trace_square is None else trace_square
        return SamplingNoise(found.trace.value, square, self.settings.seeds)

    def noise_of(self, objective: str) -> float:
        """Variance of one measurement of a mean reward, from the centre's before and after the pairs.

        It has one degree of freedom. 0 where the engine repeats itself, and of the log-likelihood, which is
        taken to have none: odd parts and bends lie beside autograd's.

        Args:
            objective: one of ``objectives``.
        """
        if objective == LIKELIHOOD:
            return 0.0
        text = (self.results.folder / ABOUT).read_text(encoding="utf-8")
        own = self._own(objective)
        after = np.array(json.loads(text)["centre_rewards_after"])[own]
        return repeat_variance(np.array([[self.results.centre[own].mean(), after.mean()]]))

    @property
    def dimension(self) -> int:
        """Number D of weights."""
        return int(self.results.header["parameters"])
