"""What a baseline is trained with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from es_lightning.errors import UsageError

METHODS: Mapping[str, Mapping[str, Any]] = {
    "grpo": {"loss_type": "grpo", "scale_rewards": "group"},
    "dr_grpo": {"loss_type": "dr_grpo", "scale_rewards": "none"},
    "dapo": {"loss_type": "dapo", "scale_rewards": "group", "epsilon_high": 0.28},
    "rloo": {},
}
"""Options of TRL by method: GRPO (arXiv 2402.03300), Dr. GRPO (2503.20783: no division by the standard
deviation nor by the length), DAPO (2503.14476: token-level loss, a higher upper clip), RLOO (2402.14740)."""
PRECISIONS = ("auto", "float32", "bfloat16")


@dataclass(frozen=True)
class BaselineSettings:
    """How a policy is trained by reinforcement learning.

    The prompts of an update are those that a generation of ES draws: ``data.prompts_per_generation`` of them.

    Args:
        method: ``grpo``, ``dr_grpo``, ``dapo`` or ``rloo``.
        updates: policy updates, one per batch of prompts.
        group: completions of each prompt, G.
        lr: learning rate of AdamW.
        beta: price of a nat from the base model; above 0, a second copy of the base is held.
        epsilon: clip of the probability ratio; it counts only where an update has several optimizer steps.
        temperature: of the sampled completions.
        passes: how often an update goes through its completions.
        steps_per_pass: optimizer steps of a pass, each on its own share of the completions.
        minibatch: completions of one backward pass; the gradient of a step is their mean.
        max_grad_norm: gradients of a larger norm are scaled down.
        precision: of the matrix products of gradients, ``float32`` or ``bfloat16``; ``auto`` is that of the
            engine, which samples, so that ES and its baselines compute alike. Weights, gradients and the
            optimizer's moments stay float32.
        evaluate_every: updates between two validations.
        seed: of the samples; None takes the run's, ``seed_everything``.

    Raises:
        UsageError: a value is outside its range.
    """

    method: str = "grpo"
    updates: int = 50
    group: int = 8
    lr: float = 1e-6
    beta: float = 0.0
    epsilon: float = 0.2
    temperature: float = 1.0
    passes: int = 1
    steps_per_pass: int = 1
    minibatch: int = 16
    max_grad_norm: float = 1.0
    precision: str = "auto"
    evaluate_every: int = 10
    seed: int | None = None

    def __post_init__(self) -> None:
        """Refuse what TRL could not train with."""
        if self.method not in METHODS:
            raise UsageError(f"baseline.method is {self.method}: give one of {', '.join(METHODS)}.")
        if self.precision not in PRECISIONS:
            raise UsageError(f"baseline.precision is {self.precision}: give one of {', '.join(PRECISIONS)}.")
        for name, least in (
            ("updates", 1),
            ("group", 2),
            ("passes", 1),
            ("steps_per_pass", 1),
            ("minibatch", 1),
            ("evaluate_every", 1),
        ):
            value = getattr(self, name)
            if value < least:
                raise UsageError(f"baseline.{name} is {value}: give at least {least}.")
        for name in ("lr", "epsilon", "temperature", "max_grad_norm"):
            if not 0 < getattr(self, name) < math.inf:
                raise UsageError(f"baseline.{name} is {getattr(self, name)}: give a number above 0.")
        if not 0 <= self.beta < math.inf:
            raise UsageError(f"baseline.beta is {self.beta}: give 0 or more.")

    def check_batch(self, prompts: int) -> None:
        """Refuse minibatches that do not divide the completions of an optimizer step.

        Args:
            prompts: of an update.

        Raises:
            UsageError: the message says which numbers would do.
        """
        completions, steps = prompts * self.group, self.steps_per_pass
        if completions % steps:
            near = max(number for number in range(1, steps) if completions % number == 0)
            raise UsageError(
                f"baseline.steps_per_pass is {steps}, which does not divide the {completions} completions of "
                f"an update ({prompts} prompts, {self.group} each): give {near}, for example."
            )
        if completions // steps % self.minibatch:
            near = max(size for size in range(1, self.minibatch) if completions // steps % size == 0)
            raise UsageError(
                f"baseline.minibatch is {self.minibatch}, which does not divide the {completions // steps} "
                f"completions of an optimizer step ({prompts} prompts, {self.group} each, {steps} steps): "
                f"give {near}, for example."
            )

    @property
    def optimizer_steps(self) -> int:
        """Optimizer steps of an update."""
        return self.passes * self.steps_per_pass

    def halved(self, engine: torch.dtype) -> bool:
        """Whether gradients are computed in bfloat16.

        Args:
            engine: what the engine that samples and evaluates computes in. Beside float16, ``auto`` is
                float32: its gradients would need a loss scale.
        """
        return self.precision == "bfloat16" or (self.precision == "auto" and engine == torch.bfloat16)

    def options(self, prompts: int, max_tokens: int, engine: torch.dtype) -> dict[str, Any]:
        """Return the arguments of TRL's config.

        Args:
            prompts: of an update.
            max_tokens: most new tokens of a completion.
            engine: what the engine that samples and evaluates computes in.
        """
        return {
            **METHODS[self.method],
            "bf16": self.halved(engine),
            "max_steps": self.updates * self.optimizer_steps,
            "num_iterations": self.passes,
            "num_generations": self.group,
            "per_device_train_batch_size": self.minibatch,
            "gradient_accumulation_steps": prompts * self.group // self.minibatch // self.steps_per_pass,
            "steps_per_generation": prompts * self.group // self.minibatch,
            "max_completion_length": max_tokens,
            "temperature": self.temperature,
            "learning_rate": self.lr,
            "lr_scheduler_type": "constant",
            "beta": self.beta,
            "epsilon": self.epsilon,
            "max_grad_norm": self.max_grad_norm,
            "seed": self.seed,
        }
