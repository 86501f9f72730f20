"""The rewards of the same antithetic pairs at several sigmas: what the step-size map is made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from es_lightning.errors import UsageError
from es_lightning.landscape.arrays import Array

LEAST_PAIRS = 4
LEAST_PROMPTS = 4


@dataclass(frozen=True)
class PairRewards:
    """What a probe with antithetic pairs measured.

    Args:
        sigmas: noise scales in ascending order, [S], in units of the weights.
        centre: rewards of the unperturbed model, [P].
        rewards: rewards of the members, float64 [S, 2 K, P]; member 2k is theta + s eps_k, and 2k + 1 is
            theta - s eps_k, with the same eps_k at every sigma.

    Raises:
        UsageError: there are too few pairs or prompts, a sigma is not above 0, or nothing differs.
    """

    sigmas: tuple[float, ...]
    centre: Array
    rewards: Array

    def __post_init__(self) -> None:
        check_sigmas(self.sigmas)
        size, members, prompts = self.rewards.shape
        if size != len(self.sigmas) or self.centre.shape != (prompts,) or members % 2:
            raise ValueError(
                f"rewards {self.rewards.shape} of {len(self.sigmas)} sigmas, {self.centre.shape}"
            )
        check_size(members // 2, prompts)
        if not (np.isfinite(self.rewards).all() and np.isfinite(self.centre).all()):
            raise UsageError("a reward of the probe is not finite: look at the task's reward function.")
        spread = float(np.ptp(self.rewards.mean(axis=-1), axis=-1).max())
        if spread <= 1e-12 * max(1.0, float(np.abs(self.rewards).max())):
            raise UsageError(
                f"all {members} members earned the same at every sigma: there is no slope to measure. Try "
                "larger sigmas, a reward with more steps, or problems that are neither hopeless nor solved."
            )

    @property
    def pairs(self) -> int:
        """K."""
        return int(self.rewards.shape[1] // 2)

    @property
    def odd(self) -> Array:
        """o, [S, K, P]."""
        return (self.rewards[:, ::2] - self.rewards[:, 1::2]) / 2

    @property
    def even(self) -> Array:
        """e, [S, K, P]."""
        return (self.rewards[:, ::2] + self.rewards[:, 1::2]) / 2 - self.centre


def check_sigmas(sigmas: Sequence[float]) -> None:
    """Refuse noise scales that are not above 0, or not in ascending order.

    Raises:
        UsageError: they are.
    """
    if not sigmas or not all(0 < sigma < np.inf for sigma in sigmas):
        raise UsageError(f"sigmas are {list(sigmas)}: give numbers above 0.")
    if list(sigmas) != sorted(set(sigmas)):
        raise UsageError(f"sigmas are {list(sigmas)}: give each once, in ascending order.")


def check_size(pairs: int, prompts: int) -> None:
    """Refuse a probe that is too small for any variance.

    Raises:
        UsageError: it is.
    """
    if pairs < LEAST_PAIRS:
        raise UsageError(f"{pairs} pairs are too few to tell a slope from noise: give {LEAST_PAIRS} or more.")
    if prompts < LEAST_PROMPTS:
        raise UsageError(
            f"{prompts} prompts are too few to tell other prompts' noise: give {LEAST_PROMPTS} or more."
        )
