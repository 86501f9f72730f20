"""Points of weight space that are written as weights over seeds: theta + sum_k w_k eps_k."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import numpy as np
import torch
from torch import nn

from es_lightning.algorithm.noise import Noise
from es_lightning.evaluation.evaluator import Evaluator
from es_lightning.landscape.arrays import Array
from es_lightning.records import Member, Prompt


class SeedSpace:
    """A second model beside the centre that is moved to points of the span of some seeds.

    It takes as much memory as the centre. All ranks have to make the same calls.

    Args:
        evaluator: with an engine that has been started.
        centre: theta, float32 parameters under Hugging Face names; not changed.
        noise: kind of noise.
        seeds: N 64-bit keys.
        sigma: noise scale of the members around a point, in units of the weights.
        prompts: P encoded prompts.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        centre: nn.Module,
        noise: Noise,
        seeds: Sequence[int],
        sigma: float,
        prompts: Sequence[Prompt],
    ) -> None:
        self.evaluator, self.centre, self.noise = evaluator, centre, noise
        self.seeds, self.sigma, self.prompts = list(seeds), sigma, list(prompts)
        self._elsewhere = deepcopy(centre)

    @torch.no_grad()
    def moved(self, weights: Array) -> nn.Module:
        """Move the second model to theta + sum_k w_k eps_k, in float32, and return it.

        Args:
            weights: w, [N], in units of the weights of the model.
        """
        used = [(seed, float(weight)) for seed, weight in zip(self.seeds, weights, strict=True) if weight]
        seeds, scales = [seed for seed, _ in used], [weight for _, weight in used]
        here = dict(self.centre.named_parameters())
        for name, parameter in self._elsewhere.named_parameters():
            parameter.copy_(here[name])
            if used and self.noise.perturbs(name, parameter.shape):
                self.noise.accumulate_all_(seeds, name, parameter.data, scales)
        return self._elsewhere

    def point(self, weights: Array) -> Array:
        """Return the rewards at theta + sum_k w_k eps_k, float64 [P]."""
        rollouts = self.evaluator.rollouts
        rollouts.load(rollouts.unperturbed(self.moved(weights)))
        return np.asarray(self.evaluator.evaluate(self.prompts).rewards, dtype=np.float64)

    def members(self, weights: Array) -> Array:
        """Return the mean rewards of the N members theta + sum_k w_k eps_k + sigma eps_n, float64 [N]."""
        members = [Member(index, seed) for index, seed in enumerate(self.seeds)]
        place = self.moved(weights)
        outcome = self.evaluator.members(place, members, self.noise, self.sigma, self.prompts)
        return np.asarray(outcome.rewards.double().mean(dim=1).numpy())
