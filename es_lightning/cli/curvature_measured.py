"""All that a measurement of curvature has found, as its report takes it."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np

from es_lightning.landscape.curvature.budget import SampledHessian
from es_lightning.landscape.curvature.curvature import Curvature, Pairs, curvature, repeat_variance
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
        """Return the pairs at a sigma under one objective."""
        count, place = self.settings.prompts, self.objectives.index(objective)
        own = slice(place * count, (place + 1) * count)
        rewards = self.results.rewards(sigma)[0][:, own]
        return Pairs(rewards[::2], rewards[1::2], self.results.centre[own], sigma)

    def curvature_at(self, sigma: float, of_prompts: bool = False) -> Curvature:
        """Return slope and curvature of the first objective, without the engine's noise.

        The log-likelihood is taken to have none: odd parts and bends lie beside autograd's.

        Args:
            sigma: one of the settings'.
            of_prompts: whether it is that of all prompts, from which these are drawn.
        """
        noise = 0.0 if self.settings.likelihood else self.repeat_variance
        return curvature(self.pairs(sigma, self.objectives[0]), noise, of_prompts)

    @property
    def at_largest(self) -> Curvature:
        """Slope and curvature at the largest sigma, that of Lanczos on common seeds."""
        return self.curvature_at(max(self.settings.sigmas))

    def noise(self, trace_square: float | None = None) -> SamplingNoise:
        """Return what the common seeds do to eigenvalues.

        Args:
            trace_square: tr H^2; None takes what the pairs say of it.
        """
        found = self.at_largest
        square = found.trace_square.value if trace_square is None else trace_square
        return SamplingNoise(found.trace.value, square, self.settings.seeds)

    @property
    def repeat_variance(self) -> float:
        """Variance of one measurement of a mean reward, from the centre's before and after the pairs.

        It has one degree of freedom. 0 where the engine repeats itself.
        """
        text = (self.results.folder / ABOUT).read_text(encoding="utf-8")
        after = float(np.mean(json.loads(text)["centre_rewards_after"]))
        return repeat_variance(np.array([[self.results.centre.mean(), after]]))

    @property
    def dimension(self) -> int:
        """Number D of weights."""
        return int(self.results.header["parameters"])
